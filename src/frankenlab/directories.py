"""Directories that are either whole or absent, with a manifest that proves it.

The sibling of `files` for contents that are made once and shared: a directory is filled under a
temporary name beside its target and renamed at the end, so a killed job leaves nothing that looks
finished. Its `manifest.json` (sizes and SHA-256 of every file) is written last.
"""

import fcntl
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from frankenlab.errors import UserError
from frankenlab.files import sha256_file, write_json

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# Snakemake deletes a job's declared outputs, so the manifest too, before it runs the job again:
# this copy of it still proves that the directory is whole, and nothing is downloaded twice.
TWIN = ".manifest.json"
# To be raised when the same key is turned into different files, or their manifest says other things
# about them: directories made before are stale.
FORMAT = 2

# Unpickling runs code, and so does importing: never taken, whatever a configuration includes.
NEVER = re.compile(r"\.(bin|pt|pth|ckpt|pkl|pickle|joblib|npy|npz|h5|msgpack|py|pyc|so)$", re.I)


def make_directory(
    target: str | os.PathLike,
    facts: Mapping[str, Any],
    fill: Callable[[Path], Mapping[str, Any]],
    *,
    verify: bool = False,
    refresh: bool = False,
    filled: Collection[str] = (),
) -> dict[str, Any]:
    """Makes the directory `target`, unless it is there already.

    It is there when its manifest has the same `facts["key"]` and every file in it has its size
    (with `verify`, also its hash). Then only the manifest is written again, if it is gone or says
    something else. Processes that want the same target wait for each other.

    Args:
        facts: what the manifest says about the directory; `key` identifies what is in it.
        fill: puts the files into the empty directory that it is given; what it returns is added
            to the facts.
        refresh: fill anew in any case, and replace the target if anything differs.
        filled: what `fill` adds to the facts; a manifest that lacks any is filled anew.

    Returns:
        The manifest: `format`, the facts, and `files` (relative name → `sha256`, `size` in
        bytes). It depends on contents only: no times, no absolute paths.

    Raises:
        UserError: the file system refused.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target) as alone:
            if alone:
                _remove_leftovers(target)
            old = complete_manifest(target, verify)
            if old is not None and (old.get("key") != facts["key"] or not old.keys() >= {*filled}):
                old = None
            if old is not None and not refresh:
                log.info("%s: complete, kept", target)
                manifest = {**old, **facts, "files": old["files"]}
                if manifest != old or not (target / MANIFEST).is_file():
                    _write_manifest(target, manifest)
                return manifest
            return _fill(target, facts, fill, old)
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        raise UserError(f"{target}: cannot be made: {reason}") from error


def complete_manifest(directory: str | os.PathLike, verify: bool = False) -> dict[str, Any] | None:
    """The manifest of a whole directory (`verify`: hashes are compared too), else None.

    Where there is no manifest its twin counts; a damaged manifest does not.
    """
    directory = Path(directory)
    try:
        proof = MANIFEST if (directory / MANIFEST).exists() else TWIN
        manifest = json.loads((directory / proof).read_text())
        if manifest["format"] != FORMAT or not manifest["files"]:
            return None
        for name, entry in manifest["files"].items():
            path = directory / name
            if not is_safe_name(name) or path.stat().st_size != entry["size"]:
                log.warning("%s: size differs from its manifest", path)
                return None
            if verify and sha256_file(path) != entry["sha256"]:
                log.warning("%s: contents differ from its manifest", path)
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest


def read_manifest(directory: str | os.PathLike, verify: bool = False) -> dict[str, Any]:
    """As `complete_manifest`.

    Raises:
        UserError: the directory is not there, or not whole.
    """
    manifest = complete_manifest(directory, verify)
    if manifest is None:
        raise UserError(f"{directory}: not a complete download; fetch it again")
    return manifest


def is_safe_name(name: str) -> bool:
    """Whether a file of that name stays inside the directory it is put into, on any system."""
    parts = name.split("/")
    return (
        not any(part in ("", ".", "..") for part in parts)
        and "\\" not in name
        and not re.match(r"[A-Za-z]:", name)
        and name.isprintable()
    )


def _fill(
    target: Path,
    facts: Mapping[str, Any],
    fill: Callable[[Path], Mapping[str, Any]],
    old: dict[str, Any] | None,
) -> dict[str, Any]:
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        more = fill(temporary)
        share(temporary)
        manifest = {"format": FORMAT, **facts, **more, "files": _describe(temporary)}
        if manifest != old or not (target / MANIFEST).is_file():
            _write_manifest(temporary, manifest)
            _install(temporary, target)
        log.info("%s: ready, %d files", target, len(manifest["files"]))
        return manifest
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    write_json(directory / TWIN, manifest)
    write_json(directory / MANIFEST, manifest)


def share(directory: Path) -> None:
    """Gives everything the permissions that the umask asks for: temporary directories and some
    writers' files are private, but shared resources must be readable by the group."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _describe(directory: Path) -> dict[str, dict[str, Any]]:
    """Hash and size of every file, by relative name; forces them to disk before they are vouched
    for."""
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
            name = PurePosixPath(path.relative_to(directory)).as_posix()
            files[name] = {"sha256": sha256_file(path), "size": path.stat().st_size}
    return files


def _install(temporary: Path, target: Path) -> None:
    """Renames onto `target`; what was there (stale or damaged) is moved aside first.

    rename(2) replaces an empty directory only, so there is a moment without a target, never one
    with a half-made target.
    """
    if target.exists():
        aside = tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        target.replace(aside)
        temporary.replace(target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        temporary.replace(target)


@contextmanager
def _locked(target: Path) -> Iterator[bool]:
    """Holds the target's lock, which the kernel takes back from a killed process; yields whether
    there is one (some network file systems have none)."""
    with (target.parent / f".{target.name}.lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process is making it; waiting", target)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True


def _remove_leftovers(target: Path) -> None:
    """Removes what killed processes left; the lock is held, so no living one is using it."""
    # mkdtemp's random part has no dot, so the leftovers of "a.b" are not taken for those of "a".
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[^.]+\.part")
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            log.info("%s: removing what a killed download left", path)
            shutil.rmtree(path, ignore_errors=True)
