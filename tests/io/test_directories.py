"""Directories with a manifest: whole or absent, whatever happens while they are made."""

import errno
import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from frankenlab.io import directories
from frankenlab.io.directories import make_directory, read_manifest, verify_directory, verify_file
from frankenlab.io.errors import UserError

FACTS = {"key": "k", "description": "words"}


def visible(folder: Path) -> list[str]:
    """Return the names in a folder without locks and records of hashed files."""
    notes = (".lock", directories.STATES)
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(notes))


class Fill:
    """Writes two files and counts how often it had to."""

    def __init__(self):
        self.count = 0

    def __call__(self, directory: Path):
        self.count += 1
        (directory / "sub").mkdir()
        (directory / "sub/a").write_text("aaaa")
        (directory / "b").write_text("bb")
        return {"made": "by hand"}


def test_the_manifest_depends_on_nothing_but_contents(tmp_path):
    manifest = make_directory(tmp_path / "one/d", FACTS, Fill())
    make_directory(tmp_path / "two", FACTS, Fill())
    one, two = tmp_path / "one/d/manifest.json", tmp_path / "two/manifest.json"
    assert one.read_bytes() == two.read_bytes()
    assert str(tmp_path) not in one.read_text()
    assert (
        json.loads(one.read_text())
        == manifest
        == verify_directory(tmp_path / "two", every_hash=True).manifest
    )
    assert list(manifest["files"]) == ["b", "sub/a"]
    assert manifest["made"] == "by hand"


def test_a_complete_directory_is_kept_and_its_description_renewed(tmp_path):
    fill = Fill()
    first = make_directory(tmp_path / "d", FACTS, fill)
    again = make_directory(tmp_path / "d", {**FACTS, "description": "new"}, fill)
    assert fill.count == 1
    assert again == {**first, "description": "new"} == read_manifest(tmp_path / "d")


def test_a_manifest_that_lacks_what_filling_adds_is_made_again(tmp_path):
    fill = Fill()
    manifest = make_directory(tmp_path / "d", FACTS, fill, filled=("made",))
    for name in ("manifest.json", ".manifest.json"):
        (tmp_path / "d" / name).write_text(
            json.dumps({k: manifest[k] for k in manifest if k != "made"})
        )
    assert make_directory(tmp_path / "d", FACTS, fill, filled=("made",)) == manifest
    assert fill.count == 2


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Return a list that gets the name of each file that is hashed."""
    names, hash_file = [], directories.sha256_file

    def noting(path):
        names.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(directories, "sha256_file", noting)
    # Files that were just written count as settled, or no file of a test ever would.
    monkeypatch.setattr(directories, "UNSETTLED_NS", -(10**12))
    return names


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_directory_is_refused_and_made_again(tmp_path, damage):
    fill, file = Fill(), tmp_path / "d/b"
    manifest = make_directory(tmp_path / "d", FACTS, fill)
    file.write_text({"flip": "bc", "cut": "b", "gone": ""}[damage])
    if damage == "gone":
        file.unlink()
    with pytest.raises(UserError):
        verify_directory(tmp_path / "d")
    assert make_directory(tmp_path / "d", FACTS, fill) == manifest
    assert file.read_text() == "bb" and fill.count == 2
    assert verify_directory(tmp_path / "d").manifest == manifest
    assert visible(tmp_path) == ["d"]


def test_a_file_is_hashed_once_and_again_when_its_size_or_times_say_so(tmp_path, hashed):
    directory = tmp_path / "d"
    make_directory(directory, FACTS, Fill())
    hashed.clear()
    verify_directory(directory)
    assert hashed == []
    os.utime(directory / "b")
    verify_directory(directory)
    assert hashed == ["b"]
    verify_directory(directory)
    assert hashed == ["b"]
    verify_directory(directory, every_hash=True)
    assert sorted(hashed) == ["a", "b", "b"]


def test_a_file_with_the_old_size_and_time_of_modification_is_noticed(tmp_path, hashed):
    """`cp -p` and `rsync -t` leave such a file: only its time of change is new."""
    directory = tmp_path / "d"
    make_directory(directory, FACTS, Fill())
    before = (directory / "b").stat()
    (tmp_path / "other").write_text("BB")
    os.utime(tmp_path / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "other").replace(directory / "b")
    assert (directory / "b").stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(UserError, match=r"d/b: its content differs from d/manifest\.json"):
        verify_directory(directory)


def test_the_target_of_a_link_counts(tmp_path, hashed):
    source = tmp_path / "source"
    source.write_text("one")

    def link(directory):
        (directory / "weights").symlink_to(source)
        return {}

    make_directory(tmp_path / "d", FACTS, link)
    verify_directory(tmp_path / "d")
    source.write_text("two")
    with pytest.raises(UserError, match="its content differs"):
        verify_directory(tmp_path / "d")


def test_what_was_written_just_now_is_hashed_again(tmp_path, monkeypatch):
    """Within a step of the file system's clock a file can change and keep its times."""
    directory = tmp_path / "d"
    make_directory(directory, FACTS, Fill())
    settled_later = json.loads((directory / directories.STATES).read_text())
    assert set(settled_later) <= {"b", "sub/a"}
    now = time.time_ns()
    monkeypatch.setattr(directories.time, "time_ns", lambda: now)
    directories._record(directory, {"new": [1, now, now], "old": [1, 5, 5]}, now)
    assert set(json.loads((directory / directories.STATES).read_text())) == {"old"}


def test_without_a_note_of_states_or_the_right_to_write_one_files_are_hashed(
    tmp_path, hashed, monkeypatch
):
    directory = tmp_path / "d"
    make_directory(directory, FACTS, Fill())

    def refuse(*arguments):
        raise PermissionError

    monkeypatch.setattr(directories, "write_json", refuse)
    for text in ("", "[]", "{"):
        (directory / directories.STATES).write_text(text)
        hashed.clear()
        assert verify_directory(directory).manifest["key"] == "k"
        assert sorted(hashed) == ["a", "b"]


def test_a_file_that_no_manifest_lists_is_refused(tmp_path):
    """Another `model.safetensors` beside the shards would be loaded instead of them."""
    make_directory(tmp_path / "d", FACTS, Fill())
    (tmp_path / "d/model.safetensors").write_text("weights")
    with pytest.raises(UserError, match=r"d/model\.safetensors: it is not in manifest\.json"):
        verify_directory(tmp_path / "d")
    (tmp_path / "d/model.safetensors").rename(tmp_path / "d/.hidden")
    verify_directory(tmp_path / "d")


def test_a_manifest_that_contradicts_its_copy_does_not_count(tmp_path):
    make_directory(tmp_path / "d", {**FACTS, "shape": {"n_heads": 4}}, Fill())
    path = tmp_path / "d/manifest.json"
    path.write_text(path.read_text().replace('"n_heads": 4', '"n_heads": 2'))
    with pytest.raises(UserError, match="not a complete download"):
        read_manifest(tmp_path / "d")


def test_one_file_is_checked_against_the_manifest_of_its_directory(tmp_path, hashed):
    make_directory(tmp_path / "d", FACTS, Fill())
    hashed.clear()
    (tmp_path / "d/b").write_text("BB")
    verify_file(tmp_path / "d/sub/a")
    with pytest.raises(UserError, match="d/b: its content differs"):
        verify_file(tmp_path / "d/b")
    (tmp_path / "free").write_text("text")
    verify_file(tmp_path / "free")
    verify_file(tmp_path / "d/of-the-user")
    assert hashed == ["b"]


@pytest.mark.parametrize("refresh", [False, True])
def test_a_manifest_that_snakemake_deleted_is_written_again_without_a_download(tmp_path, refresh):
    """Snakemake deletes its declared outputs before it runs a job again."""
    fill, manifest = Fill(), tmp_path / "d/manifest.json"
    expected = make_directory(tmp_path / "d", FACTS, fill)
    content = manifest.read_bytes()
    manifest.unlink()
    assert make_directory(tmp_path / "d", FACTS, fill, refresh=refresh) == expected
    assert manifest.read_bytes() == content
    assert fill.count == 1 + refresh


def test_an_empty_directory_in_the_way_is_filled(tmp_path):
    """Snakemake makes the directories of its outputs before it runs a job."""
    (tmp_path / "d").mkdir()
    make_directory(tmp_path / "d", FACTS, Fill())
    assert verify_directory(tmp_path / "d").manifest["key"] == "k"


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"format": 0, "files": {"b": 1}}'])
def test_a_directory_without_a_valid_manifest_does_not_count(tmp_path, text):
    fill, manifest = Fill(), tmp_path / "d/manifest.json"
    expected = make_directory(tmp_path / "d", FACTS, fill)
    (tmp_path / "d/stray").touch()
    if text is None:
        manifest.unlink()
        (tmp_path / "d/.manifest.json").unlink()
    else:
        manifest.write_text(text)
    assert make_directory(tmp_path / "d", FACTS, fill) == expected
    assert fill.count == 2
    assert visible(tmp_path / "d") == [".manifest.json", "b", "manifest.json", "sub"]


def test_another_key_replaces_the_directory(tmp_path):
    make_directory(tmp_path / "d", FACTS, Fill())

    def other(directory):
        (directory / "c").write_text("c")
        return {}

    assert list(make_directory(tmp_path / "d", {"key": "other"}, other)["files"]) == ["c"]
    assert visible(tmp_path / "d") == [".manifest.json", "c", "manifest.json"]


def test_a_manifest_cannot_vouch_for_files_elsewhere(tmp_path):
    make_directory(tmp_path / "d", FACTS, Fill())
    (tmp_path / "outside").write_text("bb")
    manifest = read_manifest(tmp_path / "d")
    manifest["files"]["../outside"] = manifest["files"].pop("b")
    (tmp_path / "d/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="not a complete download"):
        read_manifest(tmp_path / "d")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, UserError])
def test_a_failure_half_way_leaves_nothing_and_can_be_repeated(tmp_path, failure):
    def fail(directory):
        (directory / "half").write_text("finished?")
        raise failure

    with pytest.raises(failure):
        make_directory(tmp_path / "d", FACTS, fail)
    assert visible(tmp_path) == []
    make_directory(tmp_path / "d", FACTS, Fill())
    assert visible(tmp_path) == ["d"]


def test_a_failure_leaves_the_old_directory_as_it_was(tmp_path):
    make_directory(tmp_path / "d", FACTS, Fill())

    def fail(directory):
        raise ValueError

    with pytest.raises(ValueError):
        make_directory(tmp_path / "d", {"key": "other"}, fail)
    assert verify_directory(tmp_path / "d").manifest["key"] == "k"


def test_leftovers_of_a_target_with_a_longer_name_are_not_touched(tmp_path):
    other = tmp_path / ".model.x.abcdefgh.part"
    own = tmp_path / ".model.abcdefgh.part"
    other.mkdir()
    own.mkdir()
    make_directory(tmp_path / "model", {"key": "k"}, lambda d: (d / "f").write_text("1") and {})
    assert other.exists() and not own.exists()


def test_processes_that_want_the_same_directory_wait_for_each_other(tmp_path):
    fills = []

    def fill(directory):
        fills.append(directory)
        time.sleep(0.2)
        (directory / "file").write_text("content")
        return {}

    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(make_directory(tmp_path / "d", {"key": "k"}, fill))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fills) == 1
    assert results[0] == results[1] == results[2]


def test_without_file_locks_leftovers_stay_but_the_directory_is_made(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(directories.fcntl, "flock", unsupported)
    (tmp_path / ".d.abcdefgh.part").mkdir()
    make_directory(tmp_path / "d", {"key": "k"}, lambda d: (d / "f").write_text("1") and {})
    assert visible(tmp_path) == [".d.abcdefgh.part", "d"]


def test_a_full_disk_is_one_line(tmp_path):
    def fill(directory):
        raise OSError(errno.ENOSPC, "No space left on device", str(directory / "x"))

    with pytest.raises(UserError, match="d: cannot be made: No space left on device$"):
        make_directory(tmp_path / "d", {"key": "k"}, fill)


def test_fetched_files_are_readable_by_the_group(tmp_path):
    def fill(directory):
        (directory / "sub").mkdir(mode=0o700)
        (directory / "sub/private").touch(mode=0o600)
        return {}

    old = os.umask(0o022)
    try:
        make_directory(tmp_path / "d", {"key": "k"}, fill)
    finally:
        os.umask(old)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "d").rglob("*")}
    assert modes == {
        "sub": 0o755,
        "private": 0o644,
        "manifest.json": 0o644,
        ".manifest.json": 0o644,
        ".states.json": 0o644,
    }
