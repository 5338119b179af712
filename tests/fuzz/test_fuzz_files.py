"""A seeded share of the fuzzer of damaged files; and that it notices each way to fail."""

import os
import signal
import time

import pytest

from frankenlab.io.errors import UserError
from tests.fuzz import children, files, readers

pytestmark = pytest.mark.slow

SEED, CASES = 20261126, 300


def test_damaged_files_end_in_success_or_in_one_line(tmp_path):
    assert files.failures_of(SEED, range(CASES), tmp_path) == {}


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (lambda: None, None),
        (lambda: _raise(UserError("one line")), None),
        (lambda: _raise(UserError("two\nlines")), "a message of 2 lines"),
        (lambda: _raise(UserError("x" * 2000)), "a message of 2000 characters"),
        (lambda: _raise(KeyError("n_layers")), "KeyError at test_fuzz_files.py"),
        (lambda: _raise(SystemExit(3)), "SystemExit at"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "killed by SIGBUS"),
        (lambda: bytearray(1 << 40), "MemoryError"),
        (lambda: time.sleep(60), "no end within 2 seconds"),
    ],
)
def test_every_way_to_fail_is_noticed_and_the_next_case_still_runs(
    tmp_path, monkeypatch, outcome, said
):
    monkeypatch.setattr(children, "SECONDS", 2)

    def make(folder):
        (folder / "a.txt").write_text("contents")

    def read(folder):
        if not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            outcome()

    subjects = {"a": files.Subject(make, "*.txt", read)}
    monkeypatch.setattr(readers, "SUBJECTS", subjects)
    files.subjects_of.cache_clear()
    failures = files.failures_of(7, range(4), tmp_path)
    files.subjects_of.cache_clear()
    assert list(failures) == ([0] if said else [])
    assert not said or said in failures[0]


def test_a_sealed_file_that_reads_as_something_else_is_a_failure(tmp_path, monkeypatch):
    def make(folder):
        (folder / "a.txt").write_text("river " * 20)

    def read(folder):
        return (folder / "a.txt").read_bytes()

    subjects = {"a": files.Subject(make, "*.txt", read, sealed=True)}
    monkeypatch.setattr(readers, "SUBJECTS", subjects)
    files.subjects_of.cache_clear()
    failures = files.failures_of(1, range(5), tmp_path)
    files.subjects_of.cache_clear()
    assert len(failures) > 2 and all("reads as whole" in text for text in failures.values())


def _raise(error: BaseException) -> None:
    raise error
