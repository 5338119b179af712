"""Run exllamav2's converter: in a locked folder, with its output in a log, to a checked end."""

import fcntl
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.io.errors import UserError
from frankenlab.io.files import write_json
from frankenlab.io.progress import Progress
from frankenlab.io.records import is_record
from frankenlab.io.signals import die_with_parent

logger = logging.getLogger(__name__)

# Printed with --status_output.
STATUS = re.compile(r"\[STATUS\](.*)\[/STATUS\]")
LONGEST_REASON = 300


class Status(TypedDict):
    """What the converter prints about its progress."""

    stage: str
    completion: Annotated[float, Field(ge=0, le=1)]


class ConverterRun:
    """A run of the converter in a folder of its own, locked, that goes on after a kill.

    exllamav2 saves its state every three minutes, and goes on with whatever arguments its
    directory was begun with: so only a run with the same `identity` does, and only from a state
    that exllamav2 calls valid. The folder and its log stay until the caller removes them.

    Args:
        identity: everything that the outcome depends on.
        title: what is being done, for progress.
    """

    def __init__(self, work: Path, identity: Mapping[str, Any], title: str) -> None:
        self.work, self.title = work, title
        self.state, self.log = work / "exllamav2", work / "converter.log"
        self._identity = json.loads(json.dumps(identity))

    def __enter__(self) -> "ConverterRun":
        self._lock = self._take_lock()
        known = self.work / "job.json"
        self._resumes = _json(known) == self._identity and self._state_is_valid()
        if self._resumes:
            logger.info("%s: goes on where it was broken off", self.title)
        else:
            shutil.rmtree(self.work, ignore_errors=True)
            write_json(known, self._identity)
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def convert(self, converter: Sequence[str], arguments: Sequence[str]) -> str:
        """Run the converter to its end, with progress; return all that it has printed.

        Raises:
            UserError: it could not be started, or did not end with exit status 0.
        """
        fresh = [] if self._resumes else ["-nr"]
        command = [*converter, "-o", str(self.state), *fresh, *arguments, "--status_output"]
        # Without flash-attn, its attention by torch's SDPA sees the future (0.2.9 to 0.3.2).
        environment = {**os.environ, "EXLLAMA_NO_SDPA": "1", "PYTHONUNBUFFERED": "1"}
        logger.info("%s: %s", self.title, " ".join(command))
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
                # The converter holds the lock too: if it outlives its parent, nobody else starts.
                pass_fds=[self._lock.fileno()],
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise self.failure(f"{command[0]}: {error.strerror}") from error
        try:
            self._watch(process)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        text = self.log.read_text(encoding="utf-8", errors="replace")
        if process.returncode:
            raise self.failure(f"{_last_words(text)} (exit status {process.returncode})")
        return text

    def failure(self, reason: str) -> UserError:
        """Return an error that names the log."""
        found = self.log.is_file()
        own = _own_error(self.log.read_text(encoding="utf-8", errors="replace") if found else "")
        said = " ".join((reason if own is None or own in reason else f"{reason} ({own})").split())
        said = said[:LONGEST_REASON]
        return UserError(f"{self.title}: exllamav2's converter failed: {said}; see {self.log}")

    def _take_lock(self) -> IO[bytes]:
        # Beside the folder, which goes at the end: a removed lock would be two locks.
        self.work.parent.mkdir(parents=True, exist_ok=True)
        lock = (self.work.parent / f".{self.work.name}.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: another converter is at work in %s; waiting", self.title, self.work)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            # Some network file systems have no locks; the workflow runs a job once at a time.
            logger.debug("%s: no lock there", self.work)
        return lock

    def _state_is_valid(self) -> bool:
        """Tell whether the converter can go on.

        It marks its state invalid while it replaces it, and does not write it in one go. A
        finished run that is started again failed our checks.
        """
        state = _json(self.state / "job_new.json")
        if not isinstance(state, Mapping) or "invalid" in state:
            return False
        return state.get("progress", "finished") != "finished"

    def _watch(self, process: subprocess.Popen[str]) -> None:
        """Write the log as it comes; warnings and errors into ours, stages as progress."""
        assert process.stdout is not None
        stage, percent, progress = "", 0, None
        with self.log.open("a", buffering=1, encoding="utf-8") as log:
            for line in process.stdout:
                if (status := _status(line)) is None:
                    log.write(line)
                    if line.lstrip().startswith(("!!", "##", "**")):
                        logger.warning("exllamav2: %s", line.strip())
                    continue
                if progress is None or status["stage"] != stage:
                    if progress is not None:
                        progress.close()
                    stage, percent = status["stage"], 0
                    progress = Progress(100, f"{self.title}, {stage.lower()}", "%")
                now = int(100 * status["completion"])
                progress.advance(now - percent)
                percent = now
        if progress is not None:
            progress.close()


def _json(path: Path) -> Any:
    """Return what a JSON file holds; None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _status(line: str) -> Status | None:
    """Return the stage and its share that is done, where a line says them."""
    match = STATUS.search(line)
    try:
        status = json.loads(match[1]) if match else None
    except ValueError:
        return None
    return status if is_record(status, Status) else None


def _last_words(text: str) -> str:
    """Return the converter's own error line, or else the last line that it printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _own_error(text) or (lines or ["it printed nothing"])[-1]


def _own_error(text: str) -> str | None:
    """Return the last line, of the last ten, that exllamav2 marks as an error."""
    lines = [line.strip() for line in text.splitlines()[-10:]]
    errors = [line.lstrip("#* ") for line in lines if line.startswith(("##", "** Error"))]
    return errors[-1] if errors else None
