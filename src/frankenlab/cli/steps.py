"""The commands `fetch`, `materialize` and `clear`, each a step of the workflow."""

import argparse
from typing import Any

from frankenlab.cli.options import add_command, add_config, experiment_of, notice_omissions, path


def add_to(commands: Any) -> None:
    """Add the commands to the parser."""
    fetch = add_command(
        commands,
        "fetch",
        "download the models and data of a config",
        _fetch,
        "",
        "--config config/experiments/small.yaml",
    )
    add_config(fetch)

    export = add_command(
        commands,
        "materialize",
        "write a plan as a standalone checkpoint",
        _materialize,
        'MODEL_DIR --plan "0:20,10:30" --output CHECKPOINT_DIR',
    )
    model_help = "the directory of the base, as of Hugging Face"
    export.add_argument("model", type=path, metavar="MODEL_DIR", help=model_help)
    export.add_argument("--plan", required=True, help='the plan, such as "0:20,10:30"')
    output_help = "the directory to write, which must not exist yet"
    export.add_argument("--output", type=path, required=True, metavar="DIR", help=output_help)

    add_command(
        commands,
        "clear",
        "after a kill: cancel orphaned SLURM jobs, remove a stale lock and unfinished files",
        _clear,
        "",
    )


def _fetch(options: argparse.Namespace) -> None:
    from frankenlab.config.experiment import RESOURCES
    from frankenlab.models.fetch import fetch_data, fetch_model

    experiment = experiment_of(options)
    for model in experiment.models.values():
        target = RESOURCES / "models" / model.folder
        fetch_model(model.source, target, model.n_layers, model.description, model.sizes)
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
    notice_omissions([plan])
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
