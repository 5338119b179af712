"""A run of exllamav2's converter: its directory, its lock, its output, its end."""

import fcntl
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.io.errors import UserError
from frankenlab.io.files import write_json
from frankenlab.io.progress import Progress
from frankenlab.io.records import is_record
from frankenlab.io.signals import die_with_parent

logger = logging.getLogger(__name__)

# What a job keeps in its directory; nothing else there is ever touched.
IDENTITY, LOG, STATE = "job.json", "converter.log", "exllamav2"
CONTENTS = (STATE, "model", "result", "calibration.parquet", "measured.json", LOG, IDENTITY)

# Printed with --status_output.
STATUS = re.compile(r"\[STATUS\](.*)\[/STATUS\]")
LONGEST_REASON = 300


class Job:
    """The directory in which one job of the converter works, and goes on after a kill.

    exllamav2 saves its state every three minutes, and goes on with whatever arguments its
    directory was begun with: so only a job with the same `identity` does, and only from a state
    that exllamav2 calls valid.

    Args:
        identity: everything that the outcome depends on.
        title: what is being done, for progress.
    """

    def __init__(self, work: Path, identity: Mapping[str, Any], title: str) -> None:
        self.work, self.title = work, title
        self.identity = json.loads(json.dumps(identity))
        self.resumes = False
        self._lock: IO[str] | None = None

    @property
    def state(self) -> Path:
        """The directory that belongs to the converter."""
        return self.work / STATE

    @property
    def log(self) -> Path:
        """All that the converter printed, over all runs of the job."""
        return self.work / LOG

    def __enter__(self) -> "Job":
        self.work.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self.resumes = self._same_job() and self._state_is_valid()
        if self.resumes:
            logger.info("%s: going on where it was broken off", self.title)
        else:
            self._clear()
            write_json(self.work / IDENTITY, self.identity)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    @property
    def lock_descriptor(self) -> int:
        """The converter holds the lock too: if it outlives its parent, nobody else starts."""
        assert self._lock is not None
        return self._lock.fileno()

    def failure(self, reason: str) -> UserError:
        """An error that names the log; the directory stays, with the log in it."""
        own = _own_error(
            self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        )
        said = " ".join((reason if own is None or own in reason else f"{reason} ({own})").split())
        said = said[:LONGEST_REASON]
        return UserError(f"{self.title}: exllamav2's converter failed: {said}; see {self.log}")

    def finished(self) -> None:
        """Removes what the job needed."""
        self._clear()
        with suppress(OSError):
            self.work.rmdir()

    def _take_lock(self) -> None:
        # Beside the directory, which goes at the end: a removed lock would be two locks.
        self._lock = (self.work.parent / f".{self.work.name}.lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: another converter is at work in %s; waiting", self.title, self.work)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError:
            # Some network file systems have no locks; the workflow runs a job once at a time.
            logger.debug("%s: no lock there", self.work)

    def _same_job(self) -> bool:
        try:
            return json.loads((self.work / IDENTITY).read_text(encoding="utf-8")) == self.identity
        except (OSError, ValueError):
            return False

    def _state_is_valid(self) -> bool:
        """exllamav2 marks its state invalid while it replaces it, and does not write it in one
        go; a finished job that is run again failed our checks."""
        try:
            state = json.loads((self.state / "job_new.json").read_text(encoding="utf-8"))
            return "invalid" not in state and state["progress"] != "finished"
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _clear(self) -> None:
        for name in CONTENTS:
            path = self.work / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def run_converter(converter: Sequence[str], arguments: Sequence[str], job: Job) -> str:
    """Runs the converter to its end, with progress; gives all that the job printed.

    Raises:
        UserError: it could not be started, or did not end with exit status 0.
    """
    fresh = [] if job.resumes else ["-nr"]
    command = [*converter, "-o", str(job.state), *fresh, *arguments, "--status_output"]
    # Without flash-attn, exllamav2's attention by torch's SDPA sees the future (0.2.9 to 0.3.2).
    environment = {**os.environ, "EXLLAMA_NO_SDPA": "1", "PYTHONUNBUFFERED": "1"}
    logger.info("%s: %s", job.title, " ".join(command))
    try:
        process = subprocess.Popen(
            command,
            # It asks questions when it is interrupted.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
            pass_fds=[job.lock_descriptor],
            preexec_fn=die_with_parent,
        )
    except OSError as error:
        raise job.failure(f"{command[0]}: {error.strerror}") from error
    try:
        _watch(process, job)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    text = job.log.read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        raise job.failure(f"{_last_words(text)} (exit status {process.returncode})")
    return text


def _watch(process: subprocess.Popen, job: Job) -> None:
    """Writes the log as it comes; warnings and errors into ours, stages as progress."""
    assert process.stdout is not None
    stage, percent, progress = "", 0, None
    with job.log.open("a", buffering=1, encoding="utf-8") as log:
        for line in process.stdout:
            if status := _status(line):
                if status["stage"] != stage:
                    if progress is not None:
                        progress.close()
                    stage, percent = status["stage"], 0
                    progress = Progress(100, f"{job.title}, {stage.lower()}", "%")
                now = int(100 * status["completion"])
                assert progress is not None
                progress.advance(now - percent)
                percent = now
                continue
            log.write(line)
            if line.lstrip().startswith(("!!", "##", "**")):
                logger.warning("exllamav2: %s", line.strip())
    if progress is not None:
        progress.close()


class Status(TypedDict):
    """What the converter prints about its progress."""

    stage: str
    completion: Annotated[float, Field(ge=0, le=1)]


def _status(line: str) -> dict[str, Any] | None:
    """Return the stage and its share that is done, where a line tells them."""
    match = STATUS.search(line)
    try:
        status = json.loads(match[1]) if match else None
    except ValueError:
        return None
    return status if is_record(status, Status) else None


def _last_words(text: str) -> str:
    """What the converter gave as its reason: its own error line, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _own_error(text) or (lines or ["it printed nothing"])[-1]


def _own_error(text: str) -> str | None:
    """The last line, of the last few, that exllamav2 marks as an error."""
    lines = [line.strip() for line in text.splitlines()[-10:]]
    errors = [line.lstrip("#* ") for line in lines if line.startswith(("##", "** Error"))]
    return errors[-1] if errors else None
