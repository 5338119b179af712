"""Signals that end the work: what is complete is kept, and the process leaves within seconds.

Schedulers send SIGTERM before they kill (at a time limit, for a preemption, by `scancel`); a
terminal sends SIGINT or SIGHUP. The first of them raises `Stopped` wherever the main thread is,
except in a `shielded` block: a write that has begun is finished first.
"""

import ctypes
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
# The time from the signal to the end, without a shielded write. Schedulers kill after 30 s or more.
LEAVE_SECONDS = 4.0

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

T = TypeVar("T")


class Stopped(SystemExit):
    """A signal ended the work. It is a `SystemExit`, which event loops let through.

    Attributes:
        signal: which one; the exit status is 128 plus its number, as a shell has it.
        kept: a sentence that says what is safe.
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
    """Have the first of `SIGNALS` in the block raise `Stopped`; further ones change nothing.

    Signals that are ignored (`nohup`, a shell's background jobs) stay ignored. A process that still
    runs `LEAVE_SECONDS` later, in a long call or because a library swallowed the exception, is
    ended by the kernel. Only the main thread can use it.
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
    """Have signals wait for the end of the block, or for the next item of an `interruptible`."""
    before = _state.shielded
    _set_shield(True)
    try:
        yield
    finally:
        _set_shield(before)
        _raise_waiting()


def interruptible(items: Iterable[T]) -> Iterator[T]:
    """Yield the items; signals may interrupt the making of one, also in a `shielded` block.

    They do not interrupt what the caller does with an item.
    """
    iterator = iter(items)
    while True:
        before = _state.shielded
        _set_shield(False)
        try:
            _raise_waiting()
            item = next(iterator)
        except StopIteration:
            return
        finally:
            _set_shield(before)
        yield item


def _set_shield(on: bool) -> None:
    _state.shielded = on
    if _state.leaving:
        _set_alarm(0 if on else LEAVE_SECONDS)


def _raise_waiting() -> None:
    if _state.waiting is not None and not _state.shielded:
        number, _state.waiting = _state.waiting, None
        _stop(number, None)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel (Linux) send this process a signal when its parent ends, however it ends.

    It can also be called between fork and exec (`preexec_fn`), for children that would live on.
    """
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, int(number))
