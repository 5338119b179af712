"""The YAML files of lm-evaluation-harness tasks: their keys, and fingerprints of what they say.

Nothing that a file names is imported or run.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from frankenlab.io.errors import UserError, one_line
from frankenlab.io.files import content_hash
from frankenlab.io.fingerprints import code_fingerprint

# The most values in a task's file with its aliases expanded; lm-eval's largest has a few thousand.
MAX_VALUES = 200_000


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
    for _ in texts(loaded, f"{path}: with its aliases"):
        pass
    return loaded


def task_keys(path: Path, depth: int = 0) -> dict[str, Any]:
    """Return the keys of a task's file with those of the files that it includes.

    Raises:
        UserError: as `read_task_file`; or files include each other.
    """
    if depth > 20:
        raise UserError(f"{path}: it includes itself")
    own = read_task_file(path)
    includes = own.pop("include", None) or []
    found: dict[str, Any] = {}
    for include in [includes] if isinstance(includes, str) else includes:
        found |= task_keys(path.parent / str(include), depth + 1)
    return found | own


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what can go wrong with a file into one line that names it."""
    try:
        yield
    except (OSError, ValueError, SyntaxError, yaml.YAMLError, RecursionError) as error:
        reason = one_line(error).replace(' in "<byte string>"', "") or type(error).__name__
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


def texts(value: Any, where: str) -> Iterator[str]:
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
