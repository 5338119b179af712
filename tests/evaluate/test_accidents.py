"""No accident costs more than its batch: too little memory, an error, a kill, a full disk."""

import errno
import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate import runner
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.evaluate.runner import evaluate_task
from frankenlab.evaluate.store import Store
from frankenlab.io import files
from frankenlab.io.errors import UserError
from frankenlab.io.signals import Stopped, stopped_by_signals
from tests.support.engines import Wrapped
from tests.support.evaluation import (
    FEW,
    MANY,
    assert_same_table,
    note,
    stored,
)
from tests.support.harness import scores_of
from tests.support.models import parse_all
from tests.support.processes import fork, one_line, with_file_limit
from tests.support.task_rows import load_task, task_settings

pytestmark = pytest.mark.slow


class Cramped(Wrapped):
    """Has memory for so many documents a batch, or for so many plans before it is full once."""

    def __init__(self, engine, documents=10**9, scores=10**9, error=torch.OutOfMemoryError):
        super().__init__(engine)
        self.documents, self.scores, self.error = documents, scores, error

    def place(self, batch):
        if len(batch.documents) > self.documents:
            self.fail()
        return super().place(batch)

    def score(self, hidden, batch):
        self.scores -= 1
        if self.scores == 0:
            self.fail()
        return super().score(hidden, batch)

    def fail(self):
        if self.error is None:
            torch.empty(1 << 50)  # more than any address space: the allocator's own error
        raise self.error("no memory")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, None])
@pytest.mark.parametrize("documents", [1, 3])
def test_without_memory_a_batch_is_halved_until_it_fits(
    tiny, tmp_path, caplog, noted, error, documents
):
    task = load_task(task_settings(tmp_path, n=13))
    expected = scores_of(tiny(), FEW, task, Store(tmp_path / "roomy", {}))
    noted.clear()
    engine = Cramped(TorchEngine(tiny(), "float32"), documents=documents, error=error)
    with caplog.at_level(logging.WARNING):
        found = scores_of(tiny(), FEW, task, Store(tmp_path / "cramped", {}), engine=lambda: engine)
    assert "out of memory: 6 documents at a time instead of 1" in caplog.text
    assert len(noted) == len(set(noted)) == len(FEW) * 13
    assert_same_table(found, expected)


def test_what_libraries_say_when_their_memory_runs_out_is_understood():
    said = ("Triton Error [CUDA]: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when …")
    assert all(runner._out_of_memory(RuntimeError(text)) for text in said)
    assert not runner._out_of_memory(RuntimeError("CUDA error: an illegal memory access"))


def test_memory_that_runs_out_in_the_middle_of_a_batch_keeps_the_plans_that_are_done(
    tiny, tmp_path, noted
):
    task = load_task(task_settings(tmp_path, n=13))
    expected = scores_of(tiny(), MANY, task, Store(tmp_path / "roomy", {}))
    noted.clear()
    engine = Cramped(TorchEngine(tiny(), "float32"), scores=9)
    found = scores_of(tiny(), MANY, task, Store(tmp_path / "cramped", {}), engine=lambda: engine)
    assert len(noted) == len(set(noted)) == len(MANY) * 13
    assert_same_table(found, expected)


def test_one_document_that_does_not_fit_is_an_error_of_one_line(tiny, tmp_path):
    task = load_task(task_settings(tmp_path))
    engine = Cramped(TorchEngine(tiny(), "float32"), documents=0)
    with pytest.raises(UserError) as error:
        scores_of(tiny(), FEW, task, Store(tmp_path / "store", {}), engine=lambda: engine)
    assert "out of memory on a single document" in one_line(error)


@pytest.mark.parametrize("error", [RuntimeError, ZeroDivisionError, KeyboardInterrupt])
def test_any_other_error_is_not_hidden_and_what_is_done_is_kept(tiny, tmp_path, noted, error):
    task, store = load_task(task_settings(tmp_path, n=13)), Store(tmp_path / "store", {})
    engine = Cramped(TorchEngine(tiny(), "float32"), scores=9, error=error)
    with pytest.raises(error, match="no memory"):
        scores_of(tiny(), MANY, task, store, engine=lambda: engine)
    assert stored(store) == Counter(noted) and len(noted) == 8 * 13


def test_scores_that_are_not_finite_are_an_error_and_not_stored(tiny, tmp_path):
    task, store = load_task(task_settings(tmp_path)), Store(tmp_path / "store", {})
    engine = TorchEngine(tiny(), "float32")
    engine.layers[3].down[0, 0] = float("nan")
    healthy, poisoned = parse_all(["0:3", "0:3,3"])
    with pytest.raises(UserError, match=r'plan "base": NaN .* layer 3 \(block\)'):
        scores_of(tiny(), [healthy, poisoned], task, store, engine=lambda: engine)
    assert {plan for plan, _ in stored(store)} == {"0:3"}


def test_rows_wait_less_than_a_minute_for_the_disk(tiny, tmp_path, monkeypatch):
    """By a clock on which every plan takes seven seconds a batch."""
    now, waiting, longest = [0.0], {}, [0.0]
    append = Store.append

    def durable(store, rows):
        append(store, rows)
        for row in rows:
            longest[0] = max(longest[0], now[0] - waiting.pop((row.plan, row.requests)))

    def computed():
        now[0] += 7

    note(lambda pair: waiting.setdefault(pair, now[0]), monkeypatch.setattr, computed)
    monkeypatch.setattr(Store, "append", durable)
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    task = load_task(task_settings(tmp_path))
    scores_of(tiny(), MANY, task, Store(tmp_path / "store", {}), token_budget=200)
    assert waiting == {} and now[0] > 200
    assert 0 < longest[0] < 60


def slow_job(directory: Path, task, store: Store, log: Path, slow_disk: bool) -> int:
    """Scores `MANY` in batches, 20 ms a plan, and notes each pair in `log` when it is computed."""
    with log.open("w", buffering=1) as handle:
        note(lambda pair: handle.write(json.dumps(pair) + "\n"), after=lambda: time.sleep(0.02))
        runner.FLUSH_SECONDS = 0.05
        if slow_disk:
            sync = os.fsync
            files.os.fsync = lambda descriptor: (time.sleep(0.3), sync(descriptor))
        scores_of(directory, MANY, task, store, token_budget=400)
    return 0


# When to kill: by how many parts there are, and whether one is being written.
MOMENTS = {
    "before-the-first-part": (False, lambda parts, partial, lines: lines > 0 and parts == 0),
    "between-parts": (False, lambda parts, partial, lines: parts >= 3),
    "while-the-first-part-is-written": (True, lambda parts, partial, lines: partial > 0),
    "while-a-part-is-written": (True, lambda parts, partial, lines: partial > 0 and parts >= 2),
}


def wait_until(is_now: Callable[[int, int, int], bool], store: Store, log: Path) -> None:
    deadline = time.monotonic() + 30
    while not is_now(
        len(list(store.folder.glob("part-*"))),
        len(list(store.folder.glob(".part-*"))),
        len(log.read_text()),
    ):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def noted_in(log: Path) -> Counter:
    return Counter(map(tuple, map(json.loads, log.read_text().splitlines())))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_job_loses_the_batch_in_hand_and_goes_on_where_it_was(
    tiny, tmp_path, noted, moment
):
    """kill -9 for real; then the same job again."""
    task, store = load_task(task_settings(tmp_path, n=24)), Store(tmp_path / "store", {})
    expected = scores_of(tiny(), MANY, task, Store(tmp_path / "undisturbed", {}), token_budget=400)
    everything = Counter(noted)
    noted.clear()
    log, (slow_disk, is_now) = tmp_path / "computed", MOMENTS[moment]
    log.touch()
    child = fork(lambda: slow_job(tiny(), task, store, log, slow_disk), tmp_path / "stderr")
    wait_until(is_now, store, log)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    kept, computed = stored(store), noted_in(log)
    assert kept <= computed and computed < everything
    batch = {requests for _, requests in (computed - kept)}
    assert len(batch) < 24 / 2  # of the documents
    again = scores_of(tiny(), MANY, task, store, token_budget=400)
    assert Counter(noted) == everything - kept
    assert stored(store) == everything
    assert_same_table(again, expected)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_job_that_is_asked_to_end_loses_one_plan_of_the_batch_in_hand(
    tiny, tmp_path, noted, moment
):
    """SIGTERM, and again SIGTERM, also while a part is written."""
    task, store = load_task(task_settings(tmp_path, n=24)), Store(tmp_path / "store", {})
    log, (slow_disk, is_now) = tmp_path / "computed", MOMENTS[moment]
    log.touch()

    def job() -> int:
        try:
            with stopped_by_signals():
                return slow_job(tiny(), task, store, log, slow_disk)
        except Stopped as stop:
            print(stop.kept, file=sys.stderr)
            return stop.code

    child = fork(job, tmp_path / "stderr")
    wait_until(is_now, store, log)
    os.kill(child, signal.SIGTERM)
    time.sleep(0.005)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM

    kept, computed = stored(store), noted_in(log)
    rows = len(MANY) * 24
    assert f"{kept.total()} of {rows} rows kept" in (tmp_path / "stderr").read_text()
    assert kept.total() < rows and not list(store.folder.glob(".part-*"))
    lost = computed - kept
    assert kept <= computed and len({plan for plan, _ in lost}) <= 1
    scores_of(tiny(), MANY, task, store, token_budget=400)
    assert set(stored(store).values()) == {1} and stored(store).total() == rows


def test_a_full_disk_stops_the_job_in_one_line_and_nothing_reads_as_whole(tiny, tmp_path, noted):
    """For real: the kernel refuses to write a file of more than 2,000 bytes."""
    settings, root = task_settings(tmp_path, n=24), tmp_path / "store"
    spec = ModelSpec(tiny(), "tiny", "hash", precision="float32", token_budget=400)

    def work() -> int:
        try:
            evaluate_task(spec, MANY, settings, None, None, root)
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
        return 0

    status, message = with_file_limit(2_000, work, tmp_path / "log")
    assert status == 2 and "file too large" in one_line(message)
    (folder,) = root.iterdir()
    assert os.listdir(folder) == ["identity.json"]
    table = evaluate_task(spec, MANY, settings, None, None, root)
    assert len(table) == len(MANY) * 24


def test_a_disk_that_fills_up_later_keeps_what_was_written(tiny, tmp_path, monkeypatch, noted):
    task, store = load_task(task_settings(tmp_path, n=24)), Store(tmp_path / "store", {})
    sync, left = os.fsync, [4]  # identity.json and three parts

    def fsync(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(runner, "FLUSH_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        with pytest.raises(UserError) as error:
            scores_of(tiny(), MANY, task, store, token_budget=400)
    assert "no space left" in one_line(error)
    kept = stored(store)
    assert len(list(store.folder.glob("part-*"))) == 3 and kept.total() > 0
    assert list(store.folder.glob(".part-*")) == []
    noted.clear()
    scores_of(tiny(), MANY, task, store, token_budget=400)
    assert len(noted) == len(MANY) * 24 - kept.total()
