"""What every job of the workflow needs around its work."""

import ctypes
import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from frankenlab.config.experiment import Experiment, check
from frankenlab.io.errors import UserError
from frankenlab.io.signals import Stopped, stopped_by_signals
from frankenlab.runtime.processes import end_with_workflow

# mallopt(3) of glibc: above which size a block gets pages of its own, and how much free memory at
# the top of the heap goes back to the system.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30

# The file system is full, a quota or a size limit is reached.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def job(snakemake: Any) -> Iterator[Experiment]:
    """Runs a script's work: log to its file, threads as granted, errors of the user on one line.

    A signal that asks the process to end (see `stopping`) leaves one line in the log.

    Yields:
        The experiment, checked again from the config that the job was given.
    """
    terminal = sys.stderr
    try:
        with stopped_by_signals():
            end_with_workflow()
            _keep_freed_memory()
            _log_to(snakemake.log[0])
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(snakemake.threads)
            yield check(snakemake.config)
    except Stopped as stop:
        logging.warning("stopped by %s: %s", stop.signal.name, stop.kept)
        raise
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else _no_space(error)
        if message is None:
            logging.exception("unexpected error")
            raise
        logging.error("%s", message)
        print(f"{snakemake.rule}: {message}", file=terminal)
        raise SystemExit(1) from None


def _log_to(path: str) -> None:
    log = open(path, "w", buffering=1, encoding="utf-8")  # noqa: SIM115 (open for the job's life)
    logging.basicConfig(stream=log, level=logging.INFO, format="%(asctime)s %(message)s")
    sys.stderr = log


def _no_space(error: Exception) -> str | None:
    """In one line, if that is what happened; not every writer (safetensors, say) has an errno."""
    for number in FULL:
        reason = os.strerror(number)
        if getattr(error, "errno", None) == number or reason in str(error):
            where = getattr(error, "filename", None) or os.getcwd()
            return (
                f"{where}: cannot write, {reason.lower()}; "
                "free some space and run again, finished parts are kept"
            )
    return None


def _keep_freed_memory() -> None:
    """Activations of a few megabytes are allocated and freed all the time: with glibc's defaults
    each gets fresh pages from the kernel, which is a fifth of the time of a layer."""
    with suppress(OSError, AttributeError):
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, KEPT_BYTES)
