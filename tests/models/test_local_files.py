"""What tells that a file of this machine changed."""

import os

import pytest

from frankenlab.models import sources
from frankenlab.models.sources import Source, file_identity, source_identity


def test_a_small_file_is_told_apart_by_what_is_in_it(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("one")
    before = file_identity(path)
    os.utime(path, ns=(5, 5))
    assert file_identity(path) == before
    path.write_text("two")
    os.utime(path, ns=(5, 5))
    assert file_identity(path) != before
    assert file_identity(tmp_path / "absent") is None


def test_a_large_one_by_its_size_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "HASHED_BYTES", 2)
    path = tmp_path / "weights"
    path.write_text("one")
    os.utime(path, ns=(5, 5))
    before = file_identity(path)
    path.write_text("two")
    os.utime(path, ns=(4, 4))
    assert file_identity(path) != before, "also with an earlier time"


@pytest.mark.parametrize("use", ["model", "data"])
def test_of_a_source_the_files_that_are_taken_count(tmp_path, use):
    for name in ("model.safetensors", "a.jsonl", "sub/b.jsonl", "config.json", "notes.md", ".hid"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = source_identity(Source("path", str(tmp_path)), use)
    expected = {
        "model": {"config.json", "model.safetensors"},
        "data": {"a.jsonl", "sub/b.jsonl", "config.json"},
    }
    assert set(found) == expected[use]
    one = source_identity(Source("path", str(tmp_path), file="a.jsonl"), use)
    assert set(one) == {"a.jsonl"}
    assert source_identity(Source("path", str(tmp_path / "a.jsonl")), use) == one
    assert source_identity(Source("path", str(tmp_path / "absent")), use) == {}


def test_a_version_that_does_not_change_has_nothing_to_look_at():
    assert source_identity(Source("pypi", "package==1.0", file="m.gguf"), "model") == {}
