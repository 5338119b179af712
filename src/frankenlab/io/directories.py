"""Directories that are whole or absent, with a manifest that proves it.

A directory is filled under a temporary name beside its target and renamed at the end, so that a
killed job leaves nothing that looks finished. Its `manifest.json`, which is written last, lists the
size and the SHA-256 of every file.
"""

import fcntl
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from frankenlab.io.errors import UserError, one_line
from frankenlab.io.files import flush, sha256_file, share, write_json

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# Snakemake deletes a job's declared outputs, the manifest among them, before it runs the job again.
# This copy still proves that the directory is whole, so nothing is downloaded twice.
COPY = ".manifest.json"
# The sizes and times that the files had when they were last hashed: a file that still has them is
# not read again. They are no part of the manifest, which depends on contents only.
STATES = ".states.json"
# File systems count times in steps of some milliseconds, so a file that was written this shortly
# before its hashing may be written again without a change of its times.
UNSETTLED_NS = 50_000_000
# These keys describe the directory in words, which may change without a change of its files.
WORDS = ("source", "description")
# Raise it when the same key comes to mean different files, or another content of the manifest:
# directories with an older format are made again.
FORMAT = 2


def make_directory(
    target: str | os.PathLike,
    facts: Mapping[str, Any],
    fill: Callable[[Path], Mapping[str, Any]],
    *,
    refresh: bool = False,
    filled: Collection[str] = (),
) -> dict[str, Any]:
    """Make the directory `target` unless it is there, and return its manifest.

    It is there when its manifest has the same `facts["key"]` and every file has its size and its
    hash. Then at most the manifest is written again, where it is gone or says something else.
    Processes that want the same target wait for each other.

    Args:
        facts: what the manifest says about the directory; `key` identifies the contents.
        fill: puts the files into the empty directory that it is given, and returns more facts.
        refresh: fill a new directory in any case, and replace the target if anything differs.
        filled: the facts that `fill` returns; a directory whose manifest lacks one is made again.

    Returns:
        `format`, the facts, and `files` (relative name → `sha256`, `size` in bytes). It depends on
        contents only: it has no times and no absolute paths.

    Raises:
        UserError: the file system refused.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target) as locked:
            if locked:
                _remove_leftovers(target)
            old = _whole(target)
            if old is not None and (old.get("key") != facts["key"] or not old.keys() >= {*filled}):
                old = None
            if old is None or refresh:
                return _fill(target, facts, fill, old)
            log.info("%s: complete, kept", target)
            manifest = {**old, **facts, "files": old["files"]}
            if manifest != old or not (target / MANIFEST).is_file():
                _write_manifest(target, manifest)
            return manifest
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise UserError(f"{target}: cannot be made: {reason}") from error


def complete_manifest(directory: str | os.PathLike) -> dict[str, Any] | None:
    """Return the manifest of a directory whose files have the right sizes, else None.

    The manifest's copy counts where there is no manifest, but not where it is damaged. Nothing is
    written.
    """
    directory = Path(directory)
    manifest = _read(directory)
    if manifest is None:
        return None
    if wrong := _first_wrong(directory, manifest["files"], hashed=()):
        log.warning("%s: its %s differs from its manifest", *wrong)
        return None
    return manifest


def read_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """Return what `complete_manifest` does.

    Raises:
        UserError: the directory is not there, or not whole.
    """
    return _required(complete_manifest(directory), directory)


def has_manifest(directory: str | os.PathLike) -> bool:
    """Tell whether there is a manifest or its copy, damaged or not."""
    return any((Path(directory) / name).exists() for name in (MANIFEST, COPY))


class Verified(NamedTuple):
    """A manifest whose files are what it says, and the states (see `file_state`) that they had
    before they were checked."""

    manifest: dict[str, Any]
    states: dict[str, list[int]]


def verify_directory(directory: str | os.PathLike, *, every_hash: bool = False) -> Verified:
    """Check that a directory holds what its manifest says, before its contents are used.

    A file is hashed unless its size and times are those that it had when it was last hashed; with
    `every_hash`, every file is hashed.

    Raises:
        UserError: a file is missing, is not what the manifest says, or is not in the manifest.
    """
    directory = Path(directory)
    manifest = _required(_read(directory), directory)
    visible = {p.name for p in directory.iterdir() if p.is_file() and not p.name.startswith(".")}
    if unlisted := sorted(visible - {MANIFEST, *manifest["files"]}):
        raise UserError(
            f"{directory / unlisted[0]}: it is not in {MANIFEST}, so that it is not known which "
            f"model this is; remove it, or remove {directory} and run again"
        )
    return Verified(manifest, _verify(directory, manifest["files"], every_hash))


def verify_file(path: str | os.PathLike) -> None:
    """Check a file as `verify_directory` does, if it is in the manifest of a directory above it.

    Raises:
        UserError: it is not what the manifest says.
    """
    path = Path(path)
    directory = next((folder for folder in path.parents if has_manifest(folder)), None)
    manifest = _read(directory) if directory else None
    if directory and manifest:
        name = path.relative_to(directory).as_posix()
        _verify(directory, {n: e for n, e in manifest["files"].items() if n == name})


def file_state(path: str | os.PathLike) -> list[int]:
    """Return what changes when a file is written or replaced: its size, and times in nanoseconds.

    The time of change is there because a file that was copied or moved may keep its old time of
    modification.
    """
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def file_states(directory: str | os.PathLike, names: Iterable[str]) -> dict[str, list[int]]:
    """Return the states of the named files in a directory; those that are absent are left out."""
    directory = Path(directory)
    return {name: file_state(directory / name) for name in names if (directory / name).is_file()}


def is_safe_name(name: str) -> bool:
    """Tell whether a file of that name stays inside its directory, on any operating system."""
    parts = name.split("/")
    return (
        not any(part in ("", ".", "..") for part in parts)
        and "\\" not in name
        and not re.match(r"[A-Za-z]:", name)
        and name.isprintable()
    )


def _read(directory: Path) -> dict[str, Any] | None:
    """Return the manifest, or None where it is unreadable or contradicts its copy."""
    try:
        found = [
            json.loads((directory / name).read_text(encoding="utf-8"))
            for name in (MANIFEST, COPY)
            if (directory / name).exists()
        ]
        manifest = found[0]
        facts = [{k: v for k, v in one.items() if k not in WORDS} for one in found]
        if manifest["format"] != FORMAT or not manifest["files"] or facts[0] != facts[-1]:
            return None
        for name, entry in manifest["files"].items():
            valid = isinstance(entry["size"], int) and isinstance(entry["sha256"], str)
            if not valid or not is_safe_name(name):
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
    return manifest


def _required(manifest: dict[str, Any] | None, directory: str | os.PathLike) -> dict[str, Any]:
    if manifest is None:
        raise UserError(f"{directory}: not a complete download; fetch it again")
    return manifest


def _whole(directory: Path) -> dict[str, Any] | None:
    """Return the manifest of a directory whose files all have their hashes, else None."""
    manifest = _read(directory)
    try:
        if manifest is not None:
            _verify(directory, manifest["files"], every_hash=True)
    except UserError as error:
        log.warning("%s", error)
        return None
    return manifest


def _verify(
    directory: Path, files: Mapping[str, Mapping[str, Any]], every_hash: bool = False
) -> dict[str, list[int]]:
    """Check files against their entries in the manifest, and return their states.

    Raises:
        UserError: a file is missing or differs.
    """
    recorded = _recorded(directory)
    # Taken first, so that a file which changes while it is hashed is hashed again the next time.
    taken = time.time_ns()
    states = file_states(directory, files)
    changed = [name for name in files if every_hash or states.get(name) != recorded.get(name)]
    if wrong := _first_wrong(directory, files, hashed=changed):
        raise UserError(
            f"{wrong[0]}: its {wrong[1]} differs from {directory.name}/{MANIFEST}; "
            f"remove {directory} and run again, and it is made again"
        )
    if changed:
        _record(directory, {**recorded, **states}, taken)
    return states


def _first_wrong(
    directory: Path, files: Mapping[str, Mapping[str, Any]], hashed: Collection[str]
) -> tuple[Path, str] | None:
    """Return the first file that is not as listed, and what differs; None where none differs."""
    for name, entry in files.items():
        path = directory / name
        try:
            if path.stat().st_size != entry["size"]:
                return path, "size"
            if name in hashed and sha256_file(path) != entry["sha256"]:
                return path, "content"
        except OSError:
            return path, "presence"
    return None


def _recorded(directory: Path) -> dict[str, list[int]]:
    """Return the states that files had when they were last hashed, where they were recorded."""
    try:
        found = json.loads((directory / STATES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _record(directory: Path, states: Mapping[str, list[int]], taken: int) -> None:
    """Record the states of files that were hashed after the time `taken` (in nanoseconds).

    Where the directory cannot be written to, the files are hashed each time.
    """
    settled = {n: state for n, state in states.items() if max(state[1:]) < taken - UNSETTLED_NS}
    with suppress(OSError, UserError):
        write_json(directory / STATES, settled)


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
        taken, files = time.time_ns(), _describe(temporary)
        manifest = {"format": FORMAT, **facts, **more, "files": files}
        if manifest != old or not (target / MANIFEST).is_file():
            _write_manifest(temporary, manifest)
            _record(temporary, file_states(temporary, files), taken)
            _install(temporary, target)
        log.info("%s: ready, %d files", target, len(files))
        return manifest
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    write_json(directory / COPY, manifest)
    write_json(directory / MANIFEST, manifest)


def _describe(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the hash and size of every file by relative name, and force the files to disk."""
    files = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        flush(path)
        name = path.relative_to(directory).as_posix()
        files[name] = {"sha256": sha256_file(path), "size": path.stat().st_size}
    return files


def _install(temporary: Path, target: Path) -> None:
    """Rename a directory to `target`; what was there (stale or damaged) is moved aside first.

    rename(2) replaces an empty directory only, so there is a moment without a target, but never one
    with a half-made target.
    """
    if not target.exists():
        temporary.replace(target)
        return
    aside = tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    target.replace(aside)
    temporary.replace(target)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _locked(target: Path) -> Iterator[bool]:
    """Hold the target's lock, which the kernel takes back from a killed process.

    Yields:
        Whether it is locked: some network file systems have no locks.
    """
    with (target.parent / f".{target.name}.lock").open("ab") as handle:
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
    """Remove what killed processes left; the lock is held, so no running process uses it."""
    # mkdtemp's random part has no dot, so leftovers of "a.b" are not taken for those of "a".
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[^.]+\.part")
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            log.info("%s: removing what a killed download left", path)
            shutil.rmtree(path, ignore_errors=True)
