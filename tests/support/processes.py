"""Processes that tests start, and what they say."""

import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from frankenlab.runtime.processes import is_alive


def with_file_limit(limit: int, work: Callable[[], int], log: Path) -> tuple[int, str]:
    """Runs `work` in a process of its own whose files the kernel keeps within `limit` bytes.

    Returns:
        Its exit status and what it wrote on stderr.
    """

    def limited() -> int:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        return work()

    _, status = os.waitpid(fork(limited, log), 0)
    return os.waitstatus_to_exitcode(status), log.read_text()


def fork(work: Callable[[], int], log: Path) -> int:
    """Process id of a copy of this process that does `work` and exits with what it returns."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            sys.stderr = log.open("w", buffering=1)
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def one_line(error: pytest.ExceptionInfo | str) -> str:
    """The message, after a check that it is one line."""
    text = str(error.value) if isinstance(error, pytest.ExceptionInfo) else error.rstrip("\n")
    assert text and "\n" not in text
    return text


def gone(process: int, seconds: float = 10) -> bool:
    """Tell whether a process that is not our child ends in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # A zombie that nobody waits for has ended too.
        if not is_alive(process) or _state(process) == "Z":
            return True
        time.sleep(0.05)
    return False


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def number_in(log: Path) -> int:
    """Return the number that a process writes as the first line of its log."""
    end = time.monotonic() + 20
    while not (log.is_file() and log.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.02)
    return int(log.read_text().split()[0])
