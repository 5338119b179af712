"""Tests of the speed of a machine's processor, kept for later processes."""

import time

import pytest

from frankenlab.estimate.kept_speed import KEPT_SECONDS, kept_speed
from frankenlab.io.files import CACHE_VARIABLE


def never() -> float:
    pytest.fail("measured again")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_speed_is_measured_once_for_each_precision():
    assert kept_speed("float32", lambda: 1e9) == 1e9
    assert kept_speed("bfloat16", lambda: 2e9) == 2e9
    assert kept_speed("float32", never) == 1e9


def test_another_number_of_threads_has_another_speed(monkeypatch):
    kept_speed("float32", lambda: 1e9)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert kept_speed("float32", lambda: 3e9) == 3e9


def test_it_is_measured_again_after_a_day(monkeypatch):
    kept_speed("float32", lambda: 1e9)
    later = time.time() + KEPT_SECONDS
    monkeypatch.setattr(time, "time", lambda: later)
    assert kept_speed("float32", lambda: 3e9) == 3e9


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "{"])
def test_a_damaged_file_is_replaced(cache, text):
    cache.mkdir()
    (cache / "matrix-speed.json").write_text(text, encoding="utf-8")
    assert kept_speed("float32", lambda: 1e9) == 1e9
    assert kept_speed("float32", never) == 1e9


def test_a_folder_that_cannot_be_written_to_costs_a_measurement(cache, monkeypatch):
    cache.write_text("a file, no folder", encoding="utf-8")
    assert kept_speed("float32", lambda: 1e9) == 1e9
    assert kept_speed("float32", lambda: 2e9) == 2e9
