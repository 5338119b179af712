"""Signals that end the work: what is complete is kept, and the process leaves within seconds.

Schedulers send SIGTERM before they kill (a time limit, preemption, `scancel`), a terminal SIGINT or
SIGHUP. The first of them raises `Stopped` wherever the main thread is, but not in a `shielded`
block: a write that has begun is finished first.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
# From the signal to the end, not counting a shielded write. Schedulers kill after 30 s or more.
LEAVE_SECONDS = 4.0

# Every job finds the process id of the Snakemake that started it here.
WORKFLOW_VARIABLE = "FRANKENLAB_WORKFLOW_PID"
WATCH_SECONDS = 1.0

# Snakemake runs a copy of a rule's script from here.
SCRIPTS = ".snakemake/scripts/"
LOOK_SECONDS = 0.2

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

T = TypeVar("T")


class Stopped(SystemExit):
    """The work was ended by a signal. A `SystemExit`, which event loops let through.

    Attributes:
        signal: which; the exit status is 128 + its number, as of a shell.
        kept: what is safe, in words.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)
        self.kept = "what is complete is kept"


@dataclass
class _State:
    shielded: bool = False
    waiting: int | None = None
    leaving: bool = False


_state = _State()


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within, the first of `SIGNALS` raises `Stopped`; more of them change nothing.

    Signals that are ignored (`nohup`, a shell's background jobs) stay so. A process that is still
    there `LEAVE_SECONDS` later, in a long call or because a library swallowed the exception, is
    ended by the kernel. For the main thread.
    """
    global _state
    _state = _State()
    previous = {n: signal.getsignal(n) for n in SIGNALS}
    caught = {n: handler for n, handler in previous.items() if handler != signal.SIG_IGN}
    for number in caught:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        if not _state.leaving:
            for number, handler in caught.items():
                signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    if _state.leaving:
        return
    if _state.shielded:
        _state.waiting = _state.waiting or number
        return
    _state.leaving = True
    _set_alarm(LEAVE_SECONDS)
    raise Stopped(number)


def _set_alarm(seconds: float) -> None:
    # Its default action ends a process even in a call that no Python handler can interrupt.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


@contextmanager
def shielded() -> Iterator[None]:
    """Signals wait for the end of the block, or for the next item of an `interruptible` in it."""
    before = _state.shielded
    _set_shield(True)
    try:
        yield
    finally:
        _set_shield(before)
        _obey()


def interruptible(items: Iterable[T]) -> Iterator[T]:
    """The same items; signals may interrupt the making of one, also in a `shielded` block, and
    nothing else: an item that was handed out is in the caller's hands."""
    iterator, end = iter(items), object()
    while True:
        before = _state.shielded
        _set_shield(False)
        try:
            _obey()
            item = next(iterator, end)
        finally:
            _set_shield(before)
        if item is end:
            return
        yield item


def _set_shield(on: bool) -> None:
    _state.shielded = on
    if _state.leaving:
        _set_alarm(0 if on else LEAVE_SECONDS)


def _obey() -> None:
    """Raises what waited."""
    if _state.waiting is not None and not _state.shielded:
        number, _state.waiting = _state.waiting, None
        _stop(number, None)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Linux: the kernel sends this process a signal when its parent ends, however it ends.

    Also to be called between fork and exec (`preexec_fn`), for children that would live on.
    """
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, int(number))


def end_with_workflow() -> None:
    """Sends this process SIGTERM when the workflow that started it is gone.

    The kernel's signal comes at once, but only if no shell stays between the two (bash before 5.1
    does) and the workflow lived long enough; so it is looked for as well.
    """
    die_with_parent(signal.SIGTERM)
    workflow = os.environ.get(WORKFLOW_VARIABLE, "")
    if workflow.isdecimal():
        threading.Thread(target=_watch, args=(int(workflow),), daemon=True).start()


def _watch(workflow: int) -> None:
    while is_alive(workflow):
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def stop_jobs_first() -> None:
    """Have the first of `SIGNALS` end the jobs below this workflow, and then the workflow as Ctrl-C
    does; more of them change nothing.

    To be called when Snakemake has set its own handler of SIGTERM, which would wait until every
    running job is done, and for ever if the signal comes while the next jobs are being chosen.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for caught in SIGNALS:
            if signal.getsignal(caught) is stop:
                signal.signal(caught, lambda *_: None)
        threading.Thread(target=_end_jobs, daemon=True).start()
        raise KeyboardInterrupt

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def _end_jobs() -> None:
    """Send SIGTERM once to every script below this process, to those that start later too."""
    # Imported here: only a workflow needs it, and this module is everywhere.
    import psutil

    told: set[psutil.Process] = set()
    while True:
        for process in set(psutil.Process().children(recursive=True)) - told:
            with suppress(psutil.Error):
                if any(SCRIPTS in word for word in process.cmdline()):
                    process.terminate()
                    told.add(process)
        time.sleep(LOOK_SECONDS)


def is_alive(process: int) -> bool:
    """Whether there is a process of that number on this host."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
