"""Looks at the confirm sets are counted once each, whatever else happens."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from frankenlab.analyse import ledger

LOOK = {"experiment": "e", "model": "m", "quantization": "none", "task": "t", "plan": "0:3,1:4"}


def test_the_same_look_again_is_no_new_look(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert ledger.record(path, LOOK, ["a", "b"])
    assert not ledger.record(path, LOOK, ["b", "a"])
    assert ledger.record(path, LOOK, ["a", "b", "c"])
    assert ledger.record(path, LOOK | {"plan": "0:4,2:4"}, ["a", "b"])
    assert ledger.table(path, ["m"], ["t"])["documents"].tolist() == [2, 3, 2]


def test_only_the_models_and_tasks_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.record(path, LOOK, ["a"])
    ledger.record(path, LOOK | {"task": "other"}, ["a"])
    assert ledger.table(path, ["m"], ["t"])["task"].tolist() == ["t"]
    assert ledger.table(path, ["n"], ["t"]).empty
    assert ledger.table(tmp_path / "absent", ["m"], ["t"]).empty


def test_a_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.record(path, LOOK, ["a"])
    path.write_text(path.read_text() + '{"identity": "x", "mod\n')
    assert ledger.record(path, LOOK, ["b"])
    assert len(ledger.table(path, ["m"], ["t"])) == 2


def test_jobs_side_by_side_lose_no_look(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: ledger.record(path, LOOK | {"task": f"t{i}"}, ["a"]), range(40)))
    assert len(ledger.table(path, ["m"], [f"t{i}" for i in range(40)])) == 40


def test_a_line_that_a_full_disk_cut_swallows_no_look(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert ledger.record(path, LOOK, ["a"])
    path.write_text(path.read_text() + path.read_text()[:30])
    assert ledger.record(path, LOOK | {"plan": "0:4,2:4"}, ["a"])
    assert ledger.table(path, ["m"], ["t"])["plan"].tolist() == ["0:3,1:4", "0:4,2:4"]


def test_a_damaged_line_is_warned_of_and_the_others_count(tmp_path: Path, caplog) -> None:
    path = tmp_path / "ledger.jsonl"
    for documents in (["a"], ["b"], ["c"]):
        ledger.record(path, LOOK, documents)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = [b"\xff\xfe\n", b"7\n", b'{"identity": "x"}\n', b"[" * 90_000 + b"\n"]
    path.write_bytes(lines[0] + b"".join(damaged) + lines[1] + lines[2])
    assert len(ledger.table(path, ["m"], ["t"])) == 3
    assert "looks there do not count: line 2, 3, 4, 5" in caplog.text
    assert not ledger.record(path, LOOK, ["b"])
