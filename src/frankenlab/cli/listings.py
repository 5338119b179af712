"""The commands `tasks` and `generators`, which list the names that a config may use."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from frankenlab.cli.options import add_command, add_config, config_name, experiment_of
from frankenlab.io.errors import UserError

if TYPE_CHECKING:
    from frankenlab.config.experiment import Experiment


def add_to(commands: Any) -> None:
    """Add the commands to the parser."""
    tasks = add_command(
        commands,
        "tasks",
        "list the tasks of a config and of config/tasks/, or those of lm-evaluation-harness that "
        "match a name",
        _tasks,
        "",
        "arc",
        '"mmlu_*"',
    )
    pattern_help = (
        'part of a name, or a pattern such as "mmlu_*"; without it, the tasks of the config and of '
        "config/tasks/ are listed"
    )
    tasks.add_argument("pattern", nargs="?", metavar="NAME", help=pattern_help)
    add_config(tasks)

    add_command(
        commands,
        "generators",
        "list the generators of plans with their keys and defaults",
        _generators,
        "",
    )


def _tasks(options: argparse.Namespace) -> None:
    from frankenlab.config.experiment import TASKS_FOLDER
    from frankenlab.tasks.listing import files_of_tasks

    experiment = experiment_of(options)
    if options.pattern:
        _matching(options.pattern, experiment)
        return
    print(f"in {config_name(options)}:")
    for name, task in experiment.tasks.items():
        print(f"  {name:<24}{task.role:<8}{task.metric}")
    ours, theirs = files_of_tasks(TASKS_FOLDER)
    print("in config/tasks/:")
    for name, path in sorted(ours.items()):
        print(_line(name, path))
    print(f"in lm-evaluation-harness: {len(theirs):,}; `frankenlab tasks NAME` lists what matches")


def _matching(pattern: str, experiment: "Experiment") -> None:
    from frankenlab.config.experiment import TASKS_FOLDER
    from frankenlab.tasks.index import near
    from frankenlab.tasks.listing import files_of_tasks, matching_tasks

    found = matching_tasks(pattern, TASKS_FOLDER)
    if not found:
        hint = near(pattern, [name for files in files_of_tasks(TASKS_FOLDER) for name in files])
        raise UserError(
            f'no task matches "{pattern}", neither in config/tasks/ nor in '
            f"lm-evaluation-harness{hint}"
        )
    for name, path in found.items():
        print(_line(name, path))


def _line(name: str, path: Path) -> str:
    """Return a task with its primary metric, or why it cannot be scored."""
    from frankenlab.tasks.index import OUTPUT_TYPES
    from frankenlab.tasks.listing import usual_metric
    from frankenlab.tasks.yaml_files import task_keys

    try:
        keys = task_keys(path)
    except UserError as error:
        return f"  {name:<39} cannot be read: {error}"
    kind = str(keys.get("output_type", "generate_until"))
    what = usual_metric(keys) if kind in OUTPUT_TYPES else f"not scored here: {kind}"
    return f"  {name:<39} {what}"


def _generators(options: argparse.Namespace) -> None:
    from frankenlab.plans.generators import Generator

    for kind in get_args(get_args(Generator)[0]):
        about = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        print(f"{kind.model_fields['generator'].default}\n    {about}")
        for line in _keys(kind):
            print(f"    - {line}")


def _keys(kind: Any) -> Iterator[str]:
    """Yield a generator's keys, each with its default and what it means."""
    for key, field in kind.model_fields.items():
        if key == "generator":
            continue
        if field.is_required():
            key += " (needed)"
        elif field.default is not None:
            # As YAML writes it.
            key += f" ({str(field.default).lower()})"
        yield key + (f": {' '.join(field.description.split())}" if field.description else "")
