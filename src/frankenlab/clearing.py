"""What killed workflows and jobs leave behind, cleared in one go."""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frankenlab import lock, orphans

# Of `files.atomic_path` and `directories.make_directory`: the target, eight random characters.
LEFTOVER = re.compile(r"\.(?P<target>.+)\.(?:[a-z0-9_]{8}|[0-9a-f]{32})\.part")

# A job that was just stopped may be finishing a write.
YOUNG_SECONDS = 10.0


def clear(folder: str | os.PathLike = ".") -> Iterator[str]:
    """Clears a project's folder of what is in the way of the next workflow, or only takes space.

    Jobs left in SLURM's queue are cancelled, a stale lock and half-written files are removed;
    whatever is finished, and what work goes on from, stays.

    Yields:
        A line for everything that is found.

    Raises:
        UserError: a workflow is running there; SLURM does not answer, or some jobs do not end.
    """
    folder = Path(folder)
    results = folder / "results"
    before = lock.left_by(results)
    held = lock.clear(results)
    try:
        if before is not None:
            yield f"lock of a workflow that was killed: {before}: removed"
        if jobs := orphans.orphans(folder):
            yield f"jobs of a workflow that was killed: {orphans.named(jobs)}: cancelling"
            orphans.cancel(folder, jobs)
        for path in _leftovers(results, folder / "resources"):
            yield f"half-written: {path}: removed"
    finally:
        held.release()


def _leftovers(*roots: Path) -> Iterator[Path]:
    """Removes temporary files and directories whose writers are gone; gives their paths."""
    for root in roots:
        for parent, folders, files in os.walk(root):
            for name in [*folders, *files]:
                match = LEFTOVER.fullmatch(name)
                if match is None:
                    continue
                path = Path(parent, name)
                if name in files:
                    if time.time() - path.stat().st_mtime > YOUNG_SECONDS:
                        path.unlink()
                        yield path
                    continue
                folders.remove(name)
                with _alone(Path(parent, f".{match['target']}.lock")) as alone:
                    if alone:
                        shutil.rmtree(path, ignore_errors=True)
                        yield path


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether nobody is making that directory (by hand, say, beside the workflow)."""
    if not path.is_file():
        yield True
        return
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass
        yield True
