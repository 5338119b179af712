"""The surroundings of every job's work: its log, its signals, and errors on one line."""

import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from frankenlab.config.experiment import Experiment, check
from frankenlab.io.errors import UserError
from frankenlab.io.files import disk_full
from frankenlab.io.signals import Stopped, stopped_by_signals
from frankenlab.runtime.network import allow
from frankenlab.runtime.processes import end_with_workflow

# Options of mallopt(3) in glibc: the free memory at the top of the heap that the system gets back,
# and the size from which a block gets pages of its own.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


@contextmanager
def job(snakemake: Any, network: bool = False) -> Iterator[Experiment]:
    """Run a script's work: it logs to the job's file and uses the threads that it was given.

    A user's error is one line on the terminal and in the log. A signal that asks the process to end
    (see `io.signals`) leaves one line in the log.

    Args:
        network: whether it may ask the Hugging Face hub; what asks is to be imported inside.

    Yields:
        The experiment, from the config that the job was given.
    """
    terminal = sys.stderr
    try:
        with stopped_by_signals():
            end_with_workflow()
            if network:
                allow()
            _keep_freed_memory()
            _log_to(snakemake.log[0])
            # For torch that is imported later, and now for torch that is there.
            os.environ["OMP_NUM_THREADS"] = str(snakemake.threads)
            if "torch" in sys.modules:
                # Waits, where another thread still imports it.
                import torch

                torch.set_num_threads(snakemake.threads)
            yield check(snakemake.config)
    except Stopped as stop:
        logging.warning("stopped by %s: %s", stop.signal.name, stop.kept)
        raise
    except Exception as error:
        where = getattr(error, "filename", None) or os.getcwd()
        message = str(error) if isinstance(error, UserError) else disk_full(error, where)
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


def _keep_freed_memory() -> None:
    """Have the C library keep freed memory for later activations.

    By default glibc takes fresh pages from the kernel for each activation of a few megabytes, which
    costs a fifth of a layer's time.
    """
    with suppress(OSError, AttributeError):
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, KEPT_BYTES)
