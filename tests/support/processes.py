"""Processes that tests start, and what they say."""

import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest


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
