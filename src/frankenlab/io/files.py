"""Files that are whole or absent, and the hashes that identify contents."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError

CACHE_VARIABLE = "FRANKENLAB_CACHE"


@contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it to `target` when the block succeeds.

    A reader sees the old file or the whole new one, never a part. The temporary name starts with a
    dot and ends in `.part`; the file is removed when the block fails.

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
        flush(temporary)
        share(temporary)
        temporary.replace(target)
    except OSError as error:
        if message := disk_full(error, target):
            raise UserError(message) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def disk_full(error: BaseException, where: str | os.PathLike) -> str | None:
    """Return one line about a full disk, or None for other errors.

    Some libraries, such as safetensors, have the reason in their message only.
    """
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        reason = os.strerror(number)
        if getattr(error, "errno", None) == number or reason in str(error):
            return (
                f"{where}: cannot write, {reason.lower()}; "
                "free some space and run again, finished parts are kept"
            )
    return None


def flush(path: Path) -> None:
    """Force a file's contents to disk, so that a rename cannot survive a crash without them."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def share(path: Path) -> None:
    """Give a file, or a directory and everything in it, the permissions that the umask asks for.

    Temporary files and those of some libraries are private, but others must be able to read what is
    shared.
    """
    umask = os.umask(0)
    os.umask(umask)
    for each in (path, *path.rglob("*")):
        if not each.is_symlink():
            each.chmod((0o777 if each.is_dir() else 0o666) & ~umask)


def cache_folder() -> Path:
    """Return the folder for files that are quickly made again and that no result depends on.

    It is $FRANKENLAB_CACHE, or `frankenlab` in $XDG_CACHE_HOME, ~/.cache or the temporary folder.
    """
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given, "frankenlab")
    try:
        return Path.home() / ".cache" / "frankenlab"
    except RuntimeError:
        return Path(tempfile.gettempdir(), "frankenlab")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def write_if_changed(path: str | os.PathLike, text: str) -> bool:
    """Write `text` atomically unless the file already holds it; return whether it was written.

    An unchanged file keeps its time of modification, which Snakemake compares.
    """
    path = Path(path)
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True


def no_file(path: str | os.PathLike) -> str:
    """Return why a path cannot be read as a file ("does not exist"), or "" if it can."""
    path = Path(path)
    if path.is_file():
        return ""
    if path.is_dir():
        return "is a directory"
    return "is no regular file" if path.exists() else "does not exist"


def sha256_file(path: str | os.PathLike) -> str:
    """Return the hexadecimal SHA-256 of a file's contents."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_hash(value: Any, length: int = 16) -> str:
    """Return the first `length` hexadecimal digits of the SHA-256 of `value` as canonical JSON.

    Equal values hash equally whatever the order of their keys; tuples hash as lists.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
