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
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from frankenlab.io.errors import UserError
from frankenlab.io.files import sha256_file, write_json

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# Snakemake deletes a job's declared outputs, so the manifest too, before it runs the job again:
# this copy of it still proves that the directory is whole, and nothing is downloaded twice.
TWIN = ".manifest.json"
# Sizes and times that the files had when they were last hashed: what has them still is not read
# again. It is no part of the manifest, which depends on contents only.
STATES = ".states.json"
# A file that was written so shortly before can be written again without a change of its times,
# which file systems count in steps of some milliseconds.
UNSETTLED_NS = 50_000_000
# These keys describe the directory in words, which may change without a change of its files.
WORDS = ("source", "description")
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
    refresh: bool = False,
    filled: Collection[str] = (),
) -> dict[str, Any]:
    """Makes the directory `target`, unless it is there already.

    It is there when its manifest has the same `facts["key"]` and every file in it has its size and
    its hash. Then only the manifest is written again, if it is gone or says something else.
    Processes that want the same target wait for each other.

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
            taken, states = time.time_ns(), file_states(target)
            old = complete_manifest(target, verify=True)
            if old is not None and (old.get("key") != facts["key"] or not old.keys() >= {*filled}):
                old = None
            if old is not None and not refresh:
                log.info("%s: complete, kept", target)
                manifest = {**old, **facts, "files": old["files"]}
                if manifest != old or not (target / MANIFEST).is_file():
                    _write_manifest(target, manifest)
                _record(target, states, taken)
                return manifest
            return _fill(target, facts, fill, old)
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        raise UserError(f"{target}: cannot be made: {reason}") from error


def complete_manifest(directory: str | os.PathLike, verify: bool = False) -> dict[str, Any] | None:
    """The manifest of a whole directory (`verify`: hashes are compared too), else None.

    Where there is no manifest its twin counts; a damaged manifest does not. Nothing is written.
    """
    directory = Path(directory)
    manifest = _proof(directory)
    if manifest is None:
        return None
    files = manifest["files"]
    if wrong := _first_wrong(directory, files, hashed=files if verify else ()):
        log.warning("%s: its %s differs from its manifest", *wrong)
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


def has_manifest(directory: str | os.PathLike) -> bool:
    """Tell whether there is a manifest or its twin, be it right or not."""
    return any((Path(directory) / name).exists() for name in (MANIFEST, TWIN))


class Verified(NamedTuple):
    """A manifest whose files are what it says, and the states (see `file_state`) that they had
    before they were looked at."""

    manifest: dict[str, Any]
    states: dict[str, list[int]]


def verify_directory(directory: str | os.PathLike, *, every_hash: bool = False) -> Verified:
    """Checks that a directory holds what its manifest says, before what it holds is used.

    A file is hashed unless its size and times are still those it had when it was last hashed; with
    `every_hash`, in any case.

    Raises:
        UserError: a file is missing, is not what the manifest says, or is not in the manifest.
    """
    directory = Path(directory)
    manifest = _proof(directory)
    if manifest is None:
        raise UserError(f"{directory}: not a complete download; fetch it again")
    visible = {p.name for p in directory.iterdir() if p.is_file() and not p.name.startswith(".")}
    if unlisted := sorted(visible - {MANIFEST, *manifest["files"]}):
        raise UserError(
            f"{directory / unlisted[0]}: it is not in {MANIFEST}, so that it is not known which "
            f"model this is; remove it, or remove {directory} and run again"
        )
    return Verified(manifest, _verify(directory, manifest, [*manifest["files"]], every_hash))


def verify_file(path: str | os.PathLike) -> None:
    """Checks a file against the manifest of the directory that holds it, as `verify_directory`.

    A file for which no manifest vouches passes.

    Raises:
        UserError: as `verify_directory`.
    """
    path = Path(path)
    directory = next((folder for folder in path.parents if has_manifest(folder)), None)
    manifest = directory and _proof(directory)
    if not directory or not manifest:
        return
    name = path.relative_to(directory).as_posix()
    if name in manifest["files"]:
        _verify(directory, manifest, [name], every_hash=False)


def file_state(path: str | os.PathLike) -> list[int]:
    """Return what changes when a file is written or replaced: size, and times in nanoseconds.

    The time of change beside that of modification tells a file that was copied or moved here with
    its old time of modification.
    """
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def file_states(
    directory: str | os.PathLike, names: Iterable[str] | None = None
) -> dict[str, list[int]]:
    """Return the states of the named files in a directory, or of all, by relative name.

    Files that are not there are left out.
    """
    directory = Path(directory)
    if names is None:
        names = (path.relative_to(directory).as_posix() for path in directory.rglob("*"))
    return {name: file_state(directory / name) for name in names if (directory / name).is_file()}


def _proof(directory: Path) -> dict[str, Any] | None:
    """Return the manifest, unless it is damaged: unreadable, or not what its twin says."""
    try:
        found = [
            json.loads((directory / name).read_text(encoding="utf-8"))
            for name in (MANIFEST, TWIN)
            if (directory / name).exists()
        ]
        manifest = found[0]
        facts = [{k: v for k, v in one.items() if k not in WORDS} for one in found]
        if manifest["format"] != FORMAT or not manifest["files"] or facts[0] != facts[-1]:
            return None
        for name, entry in manifest["files"].items():
            sound = isinstance(entry["size"], int) and isinstance(entry["sha256"], str)
            if not sound or not is_safe_name(name):
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
    return manifest


def _verify(
    directory: Path, manifest: Mapping[str, Any], names: Collection[str], every_hash: bool
) -> dict[str, list[int]]:
    """Return the states of files that are what the manifest says."""
    recorded = _recorded(directory)
    # Taken first: what changes while it is hashed is looked at again the next time.
    taken = time.time_ns()
    states = file_states(directory, names)
    changed = [n for n in names if every_hash or states.get(n) != recorded.get(n)]
    files = {name: manifest["files"][name] for name in names}
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
    """Return the first file that is not as listed, and what differs in it; None where all are."""
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
    """Return the states that the files had when they were last hashed, as far as they are known."""
    try:
        found = json.loads((directory / STATES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _record(directory: Path, states: Mapping[str, list[int]], taken: int) -> None:
    """Notes the states of files that were hashed after the time `taken` (in nanoseconds).

    In a directory of somebody else's, where it may not write, they are hashed each time.
    """
    own = (MANIFEST, TWIN, STATES)
    settled = {
        name: state
        for name, state in states.items()
        if name not in own and max(state[1:]) < taken - UNSETTLED_NS
    }
    with suppress(OSError, UserError):
        write_json(directory / STATES, settled)


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
        taken, states = time.time_ns(), file_states(temporary)
        manifest = {"format": FORMAT, **facts, **more, "files": _describe(temporary)}
        if manifest != old or not (target / MANIFEST).is_file():
            _write_manifest(temporary, manifest)
            _record(temporary, states, taken)
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
    """Removes what killed processes left; the lock is held, so no living one is using it."""
    # mkdtemp's random part has no dot, so the leftovers of "a.b" are not taken for those of "a".
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[^.]+\.part")
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            log.info("%s: removing what a killed download left", path)
            shutil.rmtree(path, ignore_errors=True)
