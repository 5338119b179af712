"""Run the steps of the workflow by hand."""

import argparse
import difflib
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frankenlab.io.errors import UserError, excerpt

# The commands import what they need: that takes seconds, which --help does not wait for.
if TYPE_CHECKING:
    from frankenlab.config.experiment import Experiment
    from frankenlab.plans.plan import Plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `frankenlab`, and return its exit status: 2 where the input is wrong."""
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

    evaluate = commands.add_parser("evaluate", help="score plans on tasks, one row per document")
    add = evaluate.add_argument
    add("model", type=Path, metavar="MODEL_DIR", help="a Hugging Face or EXL2 directory")
    add("--plan", action="append", required=True, help='"0:20,10:30" or "base", say; repeatable')
    add("--task", action="append", required=True, help="a task of the config; repeatable")
    stages = ("search", "select", "confirm")
    add("--stage", choices=stages, help="score only this stage's documents (default: all)")
    add("--limit", type=_positive, help="the most documents of each task")
    engines, engine_help = ("torch", "exllamav2"), "exllamav2 needs EXL2 and cuda (default: torch)"
    add("--engine", choices=engines, default="torch", help=engine_help)
    dtypes = ("float32", "float16", "bfloat16")
    add("--dtype", choices=dtypes, help="default: bfloat16; exllamav2 computes in float16")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    store = Path("results/store")
    add("--store", type=Path, default=store, help=f"keeps rows for later runs (default: {store})")
    add("--output", type=Path, required=True, help="a .parquet file to write")
    evaluate.set_defaults(run=_evaluate)

    plans = commands.add_parser("plans", help="list the plans of a config and predict their cost")
    add = plans.add_argument
    add("--summary", action="store_true", help="leave out the list of plans")
    speed_help = (
        'speed of the base: "4000" (of the first model) or "llama-7b=4000,llama-13b=2200" '
        "(default: what `make speed` measured)"
    )
    add("--tokens-per-second", metavar="SPEED", help=speed_help)
    plans.set_defaults(run=_plans)

    fetch = commands.add_parser("fetch", help="download the models and data of a config")
    fetch.set_defaults(run=_fetch)

    for command in (evaluate, plans, fetch):
        config_help = "the experiment (default: config/config.yaml)"
        command.add_argument("--config", type=Path, help=config_help)

    export = commands.add_parser("materialize", help="write a plan as a standalone checkpoint")
    export.add_argument("model", type=Path, metavar="MODEL_DIR", help="a Hugging Face directory")
    export.add_argument("--plan", required=True, help='"0:20,10:30", say')
    export.add_argument("--output", type=Path, required=True, help="a new directory")
    export.set_defaults(run=_materialize)

    clear_help = (
        "after a kill: cancel orphaned SLURM jobs, remove a stale lock and unfinished files"
    )
    commands.add_parser("clear", help=clear_help).set_defaults(run=_clear)
    return parser


def _positive(text: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        shown = excerpt(repr(text))
        raise argparse.ArgumentTypeError(f"{shown} is not a number of 1 or more (up to 9 digits)")
    return int(text)


def _experiment(options: argparse.Namespace) -> "Experiment":
    from frankenlab.config import experiment

    return experiment.load(options.config or experiment.default_file())


def _evaluate(options: argparse.Namespace) -> None:
    import pandas as pd

    from frankenlab.evaluate import runner as evaluation
    from frankenlab.evaluate.model_spec import ModelSpec
    from frankenlab.io.parquet import write_parquet
    from frankenlab.models.directory import model_shape
    from frankenlab.plans.plan import parse

    settings = _experiment(options).tasks
    for name in options.task:
        if name not in settings:
            near = difflib.get_close_matches(name, settings, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"it has {', '.join(settings)}"
            where = options.config or "the default config"
            raise UserError(f'task "{name}": not in {where}; {hint}')
    n_layers = model_shape(options.model).n_layers
    plans = _distinct([parse(text, n_layers) for text in options.plan])
    _notice_omissions(plans)
    model = ModelSpec.for_directory(options.model, options.dtype, options.device, options.engine)
    tables = [
        evaluation.evaluate_task(
            model, plans, settings[name], options.stage, options.limit, options.store
        )
        for name in options.task
    ]
    write_parquet(pd.concat(tables, ignore_index=True), options.output)


def _distinct(plans: "Sequence[Plan]") -> "list[Plan]":
    unique = list(dict.fromkeys(plans))
    if len(unique) < len(plans):
        twice = ", ".join(excerpt(plan.text) for plan in unique if plans.count(plan) > 1)
        print(f"notice: listed more than once, folded: {twice}", file=sys.stderr)
    return unique


def _notice_omissions(plans: "Sequence[Plan]") -> None:
    from frankenlab.plans.plan import omissions

    for plan in plans:
        if what := omissions(plan):
            print(f"notice: plan {excerpt(plan.text)} {what}", file=sys.stderr)


def _plans(options: argparse.Namespace) -> None:
    from frankenlab.estimate.resources import predict
    from frankenlab.estimate.summary import grid_summary
    from frankenlab.estimate.throughput import given_speeds
    from frankenlab.plans.grid import notices

    experiment = _experiment(options)
    prediction = predict(experiment)
    for model in experiment.models.values():
        found = prediction.workload.grid(model.name).grid
        for line in notices(found):
            print(f"notice: {model.name}: {line}", file=sys.stderr)
        if not options.summary:
            print(f"{model.name} ({model.n_layers} layers)")
            for item in found.plans:
                print(f"  {item.group:<18}{item.plan}")
    given = options.tokens_per_second
    speeds = given_speeds(given, experiment) if given else None
    print(grid_summary(prediction.thorough(speeds)))


def _fetch(options: argparse.Namespace) -> None:
    from frankenlab.config.experiment import RESOURCES
    from frankenlab.models.fetch import fetch_data, fetch_model

    experiment = _experiment(options)
    for model in experiment.models.values():
        target = RESOURCES / "models" / model.folder
        fetch_model(model.source, target, model.n_layers, model.description)
        print(target)
    for folder, source in experiment.downloads.items():
        target = RESOURCES / "data" / folder
        fetch_data(source, target)
        print(target)


def _materialize(options: argparse.Namespace) -> None:
    from frankenlab.models.directory import model_shape
    from frankenlab.models.export import materialize
    from frankenlab.plans.plan import parse

    plan = parse(options.plan, model_shape(options.model).n_layers)
    _notice_omissions([plan])
    materialize(options.model, plan, options.output)
    print(options.output)


def _clear(options: argparse.Namespace) -> None:
    from frankenlab.runtime.clean import clear

    cleared = False
    for line in clear():
        print(line, flush=True)
        cleared = True
    if not cleared:
        print("nothing to clear")
