"""Progress: a line a minute in a log, and an end."""

import logging

import pytest

from frankenlab.io import progress


def test_a_log_gets_lines_now_and_then_and_one_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 25)).__next__
    monkeypatch.setattr(progress.time, "monotonic", clock)
    with caplog.at_level(logging.INFO):
        work = progress.Progress(100, "arc_easy", "rows")
        for i in range(10):
            work.advance(10, f"plan {i}")
        work.close()
    lines = [record.getMessage() for record in caplog.records]
    assert 2 <= len(lines) < 10
    assert "100/100 rows" in lines[-1] and "done" in lines[-1]
    assert all("s left" in line for line in lines)
