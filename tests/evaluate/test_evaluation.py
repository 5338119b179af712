"""Scores are lm-eval's, and none is computed twice."""

import logging
import shutil
from collections import Counter
from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest

from frankenlab.evaluate.store import Store
from frankenlab.io.errors import UserError
from frankenlab.models.export import materialize
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.plans.plan import base
from tests.support.evaluation import FEW, assert_same_table, must_not_be_loaded
from tests.support.harness import aggregate, assert_same_scores, harness_results, scores_of
from tests.support.models import VARIANTS, parse_all
from tests.support.processes import one_line
from tests.support.task_rows import TASKS, arc_row, load_task, passage, task_settings, write_rows


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_batches_change_nothing(tiny, tmp_path):
    task = load_task(task_settings(tmp_path, n=20))
    tables = [
        scores_of(tiny(), FEW, task, Store(tmp_path / str(b), {}), token_budget=b)
        for b in (16, 300, 100_000)
    ]
    assert_same_table(tables[1], tables[0])
    assert_same_table(tables[2], tables[0])


def test_a_choice_without_a_token_of_its_own_is_refused_before_a_model_is_loaded(tiny, tmp_path):
    """A sum of no token is 0, and would win. lm-eval asserts unless another choice is one token."""
    rows = [arc_row(0), arc_row(1) | {"question": "The wat"}]
    rows[1]["choices"] |= {"text": ["er", " is a fish", " runs past it", " can fly"]}
    settings = task_settings(tmp_path, data_file=write_rows(tmp_path / "rows.jsonl", rows))
    settings = replace(settings, overrides={"doc_to_text": "{{question}}", "target_delimiter": ""})
    with pytest.raises(UserError) as error:
        scores_of(
            tiny(), FEW, load_task(settings), Store(tmp_path / "s", {}), engine=must_not_be_loaded
        )
    assert one_line(error).startswith('task "arc_easy": document 1, request 1 of 4: ')
    assert "'er' has no token of its own after 'The wat'" in str(error.value)
    with pytest.raises(AssertionError):
        harness_results(tiny(), [settings], tmp_path, 2)


@pytest.mark.slow
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
        scores_of(directory, FEW, task, store, engine=must_not_be_loaded)
    assert one_line(error).startswith('task "arc_easy": document 2, request 1 of 4: ')
    assert "token '[PAD]' is id 384; the model has only 384" in str(error.value)
