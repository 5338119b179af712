"""Files of this machine that an experiment reads where they are: what tells that they changed."""

import os
from pathlib import Path
from typing import Any

from frankenlab.io.files import sha256_file
from frankenlab.models.fetch import MODEL_FILES
from frankenlab.models.sources import DATA_FILES, Source, Use, wanted

# Files up to this size are compared by their hash, which takes a few hundredths of a second, so
# that touching one changes nothing; larger ones by their size and time of modification. A model
# that was only touched is hashed again, and its rows are found in the store.
HASHED_BYTES = 16 << 20


def file_identity(path: str | os.PathLike) -> Any:
    """Return what differs when a file's contents do: JSON-able, None for one that is not there."""
    try:
        found = os.stat(path)
        if found.st_size <= HASHED_BYTES:
            return sha256_file(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def source_identity(source: Source, use: Use) -> dict[str, Any]:
    """Return the identity of each file that a local source consists of, by its name in the source;
    of other sources nothing, since these name a version that does not change."""
    if source.kind != "path":
        return {}
    root = Path(source.location).expanduser()
    if root.is_file():
        return {root.name: file_identity(root)}
    patterns = MODEL_FILES if use == "model" else DATA_FILES
    patterns = (source.file,) if source.file else source.include or patterns
    names = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return {
        name: file_identity(root / name)
        for name in sorted(names)
        if wanted(name, patterns) and not any(part.startswith(".") for part in name.split("/"))
    }
