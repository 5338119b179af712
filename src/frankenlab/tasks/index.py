"""A task of the config: its settings, checked, and the YAML file that has it."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frankenlab.io.directories import MANIFEST, has_manifest
from frankenlab.io.errors import UserError
from frankenlab.tasks.folders import harness_tasks, own_tasks
from frankenlab.tasks.yaml_files import texts

# Where the tasks of the project that one works in are.
PROJECT_TASKS = Path("config/tasks")

# The documents of a search task are divided among these; no two share one.
STAGES = ("search", "select", "confirm")

# These keys of a task hold Python code, which a config must not run.
CODE_KEYS = ("class", "custom_dataset", "process_docs", "process_results", "unsafe_code")
# These keys of a task's file are no part of the task.
FILE_KEYS = ("group", "include", "task_list", "use_prompt")
# These keys name a data set, which `data` replaces.
DATA_KEYS = ("dataset_path", "dataset_name", "dataset_kwargs")

# These loaders of `datasets` run queries or programs, or unpickle.
RUNNING_LOADERS = ("cache", "generator", "iceberg", "pandas", "spark", "sql")

# What is scored: nothing is generated.
OUTPUT_TYPES = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")

# The most members of a group that a message names.
SHOWN_MEMBERS = 8


@dataclass(frozen=True)
class TaskSettings:
    """A task of the config.

    Attributes:
        name: its name in the config and in every table.
        task: lm-eval's name of the task (a YAML in the tasks folder, or one of lm-eval's).
        role: "search" (three stages) or "guard" (confirm only).
        metric: the primary metric.
        data_file: the file that replaces the task's own data set, or None.
        split: the name of the split that the file is.
        fewshot_file: a file of worked examples, beside `data_file`.
        data_folder: the directory with the task's own data set, fetched from the hub, a file per
            split. With neither a file nor a folder, lm-eval loads the data set itself.
        cluster: the field whose content decides the stage and is resampled as one (a passage that
            several questions share); None stands for the whole document.
        overrides: keys of lm-eval's task config.
    """

    name: str
    task: str
    role: str
    metric: str
    data_file: Path | None = None
    split: str = "validation"
    num_fewshot: int | None = None
    cluster: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    fewshot_file: Path | None = None
    data_folder: Path | None = None

    def __post_init__(self) -> None:
        """Refuse overrides that would run code, or that contradict `data`.

        Raises:
            UserError: names the key.
        """
        _check_overrides(self.overrides, f'task "{self.name}": overrides', self.data_file)

    @property
    def files(self) -> list[Path]:
        """Return the files that hold its data, or the manifest of the directory that does."""
        manifest = self.data_folder and self.data_folder / MANIFEST
        return [file for file in (self.data_file, self.fewshot_file, manifest) if file]

    def check_there(self) -> None:
        """Check that the data are there.

        Raises:
            UserError: they are not; says how to fetch them.
        """
        for file in self.files:
            if file.exists():
                continue
            if any(map(has_manifest, file.parents)):
                how = "it is not among the files of its package; see `file`, and `include` there"
            else:
                how = "`snakemake fetch` downloads the data of a config"
            raise UserError(f'task "{self.name}": there is no {file}; {how}')


def _check_overrides(overrides: Mapping[str, Any], where: str, data_file: Path | None) -> None:
    shots = overrides.get("fewshot_config") or {}
    for path, values in ((where, overrides), (f"{where}.fewshot_config", shots)):
        if not isinstance(values, Mapping):
            raise UserError(f"{path}: a mapping of keys is expected, not {values!r}")
        for key in CODE_KEYS:
            # lm-eval's default of `unsafe_code` is false.
            if values.get(key) not in (None, False):
                raise UserError(
                    f"{path}.{key}: it is Python code, which a config cannot give; write a task "
                    "with `!function` in config/tasks/"
                )
    for key in FILE_KEYS:
        if key in overrides:
            raise UserError(f"{where}.{key}: it is no key of a task; write a task in config/tasks/")
    for key in DATA_KEYS:
        if key in overrides and data_file is not None:
            raise UserError(f"{where}.{key}: the task has `data`, which replaces its data set")
    if overrides.get("dataset_path") in RUNNING_LOADERS:
        raise UserError(
            f"{where}.dataset_path: {overrides['dataset_path']} can run code; take json, parquet "
            "or arrow, or `data`"
        )
    if "trust_remote_code" in (overrides.get("dataset_kwargs") or {}):
        raise UserError(f"{where}.dataset_kwargs.trust_remote_code: remote code is never run")
    for value in texts(overrides, where):
        if value.startswith("!function"):
            raise UserError(f"{where}: {value!r} is no function in a config, only in config/tasks/")


def check_output_type(keys: Mapping[str, Any], where: str) -> None:
    """Check that a task with these keys is scored by log-likelihood.

    Raises:
        UserError: it is not.
    """
    output_type = keys.get("output_type", "generate_until")
    if output_type not in OUTPUT_TYPES:
        raise UserError(
            f'{where}: output type "{output_type}" is not scored by log-likelihood; '
            f"allowed: {', '.join(OUTPUT_TYPES)}"
        )


def near(name: str, known: Iterable[str]) -> str:
    """Return the question whether one of the names that are most like this one was meant, with the
    semicolon before it; "" where none is like it."""
    found = difflib.get_close_matches(name, known, 3)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def task_file(name: str, own: Path) -> Path:
    """Return the YAML of a task: one of the project that one works in, else one in the folder
    `own`, else lm-eval's.

    Raises:
        UserError: there is no such task; names the nearest ones.
    """
    # In a checkout the first two are the same folder.
    ours = [own_tasks(folder) for folder in dict.fromkeys((PROJECT_TASKS.absolute(), own))]
    places = [*ours, harness_tasks()]
    for place in places:
        if name in place.tasks:
            return place.tasks[name]
    members = next(filter(None, (place.members(name) for place in places)), None)
    if members:
        more = len(members) - SHOWN_MEMBERS
        raise UserError(
            f'task "{name}": it is a group of {len(members)} tasks; name those that are wanted: '
            f"{', '.join(members[:SHOWN_MEMBERS])}{f' and {more} more' if more > 0 else ''}"
        )
    known = dict.fromkeys(task for place in places for task in place.tasks)
    hint = near(name, known)
    if unread := [file for place in ours for file in place.unread]:
        hint += f"; in config/tasks/ no task was found in {', '.join(unread)}"
    raise UserError(
        f'task "{name}": neither in config/tasks/ nor one of lm-evaluation-harness{hint}'
    )
