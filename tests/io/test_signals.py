"""Signals end the work where nothing is lost by it. Each test is a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frankenlab.io import signals
from frankenlab.io.signals import (
    Stopped,
    die_with_parent,
    interruptible,
    shielded,
    stopped_by_signals,
)
from tests.support.processes import fork, gone, number_in


def outcome(work, log: Path) -> tuple[int, str]:
    """Exit status of `work` in a process of its own (its `Stopped` becomes one), and its stderr."""

    def run() -> int:
        # A shell's background jobs ignore the one, those under nohup the other.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            with stopped_by_signals():
                work()
        except Stopped as stop:
            print("left", file=sys.stderr)
            return stop.code
        return 0

    _, status = os.waitpid(fork(run, log), 0)
    return os.waitstatus_to_exitcode(status), log.read_text()


def say(text: str) -> None:
    print(text, file=sys.stderr)


def raise_signal(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_work_and_more_of_them_change_nothing(tmp_path, number):
    def work():
        try:
            raise_signal(number)
            say("not reached")
        finally:
            raise_signal()
            raise_signal(number)
            say("cleaned up")

    assert outcome(work, tmp_path / "log") == (128 + number, "cleaned up\nleft\n")


def test_a_write_that_has_begun_is_finished(tmp_path):
    def work():
        with shielded():
            raise_signal()
            with shielded():
                say("written")
            say("all")
        say("not reached")

    assert outcome(work, tmp_path / "log") == (143, "written\nall\nleft\n")


def test_only_the_making_of_an_item_is_interrupted(tmp_path):
    def items():
        yield 1
        raise_signal()
        say("not reached")
        yield 2

    def work():
        with shielded():
            try:
                for item in interruptible(items()):
                    say(f"got {item}")
            finally:
                raise_signal()
                say("flushed")

    assert outcome(work, tmp_path / "log") == (143, "got 1\nflushed\nleft\n")


def test_what_came_while_an_item_was_handled_ends_the_work_before_the_next(tmp_path):
    def work():
        with shielded():
            for item in interruptible(iter([1, 2])):
                raise_signal()
                say(f"kept {item}")

    assert outcome(work, tmp_path / "log") == (143, "kept 1\nleft\n")


def test_without_a_signal_all_items_come(tmp_path):
    def work():
        with shielded():
            say(str(list(interruptible(range(3)))))

    assert outcome(work, tmp_path / "log") == (0, "[0, 1, 2]\n")


@pytest.mark.slow
def test_an_exception_that_is_swallowed_ends_the_process_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "LEAVE_SECONDS", 0.3)

    class Swallows:
        def __del__(self):
            raise_signal()

    def work():
        Swallows()
        say("goes on")
        time.sleep(30)

    began = time.monotonic()
    status, text = outcome(work, tmp_path / "log")
    assert status == -signal.SIGALRM and "goes on" in text
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_a_long_write_is_not_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "LEAVE_SECONDS", 0.3)

    def work():
        try:
            raise_signal()
        finally:
            with shielded():
                time.sleep(1)
                say("written")

    assert outcome(work, tmp_path / "log") == (143, "written\nleft\n")


def test_ignored_signals_stay_ignored(tmp_path):
    def work():
        raise_signal(signal.SIGHUP)
        say("goes on")

    def ignoring() -> int:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with stopped_by_signals():
            work()
        return 0

    _, status = os.waitpid(fork(ignoring, tmp_path / "log"), 0)
    assert status == 0 and (tmp_path / "log").read_text() == "goes on\n"


def test_afterwards_signals_are_what_they_were():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGINT)
    with stopped_by_signals():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has prctl")
def test_a_child_ends_with_its_killed_parent(tmp_path):
    def parent() -> int:
        child = subprocess.Popen(["sleep", "60"], preexec_fn=die_with_parent)
        say(str(child.pid))
        time.sleep(60)
        return 0

    process = fork(parent, tmp_path / "log")
    child = number_in(tmp_path / "log")
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert gone(child)
