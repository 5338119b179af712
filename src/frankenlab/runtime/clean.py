"""Clears what killed workflows and jobs leave behind."""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from frankenlab.config.experiment import RESOURCES
from frankenlab.runtime import lock, orphans, places
from frankenlab.runtime.making import RIGHTS

# Temporary names of `files.atomic_path`, `directories.make_directory` and `export.materialize`: the
# target's name and random characters. What a download unpacks is inside of such a directory.
LEFTOVER = re.compile(r"\.(?P<target>.+)\.(?:[a-z0-9_]{8}|[0-9a-f]{32})\.part")

# A killed quantization resumes from these folders, which are useless once its result is there.
MEASURING, MEASURED = ".measuring", "measurement.json"
MAKING, MADE = re.compile(r"\.making-(?P<target>.+)"), "manifest.json"

# A job that was just stopped may be finishing a write.
YOUNG_SECONDS = 10.0


def clear(folder: str | os.PathLike = ".") -> Iterator[str]:
    """Clear a project's folder of what is in the way of the next workflow or only takes space.

    Jobs in SLURM's queue are cancelled; stale locks and half-written files are removed. Everything
    that is finished stays, and so does what later jobs resume from. Experiments that are running
    are left alone, and so is what they share with the others.

    Yields:
        A line for each thing that is cleared, and for each workflow that is running.

    Raises:
        UserError: SLURM does not answer, or some jobs do not end.
    """
    folder = Path(folder)
    resources, results = folder / RESOURCES, list(places.noted(folder))
    # Paths relative to the folder, since the names of jobs are made from these.
    running: list[Path] = []
    said: set[tuple] = set()
    with ExitStack() as stack:
        found = [(place, at) for place in [*results, RIGHTS] for at in lock.folders(folder / place)]
        for place, locked in found:
            before = lock.left_by(locked)
            try:
                stack.callback(lock.clear(locked).release)
            except lock.Held as held:
                running += [place / locked.name] if place in results else []
                # It also holds the right to make what it has not made yet.
                who = held.holder
                which = (who.host, who.pid, who.experiment) if who else (locked,)
                if which not in said:
                    yield f"left alone: {held}"
                said.add(which)
            else:
                if before is not None:
                    yield f"lock of a workflow that was killed: {before}: removed"
        alive = set(map(orphans.job_prefix, running))
        if jobs := [job for job in orphans.orphans(folder) if job.prefix not in alive]:
            yield f"jobs of a workflow that was killed: {orphans.named(jobs)}: cancelling"
            orphans.cancel(folder, jobs)
        roots = [folder / place for place in results]
        shared = [*(root / "store" for root in roots), resources] if running else []
        busy = [folder / place for place in running]
        for path in _leftovers([*roots, resources], without=[*busy, *shared]):
            yield f"half-written: {path}: removed"


def _leftovers(roots: Iterable[Path], without: Collection[Path]) -> Iterator[Path]:
    """Remove temporary files and directories whose writers are gone; yield their paths."""
    for root in roots:
        for parent, folders, files in os.walk(root):
            if Path(parent) in without:
                folders.clear()
                continue
            for name in files:
                path = Path(parent, name)
                if LEFTOVER.fullmatch(name) and _is_old(path):
                    path.unlink(missing_ok=True)
                    yield path
            for name in list(folders):
                path = Path(parent, name)
                match = LEFTOVER.fullmatch(name)
                if match is None and not _is_done_with(path):
                    continue
                folders.remove(name)
                # Its lock is a file beside it, or the directory itself.
                beside = [Path(parent, f".{match['target']}.lock")] if match else []
                with _alone(path, *beside) as alone:
                    if alone:
                        shutil.rmtree(path, ignore_errors=True)
                        yield path


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > YOUNG_SECONDS
    except FileNotFoundError:
        return False


def _is_done_with(path: Path) -> bool:
    """Tell whether it is the working folder of a quantization whose result is there."""
    if path.name == MEASURING:
        return (path.parent / MEASURED).is_file()
    match = MAKING.fullmatch(path.name)
    return match is not None and (path.parent / match["target"] / MADE).is_file()


@contextmanager
def _alone(*paths: Path) -> Iterator[bool]:
    """Lock files and directories in the block; yield whether no other process has locked one.

    Such a process may make the directory by hand, beside the workflow.
    """
    alone = True
    with ExitStack() as opened:
        for path in paths:
            # There may be no such file, and some file systems have no locks.
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY)
                opened.callback(os.close, descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    alone = False
        yield alone
