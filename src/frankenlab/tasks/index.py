"""The index of lm-evaluation-harness tasks, and fingerprints of them, without importing lm-eval.

Importing lm-eval takes seconds; the workflow asks these questions every time it is parsed.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from frankenlab.io.errors import UserError, one_line
from frankenlab.io.files import content_hash
from frankenlab.io.fingerprints import code_fingerprint

# The documents of a search task are divided among these; no two share one.
STAGES = ("search", "select", "confirm")

# A key on a line of its own, as in all of lm-eval's 13,000 task files. Parsing them as YAML would
# take half a minute.
_KEY = rb"""^(?:\xef\xbb\xbf)?["']?%s["']?[ \t]*:[ \t]*["']?([^\s"'#,\[\]{}]+)["']?[ \t]*$"""
_TASK_KEY = re.compile(_KEY % b"task", re.M)
_GROUP_KEY = re.compile(_KEY % b"group", re.M)
_INCLUDE_KEY = re.compile(_KEY % b"include", re.M)
_TAGS_KEY = re.compile(rb"""^["']?tag["']?[ \t]*:([^\n]*(?:\n[ \t]*-[^\n]*)*)""", re.M)
_WORD = re.compile(rb"[^\s\"',\[\]-][^\s\"',\[\]]*")

# The most values in a task's file with its aliases expanded; lm-eval's largest has a few thousand.
MAX_VALUES = 200_000

# These keys of a task hold Python code, which a config must not run.
CODE_KEYS = ("class", "custom_dataset", "process_docs", "process_results", "unsafe_code")
# These keys of a task's file are no part of the task.
FILE_KEYS = ("group", "include", "task_list", "use_prompt")
# These keys name a data set, which `data` replaces.
DATA_KEYS = ("dataset_path", "dataset_name", "dataset_kwargs")

# These loaders of `datasets` run queries or programs, or unpickle.
RUNNING_LOADERS = ("cache", "generator", "iceberg", "pandas", "spark", "sql")

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

    def __post_init__(self) -> None:
        """Refuse overrides that would run code, or that contradict `data`.

        Raises:
            UserError: names the key.
        """
        _check_overrides(self.overrides, f'task "{self.name}": overrides', self.data_file)


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
    for value in _texts(overrides, where):
        if value.startswith("!function"):
            raise UserError(f"{where}: {value!r} is no function in a config, only in config/tasks/")


def task_file(name: str, own: Path) -> Path:
    """Return the YAML of a task: one in the folder `own`, else lm-eval's.

    Raises:
        UserError: there is no such task; names the nearest ones.
    """
    ours, theirs = _own_index(own).tasks, harness_task_files()
    found = ours.get(name) or theirs.get(name)
    if found is not None:
        return found
    members = _members(name, _own_index(own)) or _members(name, _harness_index())
    if members:
        more = len(members) - SHOWN_MEMBERS
        raise UserError(
            f'task "{name}": it is a group of {len(members)} tasks; name those that are wanted: '
            f"{', '.join(members[:SHOWN_MEMBERS])}{f' and {more} more' if more > 0 else ''}"
        )
    near = difflib.get_close_matches(name, [*ours, *theirs], 3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    unread = _own_index(own).unread
    if unread:
        hint += f"; in {own.name}/ no task was found in {', '.join(unread)}"
    raise UserError(f'task "{name}": neither in {own.name}/ nor one of lm-evaluation-harness{hint}')


def harness_task_files() -> dict[str, Path]:
    """Return the file of each of lm-eval's own tasks (0.5 s for 13,000 files)."""
    return _harness_index().tasks


@dataclass(frozen=True)
class _Index:
    """The tasks and groups in a folder.

    Attributes:
        tasks, groups: name -> file.
        unread: the names of files that hold neither.
    """

    tasks: dict[str, Path]
    groups: dict[str, Path]
    unread: list[str]

    @cached_property
    def tags(self) -> dict[str, list[str]]:
        """Return the tasks of each tag, which stands in them or in a file that they include."""
        tagged: dict[str, list[str]] = {}
        for name, path in sorted(self.tasks.items()):
            for tag in _tags_of(path):
                tagged.setdefault(tag, []).append(name)
        return tagged


@cache
def _tags_of(path: Path) -> tuple[str, ...]:
    text = path.read_bytes() if path.is_file() else b""
    if match := _TAGS_KEY.search(text):
        lines = (line.partition(b"#")[0] for line in match[1].split(b"\n"))
        return tuple(word.decode() for line in lines for word in _WORD.findall(line))
    include = _INCLUDE_KEY.search(text)
    return _tags_of(path.parent / include[1].decode()) if include else ()


def _harness_index() -> _Index:
    spec = find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations
    return _index(Path(spec.submodule_search_locations[0]) / "tasks")


@cache
def _index(folder: Path) -> _Index:
    """Find names by the lines that hold them; of two files with a name, lm-eval takes the first."""
    tasks: dict[str, Path] = {}
    groups: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.yaml"), key=Path.as_posix):
        text = path.read_bytes()
        if match := _GROUP_KEY.search(text):
            groups.setdefault(match[1].decode(), path)
        elif match := _TASK_KEY.search(text):
            tasks.setdefault(match[1].decode(), path)
    return _Index(tasks, groups, [])


@cache
def _own_index(folder: Path) -> _Index:
    """Read the user's files with a YAML parser, however they are laid out.

    A file that cannot be parsed counts by the line that names its task; what is wrong with it is
    said when that task is asked for.

    Raises:
        UserError: two files have the same task.
    """
    tasks: dict[str, Path] = {}
    groups: dict[str, Path] = {}
    unread = []
    for path in sorted(chain(folder.rglob("*.yaml"), folder.rglob("*.yml"))):
        try:
            loaded = read_task_file(path)
        except UserError:
            text = path.read_bytes() if path.is_file() else b""
            match = _TASK_KEY.search(text)
            loaded = {"task": match[1].decode(errors="replace")} if match else {}
        if isinstance(group := loaded.get("group"), str):
            groups[group] = path
        elif isinstance(name := loaded.get("task"), str):
            if name in tasks:
                raise UserError(f'task "{name}": it is in {tasks[name]} and in {path}; rename one')
            tasks[name] = path
        else:
            unread.append(str(path.relative_to(folder)))
    return _Index(tasks, groups, unread)


def _members(name: str, index: _Index, seen: frozenset[str] = frozenset()) -> list[str]:
    """Return the tasks of a group or a tag, with those of the groups in it; [] for other names."""
    if name in seen:
        return []
    seen |= {name}
    if name in index.tasks:
        return [name]
    if name not in index.groups:
        return index.tags.get(name, [])
    entries = read_task_file(index.groups[name]).get("task")
    found: list[str] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        pending = [entry]
        while pending:
            inner = pending.pop()
            if isinstance(inner, Mapping):
                inner = inner.get("task") or inner.get("group")
            if isinstance(inner, list):
                pending += reversed(inner)
            elif isinstance(inner, str):
                found += _members(inner, index, seen)
    return list(dict.fromkeys(found))


def task_fingerprint(path: Path) -> str:
    """Return a hash of a task's YAML: its keys, its includes and the functions it names.

    Comments and layout do not count.

    Raises:
        UserError: a file is unreadable or no task, is included twice or by itself, or names a
            module that is not there.
    """
    with _readable(path):
        return content_hash(_contents(path, set()))


def read_task_file(path: Path) -> dict[str, Any]:
    """Return the keys of one task file; `!function module.name` is a text, and nothing is run.

    Raises:
        UserError: it is no YAML, or not a mapping of keys.
    """
    with _readable(path):
        loaded = yaml.load(path.read_bytes(), Loader=_FunctionNames)  # noqa: S506 (a SafeLoader)
    if not isinstance(loaded, dict):
        kind = {list: "a list", type(None): "empty"}.get(type(loaded), "a single value")
        raise UserError(f"{path}: it is {kind}; a task file is a mapping of keys to values")
    for _ in _texts(loaded, f"{path}: with its aliases"):
        pass
    return loaded


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what can go wrong with a file into one line that names it."""
    try:
        yield
    except (OSError, ValueError, SyntaxError, yaml.YAMLError, RecursionError) as error:
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{path}: it cannot be read as a task ({reason})") from error


def _contents(path: Path, seen: set[Path]) -> list[Any]:
    """Return what the file and its includes say, and fingerprints of the functions they name."""
    # lm-eval refuses a file that comes twice, too.
    if path.resolve() in seen:
        raise UserError(f"{path}: it is included twice, or includes itself")
    seen.add(path.resolve())
    loaded = read_task_file(path)
    parts: list[Any] = [_plain(loaded)]
    includes = loaded.get("include", [])
    for include in [includes] if isinstance(includes, str) else includes or []:
        if not isinstance(include, str):
            raise UserError(f"{path}: include: {include!r} is not the name of a file")
        parts += _contents(path.parent / include, seen)
    for module in sorted({_module(text, path) for text in _functions(loaded)}):
        source = path.parent / f"{module.replace('.', '/')}.py"
        if source.is_file():
            with _readable(source):
                parts.append(code_fingerprint(source))
        elif find_spec(module.partition(".")[0]) is None:
            raise UserError(f"{path}: !function: there is no module {module}, nor {source}")
    return parts


def _module(function: str, path: Path) -> str:
    """Return the module of `!function module.name`."""
    module = function.removeprefix("!function ").rpartition(".")[0].strip()
    if not module.partition(".")[0]:
        raise UserError(f"{path}: {function}: a module and a function are expected: module.name")
    return module


def _values(value: Any) -> Iterator[Any]:
    """Yield everything in a loaded YAML, however deep, as often as aliases repeat it."""
    pending = [value]
    while pending:
        item = pending.pop()
        yield item
        if isinstance(item, Mapping):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            pending += item


def _texts(value: Any, where: str) -> Iterator[str]:
    """Yield the texts in a loaded YAML.

    Raises:
        UserError: it has too many values.
    """
    for i, item in enumerate(_values(value)):
        if i >= MAX_VALUES:
            raise UserError(f"{where}: more than {MAX_VALUES} values")
        if isinstance(item, str):
            yield item


def _plain(value: Any) -> Any:
    """Return the value with everything that JSON does not have, such as dates, as text."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _functions(value: Any) -> list[str]:
    """Return every `!function module.name` in a loaded YAML."""
    return [v for v in _values(value) if isinstance(v, str) and v.startswith("!function ")]


class _FunctionNames(yaml.SafeLoader):
    """Reads `!function module.name` as text, without importing anything.

    It is the parser in Python, because the one in C ends the process on a file that nests too
    deeply.
    """


def _function_name(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return f"!function {loader.construct_scalar(node)}"


_FunctionNames.add_constructor("!function", _function_name)
