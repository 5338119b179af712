"""Files that are either whole or absent, and the hashes that identify contents."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError

CHUNK = 1 << 20

CACHE_VARIABLE = "FRANKENLAB_CACHE"


@contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `target`; renames it onto `target` when the block succeeds.

    A reader sees the old file or the whole new one, never a part (POSIX rename on one file
    system). The temporary name starts with a dot and ends in `.part`; it is removed when the
    block fails.

    Raises:
        UserError: the file system is full, or a quota or a size limit is reached.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(
        prefix=f".{target.name}.", suffix=".part", dir=target.parent
    )
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        # mkstemp makes files private; a shared results folder must stay readable by the group.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(
                f"{target}: cannot write, {os.strerror(error.errno).lower()}; "
                "free some space and run again, finished parts are kept"
            ) from error
        raise
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _flush(path: Path) -> None:
    """Forces the contents to disk, so that the rename cannot survive a crash without them."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def cache_folder() -> Path:
    """Return where a user's quickly made files are kept that no result depends on:
    $FRANKENLAB_CACHE, or frankenlab in $XDG_CACHE_HOME, ~/.cache or the temporary files."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given, "frankenlab")
    try:
        return Path.home() / ".cache" / "frankenlab"
    except RuntimeError:
        return Path(tempfile.gettempdir(), "frankenlab")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def write_if_changed(path: str | os.PathLike, text: str) -> bool:
    """Writes `text` atomically unless the file already holds it; tells whether it wrote.

    Keeps the modification time of an unchanged file, which is what Snakemake compares.
    """
    path = Path(path)
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True


def no_file(path: str | os.PathLike) -> str:
    """Return why a path cannot be read as a file, in words that follow it; "" if it can."""
    path = Path(path)
    if path.is_file():
        return ""
    if path.is_dir():
        return "is a directory"
    return "is no regular file" if path.exists() else "does not exist"


def sha256_file(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's contents."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while block := handle.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def content_hash(value: Any, length: int = 16) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of `value` as canonical JSON.

    Equal values hash equally whatever the order of their keys; tuples hash as lists.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
