"""The steps of the workflow by hand."""

import argparse
import difflib
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from frankenlab.config import experiment as config
from frankenlab.estimate.resources import predict
from frankenlab.estimate.summary import grid_summary
from frankenlab.estimate.throughput import given_speeds
from frankenlab.io.errors import UserError, excerpt
from frankenlab.plans import grid
from frankenlab.plans.plan import Plan, omissions, parse
from frankenlab.runtime import clean as clearing


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command `frankenlab`; 0 on success, 2 on wrong input."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options.run(options)
    except UserError as error:
        print(f"frankenlab: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frankenlab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    evaluate = commands.add_parser("evaluate", help="score plans on tasks: a row per document")
    evaluate.add_argument("model", type=Path, metavar="MODEL_DIR", help="Hugging Face or EXL2")
    evaluate.add_argument("--plan", action="append", required=True, help='"0:20,10:30", "base"')
    evaluate.add_argument("--task", action="append", required=True, help="a task of the config")
    evaluate.add_argument("--config", type=Path, default=config.default_file())
    evaluate.add_argument("--stage", choices=("search", "select", "confirm"), help="default: all")
    evaluate.add_argument("--limit", type=_positive, help="most documents a task")
    evaluate.add_argument(
        "--engine", default="torch", choices=("torch", "exllamav2"), help="exllamav2: float16, cuda"
    )
    evaluate.add_argument(
        "--dtype", choices=config.PRECISIONS, help="default: bfloat16; exllamav2: float16"
    )
    evaluate.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    evaluate.add_argument("--store", type=Path, default=Path("results/store"))
    evaluate.add_argument("--output", type=Path, required=True, help="a .parquet file")
    evaluate.set_defaults(run=_evaluate)

    plans = commands.add_parser("plans", help="print the grid of a config and what it costs")
    plans.add_argument("--config", type=Path, default=config.default_file())
    plans.add_argument("--summary", action="store_true", help="without the list of plans")
    plans.add_argument(
        "--tokens-per-second",
        metavar="SPEED",
        help='of the base: "4000" (of the first model) or "llama-7b=4000,llama-13b=2200"; '
        "default: as `make speed` measured",
    )
    plans.set_defaults(run=_plans)

    fetch = commands.add_parser("fetch", help="download the models and data of a config")
    fetch.add_argument("--config", type=Path, default=config.default_file())
    fetch.set_defaults(run=_fetch)

    export = commands.add_parser("materialize", help="write a plan as a standalone checkpoint")
    export.add_argument("model", type=Path, metavar="MODEL_DIR")
    export.add_argument("--plan", required=True)
    export.add_argument("--output", type=Path, required=True, help="a new directory")
    export.set_defaults(run=_materialize)

    clear = commands.add_parser(
        "clear", help="after a kill: cancel orphan SLURM jobs, remove a stale lock and leftovers"
    )
    clear.set_defaults(run=_clear)
    return parser


def _evaluate(options: argparse.Namespace) -> None:
    # Imported here: these take seconds, and the other commands do not need them.
    import pandas as pd

    from frankenlab.evaluate import runner as evaluation
    from frankenlab.evaluate.model_spec import ModelSpec
    from frankenlab.models.inspect import model_info

    settings = config.load(options.config).tasks
    for name in options.task:
        if name not in settings:
            near = difflib.get_close_matches(name, settings, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"it has {', '.join(settings)}"
            raise UserError(f'task "{name}": not in {options.config}; {hint}')
    n_layers = model_info(options.model).n_layers
    plans = _distinct([parse(text, n_layers) for text in options.plan])
    _notice_omissions(plans)
    scorer = ModelSpec.for_directory(options.model, options.dtype, options.device, options.engine)
    tables = [
        evaluation.evaluate_task(
            scorer,
            plans,
            settings[name],
            stage=options.stage,
            limit=options.limit,
            store_root=options.store,
        )
        for name in options.task
    ]
    evaluation.write_scores(pd.concat(tables, ignore_index=True), options.output)


def _distinct(plans: Sequence[Plan]) -> list[Plan]:
    unique = list(dict.fromkeys(plans))
    if len(unique) < len(plans):
        twice = ", ".join(excerpt(plan.text) for plan in unique if plans.count(plan) > 1)
        print(f"notice: listed more than once, folded: {twice}", file=sys.stderr)
    return unique


def _notice_omissions(plans: Sequence[Plan]) -> None:
    for plan in plans:
        if what := omissions(plan):
            print(f"notice: plan {excerpt(plan.text)} {what}", file=sys.stderr)


def _positive(text: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        shown = excerpt(repr(text))
        raise argparse.ArgumentTypeError(f"{shown} is not a number of 1 or more (up to 9 digits)")
    return int(text)


def _plans(options: argparse.Namespace) -> None:
    experiment = config.load(options.config)
    for model in experiment.models.values():
        found = experiment.grid(model.name)
        for line in grid.notices(found):
            print(f"notice: {model.name}: {line}", file=sys.stderr)
        if not options.summary:
            print(f"{model.name} ({model.n_layers} layers)")
            for item in found.plans:
                print(f"  {item.group:<18}{item.plan}")
    given = options.tokens_per_second
    speeds = given_speeds(given, experiment) if given else None
    print(grid_summary(predict(experiment).thorough(speeds)))


def _fetch(options: argparse.Namespace) -> None:
    from frankenlab.models.fetch import fetch_model
    from frankenlab.models.sources import fetch_data

    experiment = config.load(options.config)
    for model in experiment.models.values():
        target = config.RESOURCES / "models" / model.folder
        fetch_model(model.source, target, model.n_layers, model.description)
        print(target)
    for name, source in experiment.data.items():
        target = config.RESOURCES / "data" / config.data_folder(name, source)
        fetch_data(source, target)
        print(target)


def _materialize(options: argparse.Namespace) -> None:
    from frankenlab.models.export import materialize
    from frankenlab.models.inspect import model_info

    plan = parse(options.plan, model_info(options.model).n_layers)
    _notice_omissions([plan])
    materialize(options.model, plan, options.output)
    print(options.output)


def _clear(options: argparse.Namespace) -> None:
    number = 0
    for number, line in enumerate(clearing.clear(), start=1):  # noqa: B007
        print(line, flush=True)
    if not number:
        print("nothing to clear")
