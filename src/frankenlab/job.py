"""What every job of the workflow needs around its work."""

import ctypes
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from frankenlab.accounting import record
from frankenlab.config import Experiment, check
from frankenlab.errors import UserError

PR_SET_PDEATHSIG = 1

# mallopt(3) of glibc: above which size a block gets pages of its own, and how much free memory at
# the top of the heap goes back to the system.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


@contextmanager
def job(snakemake: Any) -> Iterator[Experiment]:
    """Runs a script's work: log to its file, threads as granted, errors of the user on one line.

    Yields:
        The experiment, checked again from the config that the job was given.
    """
    _die_with_parent()
    _keep_freed_memory()
    log = open(snakemake.log[0], "w", buffering=1)  # noqa: SIM115 (open for the job's life)
    logging.basicConfig(stream=log, level=logging.INFO, format="%(asctime)s %(message)s")
    terminal, sys.stderr = sys.stderr, log
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(snakemake.threads)
    try:
        experiment = check(snakemake.config)
        record(Path("results", experiment.name), snakemake.rule)
        yield experiment
    except UserError as error:
        logging.error("%s", error)
        print(f"{snakemake.rule}: {error}", file=terminal)
        raise SystemExit(1) from None
    except Exception:
        logging.exception("unexpected error")
        raise


def _die_with_parent() -> None:
    """Linux: when the workflow is killed, its jobs end too instead of living on."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _keep_freed_memory() -> None:
    """Activations of a few megabytes are allocated and freed all the time: with glibc's defaults
    each gets fresh pages from the kernel, which is a fifth of the time of a layer."""
    with suppress(OSError, AttributeError):
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, KEPT_BYTES)
