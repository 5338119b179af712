"""Stamps are written by runs alone; what only reads has a stand-in elsewhere."""

from frankenlab.runtime.stamps import Stamps


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
