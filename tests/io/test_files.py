"""Files are whole or absent, also when the disk is full."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from frankenlab.io import files
from frankenlab.io.errors import UserError
from frankenlab.io.files import atomic_path, content_hash, sha256_file, write_if_changed, write_json
from tests.support.processes import one_line, with_file_limit


def test_the_target_changes_only_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "folder" / "file"
    with atomic_path(target) as temporary:
        temporary.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    with atomic_path(target) as temporary:
        temporary.write_text("two")
        assert target.read_text() == "one"
    assert target.read_text() == "two"
    assert os.listdir(target.parent) == ["file"]


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyError), atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise KeyError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_other_members_of_the_group_can_read_the_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "file", {})
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, number):
    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError) as error:
        write_json(tmp_path / "file", {"a": 1})
    assert str(tmp_path / "file") in one_line(error) and "free some space" in str(error.value)
    assert os.listdir(tmp_path) == []


def test_other_faults_of_the_file_system_keep_their_own_error(tmp_path, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(files.os, "fsync", broken)
    with pytest.raises(OSError, match="I/O error"):
        write_json(tmp_path / "file", {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("write", [write_json, write_if_changed])
def test_a_file_that_reaches_the_limit_is_not_there(tmp_path, write):
    """For real: the kernel refuses to write more than 1000 bytes."""

    def work() -> int:
        try:
            write(tmp_path / "folder" / "file", "x" * 5000)
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
        return 0

    status, message = with_file_limit(1000, work, tmp_path / "log")
    assert status == 2 and "file too large" in one_line(message)
    assert os.listdir(tmp_path / "folder") == []


def test_unchanged_text_keeps_the_modification_time(tmp_path):
    path = tmp_path / "stamp"
    assert write_if_changed(path, "one")
    os.utime(path, (1, 1))
    assert not write_if_changed(path, "one")
    assert path.stat().st_mtime == 1
    assert write_if_changed(path, "two")
    assert path.read_text() == "two" and path.stat().st_mtime > 1


def test_json_is_readable_by_people_and_programs(tmp_path):
    value = {"b": [1, 2.5, None], "a": "größer"}
    write_json(tmp_path / "file", value)
    text = (tmp_path / "file").read_text(encoding="utf-8")
    assert json.loads(text) == value and list(json.loads(text)) == ["b", "a"]
    assert "größer" in text and text.endswith("}\n")


def test_the_hash_of_a_file_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "file") == expected


def test_the_hash_of_contents_knows_values_not_their_order():
    assert content_hash({"a": 1, "b": (2, 3)}) == content_hash({"b": [2, 3], "a": 1})
    different = [{"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": None}, [["a", 1]], "a", ["a", "b"], ["ab"]]
    assert len({content_hash(value) for value in different}) == len(different)
    assert len(content_hash("x", 8)) == 8 and content_hash("x").startswith(content_hash("x", 8))


def test_files_are_utf8_whatever_the_locale_says(tmp_path):
    """Some clusters' shells are ASCII or Latin-1."""
    code = (
        "from frankenlab.io.files import write_if_changed, write_json; import sys\n"
        "write_json(sys.argv[1], 'gr\\u00f6\\u00dfer'); write_if_changed(sys.argv[2], '\\u00e9')"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    paths = [str(tmp_path / name) for name in ("json", "text")]
    subprocess.run([sys.executable, "-c", code, *paths], env=os.environ | locale, check=True)
    assert [Path(path).read_bytes().decode() for path in paths] == ['"größer"\n', "é"]
