"""Keep what was found in sources of code for other processes: parsing takes half of a dry run.

The key is the text of a source, so that nothing in the file can be out of date.
"""

import atexit
import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from frankenlab.io.errors import UserError
from frankenlab.io.files import cache_folder, write_json

# The hash of a source without what does not count, and the names of what it imports.
Parsed = tuple[str, list[str]]

# Sources that are kept; a checkout has some 200.
MOST = 2000


def of(source: str, parse: Callable[[str], Parsed]) -> Parsed:
    """Return what `parse` makes of a source, which is parsed once on this machine."""
    kept = _kept()
    key = hashlib.sha256(source.encode()).hexdigest()
    if key not in kept:
        if len(kept) >= MOST:
            kept.clear()
        kept[key] = parse(source)
        _write_at_the_end()
    return kept[key]


def _file() -> Path:
    """Return the file of this version of the code that parses and of Python, which writes code."""
    code = Path(__file__).with_name("fingerprints.py").read_bytes()
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return cache_folder() / f"code-{version}-{hashlib.sha256(code).hexdigest()[:16]}.json"


@cache
def _kept() -> dict[str, Parsed]:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
        return {
            str(key): (str(digest), list(map(str, names))) for key, (digest, names) in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@cache
def _write_at_the_end() -> None:
    atexit.register(_write)


def _write() -> None:
    with suppress(OSError, UserError):  # a home that cannot be written to
        write_json(_file(), _kept())
