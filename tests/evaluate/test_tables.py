"""A table of scores says what made every row."""

import pandas as pd
import pytest

from frankenlab.engines.devices import processor_name
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.evaluate.runner import evaluate_task
from frankenlab.evaluate.store import Store
from frankenlab.evaluate.sweep import Row
from frankenlab.io.errors import UserError
from frankenlab.io.parquet import write_parquet
from tests.support.evaluation import FEW, spec_of
from tests.support.harness import scores_of
from tests.support.processes import one_line
from tests.support.task_rows import arc_row, load_task, task_settings


def test_a_table_says_what_made_every_row(tiny, tmp_path):
    settings = task_settings(tmp_path)
    table = evaluate_task(spec_of(tiny()), FEW, settings, "confirm", 5, tmp_path / "s", seed=7)
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
    assert set(table["available"]) == {len(load_task(settings).indices("confirm"))} != {5}
    best = max(range(4), key=first["loglikelihoods"].__getitem__)
    assert first["acc"] == (best == int(first["target"]))


def test_a_table_survives_the_disk(tiny, tmp_path):
    table = evaluate_task(spec_of(tiny()), FEW, task_settings(tmp_path), None, 5, tmp_path / "s")
    write_parquet(table, tmp_path / "out" / "scores.parquet")
    found = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert list(found.columns) == list(table.columns)
    assert [list(x) for x in found["loglikelihoods"]] == list(table["loglikelihoods"])
    same = [name for name in table if name not in ("loglikelihoods", "is_greedy")]
    assert found[same].astype(str).equals(table[same].astype(str))


def test_without_plans_there_are_no_rows_and_no_model_is_loaded(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(ModelSpec, "load_engine", None)
    table = evaluate_task(spec_of(tiny()), [], task_settings(tmp_path), None, 5, tmp_path / "s")
    write_parquet(table, tmp_path / "scores.parquet")
    assert pd.read_parquet(tmp_path / "scores.parquet").empty


@pytest.mark.parametrize("stage", ["search", "select"])
def test_a_stage_without_documents_is_refused(tiny, tmp_path, stage):
    with pytest.raises(UserError) as error:
        evaluate_task(spec_of(tiny()), FEW, task_settings(tmp_path), stage, None, tmp_path / "s")
    assert '"arc_easy"' in one_line(error) and stage in str(error.value)


def test_every_row_keeps_the_name_of_the_hardware_that_computed_it(tiny, tmp_path, monkeypatch):
    """As on a cluster of different nodes: what one has scored stays what it was on another."""
    settings, store = task_settings(tmp_path), tmp_path / "s"
    monkeypatch.setattr(
        "frankenlab.evaluate.sweep.hardware_name", lambda device: f"old {device.type}"
    )
    evaluate_task(spec_of(tiny()), FEW[:1], settings, None, 7, store)
    monkeypatch.setattr(
        "frankenlab.evaluate.sweep.hardware_name", lambda device: f"new {device.type}"
    )
    table = evaluate_task(spec_of(tiny()), FEW[:2], settings, None, 9, store)
    found = table.groupby(["plan", "hardware"], observed=True).size().to_dict()
    assert found == {
        (FEW[0].text, "old cpu"): 7,
        (FEW[0].text, "new cpu"): 2,
        (FEW[1].text, "new cpu"): 9,
    }


def test_rows_of_the_store_are_what_the_table_says(tiny, tmp_path):
    """The store can be read by other programs."""
    task, store = load_task(task_settings(tmp_path)), Store(tmp_path / "store", {})
    table = scores_of(tiny(), FEW, task, store)
    frame = store.load([FEW[1].text])
    rows = [Row(p, r, tuple(v), tuple(g), h) for p, r, v, g, h in frame.itertuples(index=False)]
    assert sorted(row.loglikelihoods for row in rows) == sorted(
        map(tuple, table[table["plan"] == FEW[1].text]["loglikelihoods"])
    )
