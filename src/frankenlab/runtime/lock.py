"""The lock that lets one workflow at a time work in a folder, such as an experiment's results.

The lock is flock(2) on a file that says who holds it. The kernel takes it back when the process
ends, however it ends. Some network file systems have no such locks. There a second file is created,
which only one process can do; it is stale when its holder ran on this host and has ended.
"""

import atexit
import errno
import fcntl
import getpass
import json
import os
import socket
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated

from pydantic import Field

from frankenlab.io.errors import UserError, one_line
from frankenlab.io.records import is_record
from frankenlab.runtime.processes import is_alive

NAME, EXCLUSIVE = ".lock", ".lock.exclusive"

# The errors of flock on file systems without locks.
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}

CLEAR = "`frankenlab clear`"


Line = Annotated[str, Field(pattern=r"^[^\n]*$")]


@dataclass(frozen=True)
class Holder:
    """The workflow that holds a lock.

    Attributes:
        born: the start of its process in the kernel's clock ticks, which differs from that of a
            later process with the same number; None where the kernel does not say.
    """

    host: Line
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    user: Line
    started: Line
    experiment: Line
    born: Annotated[int, Field(gt=0, lt=2**63)] | None = None

    @classmethod
    def here(cls, experiment: str) -> "Holder":
        """Return this process as a holder."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _user(), now, experiment, _born(pid))

    def __str__(self) -> str:
        return (
            f"experiment {self.experiment}, process {self.pid} of {self.user} on {self.host}, "
            f"since {self.started}"
        )

    def ended(self) -> bool | None:
        """Tell whether its process has ended; None where it ran on another host."""
        if self.host != socket.gethostname():
            return None
        if not is_alive(self.pid):
            return True
        return self.born is not None and _born(self.pid) != self.born


class Held(UserError):
    """Another workflow has the lock.

    Attributes:
        holder: the other workflow; None where it is not written down (yet).
        certain: whether it certainly runs; without the kernel's locks it may have ended.
    """

    def __init__(self, folder: Path, holder: Holder | None, certain: bool) -> None:
        self.holder, self.certain = holder, certain
        who = str(holder) if holder else "one that has just started"
        hint = "wait for it or stop it" + ("" if certain else f"; if it runs no more, {CLEAR}")
        super().__init__(f"another workflow is running on {folder}/: {who}; {hint}")


class Lock:
    """A lock that is held until `release` or the end of the process."""

    def __init__(self, file: IO[str] | None, exclusive: Path | None, holder: Holder) -> None:
        self._file, self._exclusive, self._holder = file, exclusive, holder
        # After a normal end the file must be empty, or it would look as after a kill.
        atexit.register(self.release)

    def release(self) -> None:
        """Release the lock; a second call, or one in a child process, changes nothing."""
        if os.getpid() != self._holder.pid:
            return
        with suppress(OSError):
            if self._file is not None and not self._file.closed:
                self._file.truncate(0)
                self._file.close()
            if self._exclusive is not None and read(self._exclusive) == self._holder:
                self._exclusive.unlink()
        atexit.unregister(self.release)


def take(folder: str | os.PathLike, experiment: str) -> Lock:
    """Take the lock of a folder, and write down who has it.

    Raises:
        Held: another process has it.
        UserError: the folder cannot be written to.
    """
    folder = Path(folder)
    holder = Holder.here(experiment)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # "w" would delete what the holder wrote, also when the lock is refused.
        file = open(folder / NAME, "a+", encoding="utf-8")  # noqa: SIM115 (the lock lasts as long as it is open)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise Held(folder, read(folder / NAME), certain=True) from None
        except OSError as error:
            file.close()
            if error.errno not in UNSUPPORTED:
                raise
            _create(folder, holder)
            # The working folder may be another one when the lock is released.
            return Lock(None, (folder / EXCLUSIVE).absolute(), holder)
        file.truncate(0)
        file.write(_text(holder))
        file.flush()
    except OSError as error:
        reason = one_line(error.strerror or error).lower()
        raise UserError(f"{folder}/: its lock cannot be taken: {reason}") from error
    return Lock(file, None, holder)


def left_by(folder: str | os.PathLike) -> Holder | None:
    """Return the holder of a folder's lock that still has it, or was killed with it."""
    return read(Path(folder) / NAME) or read(Path(folder) / EXCLUSIVE)


def folders(root: str | os.PathLike) -> list[Path]:
    """Return the folders directly below `root` that have or had a lock."""
    found = Path(root).glob(f"*/{NAME}*")
    return sorted({path.parent for path in found if path.name in (NAME, EXCLUSIVE)})


def holders(root: str | os.PathLike) -> list[Holder]:
    """Return who holds the locks of folders directly below `root`, but for those that have
    certainly ended."""
    found = map(left_by, folders(root))
    return [holder for holder in found if holder is not None and holder.ended() is not True]


def clear(folder: str | os.PathLike) -> Lock:
    """Take the lock; remove that of a holder which may still run on another host.

    It is meant for a person who knows that no workflow runs.

    Raises:
        Held: the holder certainly runs.
        UserError: as `take`.
    """
    try:
        return take(folder, "clear")
    except Held as held:
        if held.certain:
            raise
        (Path(folder) / EXCLUSIVE).unlink(missing_ok=True)
    return take(folder, "clear")


def read(path: Path) -> Holder | None:
    """Return the holder that a lock file names, or None."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Holder(**found) if is_record(found, Holder) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _text(holder: Holder) -> str:
    return json.dumps(asdict(holder)) + "\n"


def _create(folder: Path, holder: Holder) -> None:
    """Create the exclusive file, also in the place of one whose holder has ended."""
    path = folder / EXCLUSIVE
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            other = read(path)
            if other is None or not other.ended():
                alive = other is not None and other.ended() is False
                raise Held(folder, other, certain=alive) from None
            _remove(path, other)
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(_text(holder))
            return


def _remove(path: Path, stale: Holder) -> None:
    """Remove the file of a holder that has ended.

    Another process may have replaced the file in between; then it is put back.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if read(aside) != stale:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return str(os.getuid())


def _born(pid: int) -> int | None:
    try:
        # The command, in brackets, may have spaces in it.
        return int(
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        )
    except (OSError, ValueError, IndexError):
        return None
