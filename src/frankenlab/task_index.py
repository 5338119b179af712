"""Which lm-evaluation-harness tasks exist, and what identifies one, without importing lm-eval.

Importing lm-eval takes seconds; the workflow asks these questions every time it is parsed.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from frankenlab.errors import UserError
from frankenlab.files import content_hash
from frankenlab.fingerprints import code_fingerprint

_TASK_KEY = re.compile(rb"""^["']?task["']?[ \t]*:[ \t]*["']?([\w.:+-]+)["']?[ \t]*$""", re.M)


@dataclass(frozen=True)
class TaskSettings:
    """A task of the config.

    Attributes:
        name: name in the config and in every table.
        task: lm-eval's name of the task (a YAML in the tasks folder, or one of lm-eval's).
        role: "search" (three stages) or "guard" (confirm only).
        metric: the primary metric.
        data_file: file that replaces the task's own data set, None for the hub.
        split: name of the split that the file is.
        unit: field whose content decides the stage and is resampled as one (a passage that
            several questions share); None: the whole document.
        overrides: keys of lm-eval's task config.
    """

    name: str
    task: str
    role: str
    metric: str
    data_file: Path | None = None
    split: str = "validation"
    num_fewshot: int | None = None
    unit: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)


def task_file(name: str, own: Path) -> Path:
    """The YAML of a task: one in the folder `own`, else lm-eval's.

    Raises:
        UserError: no such task; names the nearest ones.
    """
    ours = task_files(own)
    found = ours.get(name) or harness_task_files().get(name)
    if found is None:
        near = difflib.get_close_matches(name, [*ours, *harness_task_files()], 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(
            f'task "{name}": neither in {own.name}/ nor one of lm-evaluation-harness{hint}'
        )
    return found


@cache
def task_files(folder: Path) -> dict[str, Path]:
    """Task name -> YAML, for all YAML files below a folder."""
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        if match := _TASK_KEY.search(path.read_bytes()):
            found[match[1].decode()] = path
    return found


def harness_task_files() -> dict[str, Path]:
    """lm-eval's own tasks (0.3 s for 13,000 files)."""
    spec = find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations
    return task_files(Path(spec.submodule_search_locations[0]) / "tasks")


def task_fingerprint(path: Path) -> str:
    """Hash of what a task YAML says: its keys, its includes and the functions it names.

    Comments and layout do not count.
    """
    return content_hash(_contents(path))


def _contents(path: Path) -> list[Any]:
    loaded = yaml.load(path.read_text(), Loader=_FunctionNames)  # noqa: S506 (a SafeLoader)
    parts: list[Any] = [loaded]
    includes = loaded.get("include", [])
    for include in [includes] if isinstance(includes, str) else includes:
        parts += _contents(path.parent / include)
    for module in sorted(set(_functions(loaded))):
        source = path.parent / f"{module.replace('.', '/')}.py"
        if source.is_file():
            parts.append(code_fingerprint(source))
    return parts


def _functions(value: Any) -> list[str]:
    """Modules named by `!function module.name` anywhere in a loaded YAML."""
    if isinstance(value, dict):
        return [m for item in value.values() for m in _functions(item)]
    if isinstance(value, list):
        return [m for item in value for m in _functions(item)]
    if isinstance(value, str) and value.startswith("!function "):
        return [value.removeprefix("!function ").rpartition(".")[0]]
    return []


class _FunctionNames(yaml.SafeLoader):
    """Reads `!function module.name` as text; nothing is imported."""


_FunctionNames.add_constructor(
    "!function", lambda loader, node: f"!function {loader.construct_scalar(node)}"
)
