"""YAML files of users, read as plain data within limits.

PyYAML silently keeps the last of two equal keys, and with a few aliases of aliases a file can stand
for more values than memory holds. Here both are refused in one line.
"""

import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from frankenlab.io.errors import UserError, excerpt, one_line

MAX_BYTES = 1 << 20
# Nodes count as often as aliases repeat them.
MAX_NODES = 300_000
MAX_DEPTH = 40
MAX_INTEGER = 1 << 63

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: str | Path) -> Any:
    """Return the contents of a YAML (or JSON) file.

    Raises:
        UserError: it is no regular file in UTF-8, is too large or nested too deeply, or no YAML.
    """
    path = Path(path)
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):
            what = "a directory" if stat.S_ISDIR(kind) else "no regular file"
            raise UserError(f"it is {what}")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"it has {path.stat().st_size:,} bytes, at most {MAX_BYTES:,} are read")
        return _parsed(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"it is not UTF-8 (byte {error.start})") from None
    except yaml.YAMLError as error:
        raise UserError(_where(error)) from None
    except OSError as error:
        raise UserError(str(error.strerror or error).lower()) from None
    except (ValueError, OverflowError) as error:
        # The calendar lacks a date, or a number has thousands of digits.
        raise UserError(excerpt(error)) from None


def _parsed(text: str) -> Any:
    depth = count = 0
    # The parser does not recurse, so the depth is known before anything that does.
    for event in yaml.parse(text, Loader=Loader):
        count += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            assert event.start_mark is not None, "the parser marks every event"
            line = event.start_mark.line + 1
            raise UserError(f"line {line}: nested more than {MAX_DEPTH} levels deep")
        if count > MAX_NODES:
            raise UserError(f"it has more than {MAX_NODES:,} values")
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        # This comes before the construction, in which merges copy the pairs that they merge.
        _check_expanded(node, {}, frozenset())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_expanded(
    node: yaml.Node, known: dict[int, tuple[int, int]], above: frozenset[int]
) -> tuple[int, int]:
    """Return the number of nodes and the depth of a node with all aliases written out.

    Raises:
        UserError: there are too many, it is too deep, it is in itself, or a key is there twice (the
            keys of a merge, `<<: *other`, do not count).
    """
    line = f"line {node.start_mark.line + 1}"
    if id(node) in above:
        raise UserError(f"{line}: an alias that contains itself")
    if id(node) not in known:
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            children = [child for pair in children for child in pair]
        sizes = [_check_expanded(child, known, above | {id(node)}) for child in children]
        count = 1 + sum(size for size, _ in sizes)
        depth = 1 + max((deep for _, deep in sizes), default=0)
        known[id(node)] = count, depth
    count, depth = known[id(node)]
    if count > MAX_NODES or depth > MAX_DEPTH + 1:
        raise UserError(
            f"{line}: with its aliases it has more than {MAX_NODES:,} values, or more than "
            f"{MAX_DEPTH} levels"
        )
    return count, depth


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise UserError(f'line {line}: the key "{excerpt(key.value)}" is there twice')
            seen.add((key.tag, key.value))


def _where(error: yaml.YAMLError) -> str:
    """Return the line and what is wrong in it."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        return line + excerpt(error.problem or error.context or "no YAML", 200)
    return excerpt(one_line(error), 200)


def merged(old: Any, new: Any) -> Any:
    """Return the old value with the new one's keys in it; the new one where one has no keys."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}


def check_plain(value: Any, what: str) -> None:
    """Check that JSON can hold a value, and that it is finite and of reasonable size.

    Raises:
        UserError: it names `what`, the place in it, and what is wrong there.
    """
    try:
        _Plain().check(value, "", 0)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


class _Plain:
    """The check of `check_plain`; it counts values, because aliases can make a small file huge."""

    def __init__(self) -> None:
        self.count = 0

    def check(self, value: Any, where: str, depth: int) -> None:
        self.count += 1
        place = f"{where}: " if where else ""
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            raise UserError(f"{place}more than {MAX_NODES:,} values or {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            for key, item in value.items():
                if not isinstance(key, str):
                    raise UserError(f"{place}the key {excerpt(repr(key))} is no text; quote it")
                if not _is_text(key):
                    raise UserError(f"{place}the key {excerpt(repr(key))} has unprintable signs")
                self.check(item, f"{where}.{excerpt(key)}" if where else excerpt(key), depth + 1)
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                self.check(item, f"{where}.{number}" if where else str(number), depth + 1)
        elif isinstance(value, str):
            if not _is_text(value):
                raise UserError(f"{place}{excerpt(repr(value))} has characters that no text has")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise UserError(f"{place}{value} is no number that can be used; write a finite one")
        elif isinstance(value, int):
            if not -MAX_INTEGER < value < MAX_INTEGER:
                raise UserError(f"{place}a number of more than 19 digits is too large")
        elif value is not None:
            kind = type(value).__name__
            raise UserError(f"{place}{excerpt(value)} is a {kind}; quote it, if text is meant")


def _is_text(text: str) -> bool:
    """Tell whether a text has no surrogates and no control characters but tabs and newlines."""
    return not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", text)
