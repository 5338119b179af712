"""The processes of a workflow: its jobs end with it, a signal ends its jobs first, and a job that
is alone has all cores."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

from frankenlab.io.signals import SIGNALS, die_with_parent

# In it every job finds the process id of the Snakemake that started it on this host.
WORKFLOW_VARIABLE = "FRANKENLAB_WORKFLOW_PID"
WATCH_SECONDS = 1.0

# In it a job finds how many cores the workflow has; it is not set where a cluster gives these.
CORES_VARIABLE = "FRANKENLAB_CORES"
ALONE_SECONDS = 2.0

# Snakemake runs a copy of a rule's script from this folder.
SCRIPTS = ".snakemake/scripts/"
LOOK_SECONDS = 0.2

# Its handler of log records catches a KeyboardInterrupt and drops it.
SNAKEMAKE_LOGGING = "snakemake.logging"

# The most memory of a container, in bytes or "max".
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_mb() -> int:
    """Return the memory of this machine, or of the container that this runs in, in 10^6 bytes."""
    total = psutil.virtual_memory().total
    with suppress(OSError, ValueError):
        total = min(total, int(CONTAINER_LIMIT.read_text(encoding="utf-8")))
    return total // 10**6


def end_with_workflow() -> None:
    """Send this process SIGTERM when the workflow that started it has ended.

    The kernel's signal comes at once, but only if no shell stays between the two (bash before 5.1
    does) and the workflow lived long enough. So a thread looks whether the workflow still runs.
    """
    die_with_parent(signal.SIGTERM)
    workflow = os.environ.get(WORKFLOW_VARIABLE, "")
    if workflow.isdecimal():
        threading.Thread(target=_watch, args=(int(workflow),), daemon=True).start()


def _watch(workflow: int) -> None:
    while is_alive(workflow):
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def spare_cores(own: int) -> Callable[[], None]:
    """Return what a job calls often while it computes: torch then has its own threads, or all cores
    of the workflow while it is the only job on them.

    The number of threads changes no result.
    """
    looked = -ALONE_SECONDS

    def look() -> None:
        nonlocal looked
        if time.monotonic() - looked >= ALONE_SECONDS:
            looked = time.monotonic()
            sys.modules["torch"].set_num_threads(threads_now(own))

    return look


def threads_now(own: int) -> int:
    """Return how many threads a job may have now: its own, or all cores where it is alone."""
    cores, workflow = (os.environ.get(name, "") for name in (CORES_VARIABLE, WORKFLOW_VARIABLE))
    if not (cores.isdecimal() and workflow.isdecimal()):
        return own
    try:
        scripts = sum(map(_is_script, psutil.Process(int(workflow)).children()))
    except psutil.Error:
        return own
    return max(own, int(cores)) if scripts == 1 else own


def _is_script(process: psutil.Process) -> bool:
    """Tell whether a process runs the script of a job."""
    with suppress(psutil.Error):
        return any(SCRIPTS in word for word in process.cmdline())
    return False


def stop_jobs_first() -> None:
    """Have the first of `SIGNALS` end this workflow's jobs, and then the workflow as Ctrl-C does.

    Further signals change nothing. Call it after Snakemake has set its own handler of SIGTERM,
    which waits until every running job is done, and for ever if the signal comes while the next
    jobs are being chosen. A signal that comes while Snakemake writes a line of its log is sent
    again, because the handler of the log drops the exception.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if _writes_log(frame):
            main = threading.main_thread().ident
            threading.Timer(LOOK_SECONDS, signal.pthread_kill, (main, number)).start()
            return
        for caught in SIGNALS:
            if signal.getsignal(caught) is stop:
                signal.signal(caught, lambda *_: None)
        threading.Thread(target=_end_jobs, daemon=True).start()
        raise KeyboardInterrupt

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def _writes_log(frame: FrameType | None) -> bool:
    """Tell whether a frame was called, over however many others, by Snakemake's log."""
    while frame is not None:
        if frame.f_globals.get("__name__") == SNAKEMAKE_LOGGING:
            return True
        frame = frame.f_back
    return False


def _end_jobs() -> None:
    """Send SIGTERM once to every script below this process, also to those that start later."""
    signalled: set[psutil.Process] = set()
    while True:
        for process in set(psutil.Process().children(recursive=True)) - signalled:
            with suppress(psutil.Error):
                if _is_script(process):
                    process.terminate()
                    signalled.add(process)
        time.sleep(LOOK_SECONDS)


def is_alive(process: int) -> bool:
    """Tell whether there is a process with that number on this host."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
