"""The commands `plans` and `show`, which list the plans of a config and draw a plan."""

import argparse
import sys
from typing import Any

from frankenlab.cli.options import (
    add_command,
    add_config,
    experiment_of,
    notice_omissions,
    path,
    positive,
)


def add_to(commands: Any) -> None:
    """Add the commands to the parser."""
    plans = add_command(
        commands,
        "plans",
        "list the plans of a config and predict their cost",
        _plans,
        "--summary",
        "--config config/experiments/llama.yaml --tokens-per-second 4000",
    )
    add = plans.add_argument
    add("--summary", action="store_true", help="leave out the list of plans")
    speed_help = (
        'speed of the base: "4000" (of the first model) or "llama-7b=4000,llama-13b=2200" '
        "(default: what `make speed` measured)"
    )
    add("--tokens-per-second", metavar="SPEED", help=speed_help)
    add_config(plans)

    show = add_command(
        commands,
        "show",
        "draw a plan as a strip of layers, a line for each pass through them",
        _show,
        '"0:20,10:30"',
        '"0:8,4:12@attn,8:16" --layers 16',
        '"0:20,10:30" --model MODEL_DIR',
    )
    show.add_argument("plan", metavar="PLAN", help='the plan, such as "0:20,10:30"')
    layers_help = "number of layers that the model has (default: as the config's first model)"
    depth = show.add_mutually_exclusive_group()
    depth.add_argument("--layers", type=positive, metavar="N", help=layers_help)
    depth.add_argument(
        "--model", type=path, metavar="MODEL_DIR", help="take as many as this model has"
    )
    add_config(show)


def _plans(options: argparse.Namespace) -> None:
    from frankenlab.estimate.asked import given_speeds
    from frankenlab.estimate.resources import predict
    from frankenlab.estimate.summary import grid_summary
    from frankenlab.plans.grid import notices

    experiment = experiment_of(options)
    given = options.tokens_per_second
    speeds = given_speeds(given, experiment) if given else None
    prediction = predict(experiment)
    for model in experiment.models.values():
        found = prediction.workload.grid(model.name).grid
        for line in notices(found):
            print(f"notice: {model.name}: {line}", file=sys.stderr)
        if not options.summary:
            print(f"{model.name} ({model.n_layers} layers)")
            for item in found.plans:
                print(f"  {item.group:<18}{item.plan}")
    print(grid_summary(prediction.thorough(speeds)))


def _show(options: argparse.Namespace) -> None:
    from frankenlab.plans.plan import parse
    from frankenlab.plans.strip import KEY, strip
    from frankenlab.plans.words import words

    if options.layers:
        n_layers = options.layers
    elif options.model:
        from frankenlab.models.directory import model_shape

        n_layers = model_shape(options.model).n_layers
    else:
        n_layers = next(iter(experiment_of(options).models.values())).n_layers
    plan = parse(options.plan, n_layers)
    notice_omissions([plan])
    print(f"{plan}: {words(plan)}; {plan.depth:g} layers run, the model has {n_layers}")
    print("\n".join(strip(plan)))
    print(KEY)
