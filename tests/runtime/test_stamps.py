"""Stamps are written by runs alone; what only reads has a stand-in elsewhere."""

from pathlib import Path

import pytest

from frankenlab.config.experiment import check
from frankenlab.io.errors import UserError
from frankenlab.runtime.stamps import Stamps, task_facts


def test_a_run_writes_a_stamp_once(tmp_path):
    path = Stamps(tmp_path).file("scripts/plot", "1", write=True)
    assert path == tmp_path / "scripts/plot.json" and path.read_text() == "1"
    before = path.stat().st_mtime_ns
    assert Stamps(tmp_path).file("scripts/plot", "1", write=True) == path
    assert path.stat().st_mtime_ns == before
    Stamps(tmp_path).file("scripts/plot", "2", write=True)
    assert path.read_text() == "2"


def test_what_only_reads_takes_a_stamp_that_says_the_same(tmp_path):
    path = Stamps(tmp_path).file("a", "1", write=True)
    assert Stamps(tmp_path).file("a", "1", write=False) == path


def test_what_only_reads_has_a_newer_stand_in_elsewhere(tmp_path):
    results = tmp_path / "results"
    path = Stamps(results).file("a", "1", write=True)
    stamps = Stamps(results)
    found = [stamps.file(name, "2", write=False) for name in ("a", "scripts/b")]
    assert [file.read_text() for file in found] == ["2", "2"]
    assert found[0].stat().st_mtime_ns >= path.stat().st_mtime_ns
    assert not any(file.is_relative_to(tmp_path) for file in found)
    assert [file.name for file in results.rglob("*")] == ["a.json"] and path.read_text() == "1"
    assert stamps.known("a") == found[0] and stamps.known("c") is None


def test_a_file_that_a_task_names_counts_by_what_is_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks, rows = Path("config/tasks"), Path("rows.jsonl")
    tasks.mkdir(parents=True)
    (tasks / "own.yaml").write_text(
        "task: own\noutput_type: multiple_choice\ndataset_path: json\n"
        "dataset_kwargs: {data_files: {test: rows.jsonl}}\n"
    )
    rows.write_text('{"a": 1}')

    def facts(**keys):
        raw = {
            "experiment": "small",
            "models": {"tiny": {"source": {"path": "somewhere"}, "n_layers": 4}},
            "tasks": {"own": {"metric": "acc", **keys}},
            "plans": [{"generator": "layer"}],
        }
        return task_facts(check(raw), "own")

    before = facts()
    assert facts(limit=20) == facts(prompts={"two": {"num_fewshot": 2}}) == before
    assert facts(num_fewshot=2) != before
    rows.write_text('{"a": 2}')
    assert facts() != before
    rows.unlink()
    with pytest.raises(UserError, match="tasks.own: dataset_kwargs.data_files: there is no rows"):
        facts()
