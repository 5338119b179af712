"""The folders of lm-evaluation-harness tasks: which file has a task, a group or a tag.

Importing lm-eval takes seconds; the workflow asks these questions every time it is parsed.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.io.errors import UserError
from frankenlab.io.files import cache_folder, content_hash, write_json
from frankenlab.io.records import read_record
from frankenlab.tasks.yaml_files import read_task_file

# A key on a line of its own, as in all of lm-eval's 13,000 task files. Parsing them as YAML would
# take half a minute.
_KEY = rb"""^(?:\xef\xbb\xbf)?["']?%s["']?[ \t]*:[ \t]*["']?([^\s"'#,\[\]{}]+)["']?[ \t]*$"""
_TASK_KEY = re.compile(_KEY % b"task", re.M)
_GROUP_KEY = re.compile(_KEY % b"group", re.M)
_INCLUDE_KEY = re.compile(_KEY % b"include", re.M)
_TAGS_KEY = re.compile(rb"""^["']?tag["']?[ \t]*:([^\n]*(?:\n[ \t]*-[^\n]*)*)""", re.M)
_WORD = re.compile(rb"[^\s\"',\[\]-][^\s\"',\[\]]*")


class Names(TypedDict):
    """The files of lm-eval's tasks and groups, by their names."""

    tasks: dict[str, str]
    groups: dict[str, str]


@dataclass(frozen=True)
class TaskFolder:
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

    def members(self, name: str, seen: frozenset[str] = frozenset()) -> list[str]:
        """Return the tasks of a group or a tag, with those of the groups in it; [] for other
        names."""
        if name in seen:
            return []
        seen |= {name}
        if name in self.tasks:
            return [name]
        if name not in self.groups:
            return self.tags.get(name, [])
        entries = read_task_file(self.groups[name]).get("task")
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
                    found += self.members(inner, seen)
        return list(dict.fromkeys(found))


@cache
def _tags_of(path: Path) -> tuple[str, ...]:
    text = path.read_bytes() if path.is_file() else b""
    if match := _TAGS_KEY.search(text):
        lines = (line.partition(b"#")[0] for line in match[1].split(b"\n"))
        return tuple(word.decode() for line in lines for word in _WORD.findall(line))
    include = _INCLUDE_KEY.search(text)
    return _tags_of(path.parent / include[1].decode()) if include else ()


@cache
def harness_tasks() -> TaskFolder:
    """Return lm-eval's own tasks.

    Reading its 13,000 files takes .7 s, and minutes on a network's disk, so what was found is kept
    in the cache for as long as no file there changes.
    """
    spec = find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "tasks"
    files = sorted(_states(folder))
    kept = cache_folder() / "tasks" / f"{content_hash([str(folder), files])}.json"
    try:
        found = read_record(kept, Names)
    except UserError:  # not there yet, or damaged
        found = _named([path for path, *_ in files])
        with suppress(OSError, UserError):  # a home that cannot be written to
            write_json(kept, found)
    tasks = {name: Path(path) for name, path in found["tasks"].items()}
    return TaskFolder(tasks, {name: Path(path) for name, path in found["groups"].items()}, [])


def _states(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the path of each YAML file, its time of modification and its size."""
    for where, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".yaml"):
                path = os.path.join(where, name)
                state = os.stat(path)
                yield path, state.st_mtime_ns, state.st_size


def _named(files: list[str]) -> Names:
    """Find names by the lines that hold them; of two files with a name, lm-eval takes the first."""
    found = Names(tasks={}, groups={})
    for path in files:
        text = Path(path).read_bytes()
        if match := _GROUP_KEY.search(text):
            found["groups"].setdefault(match[1].decode(), path)
        elif match := _TASK_KEY.search(text):
            found["tasks"].setdefault(match[1].decode(), path)
    return found


@cache
def own_tasks(folder: Path) -> TaskFolder:
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
    return TaskFolder(tasks, groups, unread)
