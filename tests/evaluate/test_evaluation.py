"""Scores are lm-eval's, none is computed twice, and no accident costs more than its batch."""

import errno
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from frankenlab.engines.devices import processor_name
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate import runner as evaluation
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.evaluate.runner import evaluate_task, write_scores
from frankenlab.evaluate.store import Row, Store
from frankenlab.io import files
from frankenlab.io.directories import make_directory
from frankenlab.io.errors import UserError
from frankenlab.io.signals import Stopped, stopped_by_signals
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.export import materialize
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.plans.plan import base, looped
from tests.support.engines import Wrapped
from tests.support.harness import aggregate, assert_same_scores, harness_results, scores_of
from tests.support.models import VARIANTS, parse_all
from tests.support.paths import DATA
from tests.support.processes import fork, one_line, with_file_limit
from tests.support.task_rows import TASKS, arc_row, load_task, passage, task_settings, write_rows

MANY = [looped(i, j, k, 4) for i in range(4) for j in range(i + 1, 5) for k in (2, 3)]
FEW = parse_all(["base", "0:3,1:4", "0:2,1:4"])


@pytest.fixture
def noted(monkeypatch) -> list[tuple[str, str]]:
    """The (plan, requests) pairs that are computed, as they are."""
    pairs: list[tuple[str, str]] = []
    note(pairs.append, monkeypatch.setattr)
    return pairs


def note(add, set_attribute=setattr, after=lambda: None) -> None:
    """Has `add` called with every pair that is computed, and `after` when its plan is done."""
    score = evaluation.score_documents

    def noting(*arguments):
        for plan, rows in score(*arguments):
            for row in rows:
                add((row.plan, row.requests))
            after()
            yield plan, rows

    set_attribute(evaluation, "score_documents", noting)


def stored(store: Store) -> Counter[tuple[str, str]]:
    """What the part files hold, read one by one; each must be whole."""
    tables = [pq.read_table(path) for path in sorted(store.folder.glob("part-*"))]
    return Counter(
        pair
        for table in tables
        for pair in zip(*(table[name].to_pylist() for name in ("plan", "requests")), strict=True)
    )


def assert_same_table(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Batches may differ, and with them the rounding."""
    pd.testing.assert_frame_equal(
        found.drop(columns="loglikelihoods"), expected.drop(columns="loglikelihoods"), atol=1e-4
    )
    for one, other in zip(found["loglikelihoods"], expected["loglikelihoods"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def must_not_be_loaded() -> TorchEngine:
    pytest.fail("the model was loaded")


# ---- the same as lm-evaluation-harness


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("text", ["base", "0:3,1:3@attn,3"])
def test_scores_and_metrics_are_lm_evals_on_the_exported_model(tiny, tmp_path, variant, text):
    (plan,) = parse_all([text])
    materialize(tiny(variant), plan, tmp_path / "exported")
    settings = [task_settings(tmp_path, name, n=10) for name in TASKS]
    expected = harness_results(tmp_path / "exported", settings, tmp_path, limit=10)
    for one in settings:
        task = load_task(one)
        table = scores_of(
            tiny(variant), [plan], task, Store(tmp_path / "store", {"task": one.name})
        )
        metrics, answers = expected[one.name]
        assert_same_scores(table, answers, tolerance=1e-3)
        for metric, kind in task.kinds.items():
            assert aggregate(table, metric, kind) == pytest.approx(metrics[metric], rel=1e-5)


def test_a_long_text_is_scored_in_windows_as_in_lm_eval(tiny, tmp_path):
    """Of 512 tokens each, this model's context."""
    rows = [{"passage": passage(i, 450), "question": "", "answer": True} for i in range(3)]
    file = write_rows(tmp_path / "long.jsonl", rows)
    settings = task_settings(tmp_path, "boolq_passages", n=1, data_file=file)
    expected = harness_results(tiny(), [settings], tmp_path, limit=3)
    table = scores_of(tiny(), [base(4)], load_task(settings), Store(tmp_path / "store", {}))
    _, answers = expected["boolq_passages"]
    assert_same_scores(table, answers, tolerance=1e-2)  # sums of 700 tokens
    assert min(-answer[0][0] for answer in answers) > 2000


def test_a_choice_longer_than_the_context_is_refused_before_the_model_is_loaded(tiny, tmp_path):
    row = arc_row(0) | {"question": passage(1, 600)}
    file = write_rows(tmp_path / "long.jsonl", [arc_row(1), row])
    task = load_task(task_settings(tmp_path, n=1, data_file=file))
    with pytest.raises(UserError) as error:
        scores_of(tiny(), FEW, task, Store(tmp_path / "store", {}), engine=must_not_be_loaded)
    assert "document 1" in one_line(error) and "context of 512" in str(error.value)


# ---- computing only what is missing


def test_nothing_is_computed_twice(tiny, tmp_path, noted):
    task, store = load_task(task_settings(tmp_path)), Store(tmp_path / "store", {})
    first = scores_of(tiny(), FEW, task, store)
    assert len(noted) == len(set(noted)) == len(FEW) * 12
    noted.clear()
    again = scores_of(tiny(), FEW, task, store, engine=must_not_be_loaded)
    assert noted == []
    pd.testing.assert_frame_equal(first, again)


def test_an_added_plan_computes_just_that_plan(tiny, tmp_path, noted):
    task, store = load_task(task_settings(tmp_path)), Store(tmp_path / "store", {})
    before = scores_of(tiny(), FEW, task, store)
    noted.clear()
    (new,) = parse_all(["0:4,2:4"])
    after = scores_of(tiny(), [FEW[0], new, *FEW[1:]], task, store)
    assert {plan for plan, _ in noted} == {new.text} and len(noted) == 12
    kept = after[after["plan"] != new.text].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before)


def test_added_documents_compute_just_those(tiny, tmp_path, noted):
    store = Store(tmp_path / "store", {})
    few = scores_of(tiny(), FEW, load_task(task_settings(tmp_path, n=9)), store)
    noted.clear()
    more = scores_of(tiny(), FEW, load_task(task_settings(tmp_path, n=12)), store)
    assert len(noted) == len(FEW) * 3
    shared = more[more["document"] < 9].reset_index(drop=True)
    pd.testing.assert_frame_equal(shared, few)


def test_a_plan_and_documents_added_together_compute_just_the_corner(tiny, tmp_path, noted):
    store = Store(tmp_path / "store", {})
    scores_of(tiny(), FEW[:2], load_task(task_settings(tmp_path, n=9)), store)
    noted.clear()
    scores_of(tiny(), FEW, load_task(task_settings(tmp_path, n=12)), store)
    counts = Counter(plan for plan, _ in noted)
    assert counts == {FEW[0].text: 3, FEW[1].text: 3, FEW[2].text: 12}


def test_changing_the_prompt_and_back_costs_nothing(tiny, tmp_path, noted):
    settings = task_settings(tmp_path)
    other = replace(settings, overrides={"doc_to_text": "{{question}}\nIt is"})
    store = Store(tmp_path / "store", {})
    first = scores_of(tiny(), FEW, load_task(settings), store)
    noted.clear()
    changed = scores_of(tiny(), FEW, load_task(other), store)
    assert len(noted) == len(FEW) * 12
    assert list(changed["loglikelihoods"]) != list(first["loglikelihoods"])
    noted.clear()
    assert scores_of(tiny(), FEW, load_task(settings), store).equals(first)
    assert noted == []


def test_documents_with_the_same_requests_are_computed_once_and_listed_each(tiny, tmp_path, noted):
    rows = [arc_row(0), arc_row(1), arc_row(0) | {"id": "again"}]
    file = write_rows(tmp_path / "twice.jsonl", rows)
    task = load_task(task_settings(tmp_path, n=1, data_file=file))
    table = scores_of(tiny(), [base(4)], task, Store(tmp_path / "store", {}))
    assert len(noted) == 2
    assert list(table["document"]) == [0, 1, 2]
    assert table["loglikelihoods"][0] == table["loglikelihoods"][2] != table["loglikelihoods"][1]


def test_a_truncated_part_is_computed_again_with_a_warning(tiny, tmp_path, noted, caplog):
    task, store = load_task(task_settings(tmp_path)), Store(tmp_path / "store", {})
    first = scores_of(tiny(), FEW, task, store, token_budget=200)
    parts = sorted(store.folder.glob("part-*"))
    damaged = parts[0]
    lost = Counter(zip(*pq.read_table(damaged, columns=["plan", "requests"]).to_pydict().values(),
                       strict=True))  # fmt: skip
    damaged.write_bytes(damaged.read_bytes()[:-20])
    noted.clear()
    with caplog.at_level(logging.WARNING):
        again = scores_of(tiny(), FEW, task, store)
    assert damaged.name in caplog.text and len(parts) > 1
    assert Counter(noted) == lost
    assert_same_table(again, first)


def test_batches_change_nothing(tiny, tmp_path):
    task = load_task(task_settings(tmp_path, n=20))
    tables = [
        scores_of(tiny(), FEW, task, Store(tmp_path / str(b), {}), token_budget=b)
        for b in (16, 300, 100_000)
    ]
    assert_same_table(tables[1], tables[0])
    assert_same_table(tables[2], tables[0])


# ---- accidents


class Cramped(Wrapped):
    """Has memory for so many documents a batch, or for so many plans before it is full once."""

    def __init__(self, engine, documents=10**9, scores=10**9, error=torch.OutOfMemoryError):
        super().__init__(engine)
        self.documents, self.scores, self.error = documents, scores, error

    def place(self, batch):
        if len(batch.documents) > self.documents:
            self.fail()
        return super().place(batch)

    def score(self, hidden, placed):
        self.scores -= 1
        if self.scores == 0:
            self.fail()
        return super().score(hidden, placed)

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
    monkeypatch.setattr(evaluation.time, "monotonic", lambda: now[0])
    task = load_task(task_settings(tmp_path))
    scores_of(tiny(), MANY, task, Store(tmp_path / "store", {}), token_budget=200)
    assert waiting == {} and now[0] > 200
    assert 0 < longest[0] < 60


def slow_job(directory: Path, task, store: Store, log: Path, slow_disk: bool) -> int:
    """Scores `MANY` in batches, 20 ms a plan, and notes each pair in `log` when it is computed."""
    with log.open("w", buffering=1) as handle:
        note(lambda pair: handle.write(json.dumps(pair) + "\n"), after=lambda: time.sleep(0.02))
        evaluation.FLUSH_SECONDS = 0.05
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
    scorer = ModelSpec(tiny(), "tiny", "hash", precision="float32", token_budget=400)

    def work() -> int:
        try:
            evaluate_task(scorer, MANY, settings, None, None, root)
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
        return 0

    status, message = with_file_limit(2_000, work, tmp_path / "log")
    assert status == 2 and "file too large" in one_line(message)
    (folder,) = root.iterdir()
    assert os.listdir(folder) == ["identity.json"]
    table = evaluate_task(scorer, MANY, settings, None, None, root)
    assert len(table) == len(MANY) * 24


def test_a_disk_that_fills_up_later_keeps_what_was_written(tiny, tmp_path, monkeypatch, noted):
    task, store = load_task(task_settings(tmp_path, n=24)), Store(tmp_path / "store", {})
    sync, left = os.fsync, [4]  # identity.json and three parts

    def fsync(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(evaluation, "FLUSH_SECONDS", 0.0)
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


# ---- tables


def scorer_of(directory: Path, **changes) -> ModelSpec:
    return replace(ModelSpec.for_directory(directory, "float32", "cpu"), **changes)


def test_a_table_says_what_made_every_row(tiny, tmp_path):
    settings = task_settings(tmp_path)
    table = evaluate_task(scorer_of(tiny()), FEW, settings, "confirm", 5, tmp_path / "s", seed=7)
    assert list(table.columns[:10]) == [
        "model", "quantization", "task", "stage", "engine", "precision", "device", "weights",
        "data", "seed",
    ]  # fmt: skip
    assert {"plan", "document", "key", "cluster", "loglikelihoods", "is_greedy", "target", "acc",
            "acc_norm"} <= set(table.columns)  # fmt: skip
    assert len(table) == 15 and list(table["plan"].unique()) == [plan.text for plan in FEW]
    first = table.iloc[0]
    assert (first["model"], first["stage"], first["precision"]) == ("untied", "confirm", "float32")
    assert (first["device"], first["hardware"]) == ("cpu", processor_name())
    assert first["seed"] == 7 and first["task"] == "arc_easy"
    row = arc_row(first["document"])
    assert int(first["target"]) == row["choices"]["label"].index(row["answerKey"])
    best = max(range(4), key=first["loglikelihoods"].__getitem__)
    assert first["acc"] == (best == int(first["target"]))


def test_a_table_survives_the_disk(tiny, tmp_path):
    table = evaluate_task(scorer_of(tiny()), FEW, task_settings(tmp_path), None, 5, tmp_path / "s")
    write_scores(table, tmp_path / "out" / "scores.parquet")
    found = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert list(found.columns) == list(table.columns)
    assert [list(x) for x in found["loglikelihoods"]] == list(table["loglikelihoods"])
    same = [name for name in table if name not in ("loglikelihoods", "is_greedy")]
    assert found[same].astype(str).equals(table[same].astype(str))


def test_without_plans_there_are_no_rows_and_no_model_is_loaded(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(ModelSpec, "load_engine", None)
    table = evaluate_task(scorer_of(tiny()), [], task_settings(tmp_path), None, 5, tmp_path / "s")
    write_scores(table, tmp_path / "scores.parquet")
    assert pd.read_parquet(tmp_path / "scores.parquet").empty


@pytest.mark.parametrize("stage", ["search", "select"])
def test_a_stage_without_documents_is_refused(tiny, tmp_path, stage):
    with pytest.raises(UserError) as error:
        evaluate_task(scorer_of(tiny()), FEW, task_settings(tmp_path), stage, None, tmp_path / "s")
    assert '"arc_easy"' in one_line(error) and stage in str(error.value)


def test_everything_that_makes_a_score_is_in_the_identity_of_its_store(tiny, tmp_path, monkeypatch):
    """And nothing else: not the batch, not which of several devices of a kind."""
    scorer = scorer_of(tiny())
    same = replace(scorer, token_budget=1, model="another name", directory=tmp_path)
    assert same.identity("arc_easy") == scorer.identity("arc_easy")
    first, second = (replace(scorer, device=device) for device in ("cuda", "cuda:1"))
    assert first.identity("arc_easy") == second.identity("arc_easy")
    different = [
        scorer.identity("arc_easy"),
        scorer_of(tiny("tied")).identity("arc_easy"),
        replace(scorer, precision="bfloat16").identity("arc_easy"),
        replace(scorer, quantization="4.0").identity("arc_easy"),
        replace(scorer, engine="exllamav2").identity("arc_easy"),
        replace(scorer, device="cuda").identity("arc_easy"),
        scorer.identity("sst2"),
    ]
    monkeypatch.setattr(
        "frankenlab.evaluate.model_spec.scoring_fingerprint", lambda engine: "edited"
    )
    different.append(scorer.identity("arc_easy"))
    monkeypatch.undo()
    monkeypatch.setattr(
        "frankenlab.evaluate.model_spec.engine_libraries", lambda engine: {"torch": "9"}
    )
    different.append(scorer.identity("arc_easy"))
    texts = {json.dumps(identity, sort_keys=True) for identity in different}
    assert len(texts) == len(different) == 9


def test_every_row_keeps_the_name_of_the_hardware_that_computed_it(tiny, tmp_path, monkeypatch):
    """As on a cluster of different nodes: what one has scored stays what it was on another."""
    settings, store = task_settings(tmp_path), tmp_path / "s"
    monkeypatch.setattr(
        "frankenlab.evaluate.scoring.hardware_name", lambda device: f"old {device.type}"
    )
    evaluate_task(scorer_of(tiny()), FEW[:1], settings, None, 7, store)
    monkeypatch.setattr(
        "frankenlab.evaluate.scoring.hardware_name", lambda device: f"new {device.type}"
    )
    table = evaluate_task(scorer_of(tiny()), FEW[:2], settings, None, 9, store)
    found = table.groupby(["plan", "hardware"], observed=True).size().to_dict()
    assert found == {
        (FEW[0].text, "old cpu"): 7,
        (FEW[0].text, "new cpu"): 2,
        (FEW[1].text, "new cpu"): 9,
    }


# ---- the model in the directory is the one that the rows say


def replaced_weights(directory: Path) -> None:
    """Other weights of the same size, with the old time of modification."""
    path = directory / "model.safetensors"
    before, contents = path.stat(), bytearray(path.read_bytes())
    contents[-1000:] = bytes(1000)
    path.unlink()
    path.write_bytes(contents)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture(params=["with a manifest", "without one"])
def own_model(request, tiny, tmp_path) -> Path:
    """A copy of the tiny model that a test may change."""

    def fill(directory: Path) -> dict:
        shutil.copytree(tiny(), directory, dirs_exist_ok=True)
        return {}

    if request.param == "with a manifest":
        make_directory(tmp_path / "model", {"key": "k"}, fill)
    else:
        shutil.copytree(tiny(), tmp_path / "model")
    return tmp_path / "model"


def test_weights_replaced_between_two_jobs_are_refused_or_another_model(own_model, tmp_path):
    settings, store = task_settings(tmp_path), tmp_path / "s"
    first = evaluate_task(scorer_of(own_model), FEW[:1], settings, None, 5, store)
    replaced_weights(own_model)
    if (own_model / "manifest.json").exists():
        with pytest.raises(UserError, match=r"model\.safetensors: its content differs"):
            scorer_of(own_model)
        return
    second = evaluate_task(scorer_of(own_model), FEW, settings, None, 5, store)
    assert not set(first["weights"]) & set(second["weights"])
    base = second[second["plan"] == FEW[0].text]
    assert list(base["loglikelihoods"]) != list(first["loglikelihoods"])


@pytest.mark.parametrize("moment", ["before it is loaded", "while it is loaded", "in the sweep"])
def test_weights_replaced_during_a_job_give_no_row(own_model, tmp_path, monkeypatch, moment):
    settings, root = task_settings(tmp_path), tmp_path / "s"
    scorer = scorer_of(own_model)
    if moment == "before it is loaded":
        replaced_weights(own_model)
    else:
        where = {
            "while it is loaded": (ModelSpec, "load_engine"),
            "in the sweep": (TorchEngine, "place"),
        }
        original = getattr(*where[moment])

        def then_replaced(*arguments):
            made = original(*arguments)
            replaced_weights(own_model)
            return made

        monkeypatch.setattr(*where[moment], then_replaced)
    with pytest.raises(UserError, match=r"was replaced while|its content differs"):
        evaluate_task(scorer, FEW, settings, None, 5, root)
    assert list(root.glob("*/part-*")) == []


def test_files_that_were_only_touched_are_no_other_model(own_model, tmp_path, monkeypatch):
    scorer = scorer_of(own_model)
    load = ModelSpec.load_engine

    def touched(self):
        os.utime(own_model / "model.safetensors")
        return load(self)

    monkeypatch.setattr(ModelSpec, "load_engine", touched)
    assert len(evaluate_task(scorer, FEW, task_settings(tmp_path), None, 5, tmp_path / "s")) == 15


def test_a_data_file_that_its_manifest_does_not_know_is_refused(tiny, tmp_path):
    row = task_settings(tmp_path).data_file.read_bytes()
    make_directory(
        tmp_path / "data", {"key": "k"}, lambda d: (d / "arc.jsonl").write_bytes(row) and {}
    )
    file = tmp_path / "data" / "arc.jsonl"
    settings = task_settings(tmp_path, data_file=file)
    assert len(evaluate_task(scorer_of(tiny()), FEW, settings, None, 5, tmp_path / "s")) == 15
    file.write_bytes(row.replace(b"?", b"!"))
    with pytest.raises(UserError, match=r"arc\.jsonl: its content differs"):
        evaluate_task(scorer_of(tiny()), FEW, settings, None, 5, tmp_path / "s")


def test_an_exl2_directory_says_at_which_bitrate_it_is(tiny):
    """By its declaration; where exllamav2 wrote none, by the bits on disk."""
    fixture = DATA / "llama-tiny-exl2"
    scorer = ModelSpec.for_directory(fixture, engine="exllamav2", device="cuda")
    assert (scorer.quantization, scorer.precision) == ("exl2-4.0", "float16")
    assert ModelSpec.for_directory(fixture).precision == "bfloat16"
    assert ModelSpec.for_directory(tiny()).quantization == "none"
    with pytest.raises(UserError, match="float16 only"):
        ModelSpec.for_directory(fixture, "bfloat16", "cuda", "exllamav2")


def test_an_exl2_directory_of_early_times_says_what_its_bits_on_disk_are(tmp_path):
    fixture = DATA / "llama-tiny-exl2"
    copy = shutil.copytree(fixture, tmp_path / "old")
    config = json.loads((copy / "config.json").read_text())
    del config["quantization_config"]
    (copy / "config.json").write_text(json.dumps(config))
    bits = Exl2Directory(fixture).bits_per_weight
    assert ModelSpec.for_directory(copy).quantization == f"exl2-{round(bits, 2)}"


def test_rows_of_the_store_are_what_the_table_says(tiny, tmp_path):
    """The store can be read by other programs."""
    task, store = load_task(task_settings(tmp_path)), Store(tmp_path / "store", {})
    table = scores_of(tiny(), FEW, task, store)
    frame = store.load([FEW[1].text])
    rows = [Row(p, r, tuple(v), tuple(g), h) for p, r, v, g, h in frame.itertuples(index=False)]
    assert sorted(row.loglikelihoods for row in rows) == sorted(
        map(tuple, table[table["plan"] == FEW[1].text]["loglikelihoods"])
    )


def unloadable():
    raise AssertionError("a model is loaded for documents that cannot be scored")


def test_a_choice_without_a_token_of_its_own_is_refused_before_a_model_is_loaded(tiny, tmp_path):
    """A sum of no token is 0, and would win. lm-eval asserts unless another choice is one token."""
    rows = [arc_row(0), arc_row(1) | {"question": "The wat"}]
    rows[1]["choices"] |= {"text": ["er", " is a fish", " runs past it", " can fly"]}
    settings = task_settings(tmp_path, data_file=write_rows(tmp_path / "rows.jsonl", rows))
    settings = replace(settings, overrides={"doc_to_text": "{{question}}", "target_delimiter": ""})
    with pytest.raises(UserError) as error:
        scores_of(tiny(), FEW, load_task(settings), Store(tmp_path / "s", {}), engine=unloadable)
    assert one_line(error).startswith('task "arc_easy": document 1, request 1 of 4: ')
    assert "'er' has no token of its own after 'The wat'" in str(error.value)
    with pytest.raises(AssertionError):
        harness_results(tiny(), [settings], tmp_path, 2)


def test_a_token_beyond_the_embeddings_is_refused_before_a_model_is_loaded(tiny, tmp_path, caplog):
    """Texts without it are scored as in lm-eval, after a warning."""
    directory = shutil.copytree(tiny(), tmp_path / "padded")
    tokenizer = load_tokenizer(directory)
    tokenizer.add_tokens(["[PAD]"])
    tokenizer.save_pretrained(directory)
    rows = [arc_row(0), arc_row(1), arc_row(2) | {"question": "a [PAD] here"}]
    settings = task_settings(tmp_path, data_file=write_rows(tmp_path / "rows.jsonl", rows))
    task, store = load_task(settings), Store(tmp_path / "s", {})
    table = scores_of(directory, FEW, task, store, limit=2)
    assert "token '[PAD]' is id 384" in caplog.text
    ((_, answers),) = harness_results(directory, [settings], tmp_path, 2).values()
    assert_same_scores(table[table["plan"] == "base"], answers, 1e-3)
    with pytest.raises(UserError) as error:
        scores_of(directory, FEW, task, store, engine=unloadable)
    assert one_line(error).startswith('task "arc_easy": document 2, request 1 of 4: ')
    assert "token '[PAD]' is id 384; the model has only 384" in str(error.value)
