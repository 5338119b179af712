"""Data sets of the hub: which one a task names, and what is kept of it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from frankenlab.io.directories import read_manifest
from frankenlab.io.errors import UserError
from frankenlab.models.data_sets import DataSet, data_set_of, local_files
from frankenlab.tasks.data_files import read_data
from tests.support.hub import Hub, data_set, serving

COMMIT = "1" * 40
FIRST, NEWEST = "a" * 40, "b" * 40
TOKEN = "hf_averysecretaccesstoken"
NAME = "owner/corpus"

ROWS = [{"q": f"word {i}", "a": i % 2} for i in range(6)]

FETCH = """
import json, sys
from frankenlab.io.errors import UserError
from frankenlab.models.data_sets import DataSet, fetch_data_set
for line in sys.argv[1:]:
    target, *what = json.loads(line)
    try:
        fetch_data_set(DataSet(*what), target)
    except UserError as error:
        print(error)
"""


def fetch(hub: Hub, folder: Path, *what: tuple, **environment: str) -> list[str]:
    """Fetch data sets with the real library, in a process of its own; return the errors."""
    given = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    given |= {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(folder / "hf")}
    given |= {"PYTHONPATH": os.pathsep.join(sys.path), **environment}
    lines = [json.dumps([str(folder / target), *rest]) for target, *rest in what]
    command = [sys.executable, "-c", FETCH, *lines]
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    assert done.returncode == 0 and TOKEN not in done.stdout, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"dataset_path": NAME}, DataSet(NAME)),
        ({"dataset_path": NAME, "dataset_name": "easy"}, DataSet(NAME, "easy")),
        ({"dataset_path": "xnli", "dataset_name": 7}, DataSet("xnli", "7")),
        (
            {"dataset_path": NAME, "dataset_kwargs": {"data_dir": "d", "trust_remote_code": True}},
            DataSet(NAME, arguments={"data_dir": "d"}),
        ),
        (
            {"dataset_path": NAME, "dataset_kwargs": {"revision": "refs/convert/parquet"}},
            DataSet(NAME, revision="refs/convert/parquet"),
        ),
        (
            {"dataset_path": "json", "dataset_kwargs": {"data_files": "hf://datasets/a/b.jsonl"}},
            DataSet("json", arguments={"data_files": "hf://datasets/a/b.jsonl"}),
        ),
        ({"dataset_path": "json", "dataset_kwargs": {"data_files": "rows.jsonl"}}, None),
        ({"dataset_path": NAME, "custom_dataset": "!function own.rows"}, None),
        ({"class": "!function own.Task"}, None),
        ({}, None),
    ],
)
def test_what_a_task_has_to_download(
    keys: Mapping, expected: DataSet | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_set_of(keys, None) == expected
    if expected:
        pinned = data_set_of(keys, COMMIT)
        assert pinned and pinned.revision == (None if expected.path == "json" else COMMIT)
        # A folder of that name is what `datasets` takes.
        (tmp_path / expected.path).mkdir(parents=True)
        assert data_set_of(keys, None) is None


def test_files_of_this_machine_that_a_task_names_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows/a.jsonl", "rows/b.jsonl", "rows/deep/c.jsonl", "one.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")

    def found(path: str, **arguments: object) -> list[str]:
        keys = {"dataset_path": path, "dataset_kwargs": arguments}
        return [str(file) for file in local_files(keys)]

    a, b, c = "rows/a.jsonl", "rows/b.jsonl", "rows/deep/c.jsonl"
    assert found("csv", data_files="one.csv") == ["one.csv"]
    assert found("json", data_files={"train": a, "test": ["rows/b.*"]}) == [a, b]
    assert found("json", data_dir="rows") == found("rows") == [a, b, c]
    assert found("json", data_dir="rows", data_files="a.jsonl") == [a]
    assert found("csv", data_files=str(tmp_path / "one.csv")) == [str(tmp_path / "one.csv")]
    assert found(NAME, data_files="a.jsonl") == found("json", data_files="hf://a/b") == []
    assert local_files({"dataset_path": "local"}) == []
    for wrong in ({"data_files": "two.csv"}, {"data_dir": "nowhere"}):
        with pytest.raises(UserError, match="dataset_kwargs.data_.*: there is no (two|nowhere)"):
            found("csv", **wrong)


def test_every_data_set_has_a_folder_of_its_own() -> None:
    what = [DataSet(NAME), DataSet(NAME, "a b/c"), DataSet(NAME, revision=COMMIT)]
    what += [DataSet(NAME, arguments={"data_dir": "d"}), DataSet("other/corpus")]
    folders = [each.folder for each in what]
    assert len(set(folders)) == len(folders) and not any("/" in name for name in folders)
    assert folders[1].startswith("owner-corpus-a-b-c-")


@pytest.mark.slow
def test_a_data_set_is_pinned_when_it_is_fetched(tmp_path: Path) -> None:
    old, new = ({"easy": {"test": ROWS[:n], "train": ROWS}, "hard": {"test": ROWS}} for n in (2, 4))
    hub = Hub(NAME, {FIRST: data_set(old), NEWEST: data_set(new)})
    with serving(hub):
        wrong = fetch(
            hub,
            tmp_path,
            ("newest", NAME, "easy"),
            ("pinned", NAME, "easy", FIRST),
            ("unknown", NAME, "middle"),
            ("missing", NAME, "easy", COMMIT),
        )
    for target, commit, count in (("newest", NEWEST, 4), ("pinned", FIRST, 2)):
        manifest = read_manifest(tmp_path / target)
        assert manifest["revision"] == commit
        assert set(manifest["files"]) == {"test.parquet", "train.parquet"}
        assert list(read_data(tmp_path / target / "test.parquet")) == ROWS[:count]
    # Nothing of another configuration was downloaded.
    assert not any("hard" in path for path in hub.requests)
    assert len(wrong) == 2 and "easy" in wrong[0] and "hard" in wrong[0], wrong
    assert COMMIT in wrong[1] and "HF_TOKEN" in wrong[1]
    assert not (tmp_path / "unknown").exists()

    # The hub is away now: what is kept needs nobody, and the cache gives what it has.
    wrong = fetch(
        hub,
        tmp_path,
        ("newest", NAME, "easy"),
        ("again", NAME, "easy"),
        ("other", NAME, "easy", COMMIT),
        ("nowhere", "owner/other"),
        HF_HUB_OFFLINE="1",
    )
    again = read_manifest(tmp_path / "again")
    same = {FIRST: "pinned", NEWEST: "newest"}[again["revision"]]
    assert again["files"] == read_manifest(tmp_path / same)["files"]
    assert len(wrong) == 2 and "cache (HF_HOME) has another commit" in wrong[0], wrong
    assert "cannot be reached" in wrong[1] and "snakemake fetch" in wrong[1]
