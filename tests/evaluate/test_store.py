"""Rows on disk are whole or absent, and a damaged file costs no more than its own rows."""

import errno
import json
import logging
import os
import random
import shutil
import threading
from pathlib import Path

import pandas as pd
import pytest

from frankenlab.evaluate.store import Store
from frankenlab.evaluate.sweep import Row
from frankenlab.io import files
from frankenlab.io.errors import UserError
from tests.support.processes import one_line

IDENTITY = {"weights": "w", "task": "t"}
HARDWARE = "a processor"


def row(plan: str, requests: str, score: float = -1.5) -> Row:
    return Row(plan, requests, (score, -2.0), (True, False), HARDWARE)


def keys(frame: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(frame["plan"], frame["requests"], strict=True))


def parts(a_store: Store) -> list[str]:
    return sorted(path.name for path in a_store.folder.iterdir() if path.name != "identity.json")


def test_rows_come_back_exactly(tmp_path):
    a_store = Store(tmp_path, IDENTITY)
    rows = [
        Row("base", "a", (-1 / 3,), (True,), "one card"),
        Row("0:2", "a", (-1e-300, -2.0), (False, True), "another card"),
    ]
    a_store.append(rows)
    a_store.append([])
    frame = Store(tmp_path, IDENTITY).load(["base", "0:2", "absent"])
    found = {
        Row(plan, requests, tuple(values), tuple(greedy), hardware)
        for plan, requests, values, greedy, hardware in frame.itertuples(index=False, name=None)
    }
    assert found == set(rows) and len(frame) == 2
    assert len(parts(a_store)) == 1


def test_only_the_plans_asked_for_are_loaded_and_each_row_once(tmp_path):
    a_store = Store(tmp_path, IDENTITY)
    a_store.append([row("base", "a"), row("0:2", "a"), row("base", "b")])
    a_store.append([row("base", "a"), row("0:3", "a")])
    frame = a_store.load(["base", "0:3"])
    assert keys(frame) == {("base", "a"), ("base", "b"), ("0:3", "a")} and len(frame) == 3
    assert a_store.load([]).empty


def test_an_empty_store_has_the_columns_of_a_full_one(tmp_path):
    a_store = Store(tmp_path, IDENTITY)
    empty = a_store.load(["base"])
    a_store.append([row("base", "a")])
    assert list(empty.columns) == list(a_store.load(["base"]).columns) and empty.empty


def test_what_made_the_rows_decides_the_folder_and_is_written_there(tmp_path):
    one, same = Store(tmp_path, IDENTITY), Store(tmp_path, {"task": "t", "weights": "w"})
    other = Store(tmp_path, IDENTITY | {"precision": "float32"})
    assert one.folder == same.folder != other.folder
    one.append([row("base", "a")])
    assert other.load(["base"]).empty
    assert json.loads((one.folder / "identity.json").read_text()) == IDENTITY


def flipped(contents: bytes, bit: int) -> bytes:
    damaged = bytearray(contents)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


DAMAGE = {
    "empty": lambda whole: b"",
    "only its beginning": lambda whole: whole[:3],
    "a half": lambda whole: whole[: len(whole) // 2],
    "all but a byte": lambda whole: whole[:-1],
    "its end zeroed": lambda whole: whole[:-200] + bytes(200),
    "another file": lambda whole: b"PAR1" + bytes(100) + b"PAR1",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_costs_its_own_rows_and_goes_when_they_are_there_again(
    tmp_path, caplog, damage
):
    a_store = Store(tmp_path, IDENTITY)
    a_store.append([row("base", "a")])
    (first,) = parts(a_store)
    a_store.append([row("base", "b")])
    path = a_store.folder / first
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert keys(a_store.load(["base"])) == {("base", "b")}
    assert str(path) in caplog.text and "computed again" in caplog.text
    # Reading deletes nothing; only a job that writes does.
    assert first in parts(a_store)
    a_store.append([row("base", "a")])
    assert first not in parts(a_store)
    caplog.clear()
    assert keys(a_store.load(["base"])) == {("base", "a"), ("base", "b")}
    assert not caplog.records


@pytest.mark.slow
def test_no_flipped_bit_gives_other_numbers(tmp_path):
    """Neither in the pages nor in the footer: the part counts not at all."""
    a_store = Store(tmp_path, IDENTITY)
    a_store.append([row(f"0:{i}", f"r{j}", -i - j / 7) for i in range(1, 5) for j in range(8)])
    (part,) = parts(a_store)
    path = a_store.folder / part
    whole = path.read_bytes()
    assert len(a_store.load(["0:1"])) == 8
    for bit in random.Random(1).sample(range(8 * len(whole)), 2000):
        path.write_bytes(flipped(whole, bit))
        assert a_store.load(["0:1"]).empty, f"bit {bit}"


def test_reading_writes_and_deletes_nothing(tmp_path):
    a_store = Store(tmp_path / "store", IDENTITY)
    assert a_store.load(["base"]).empty
    assert not (tmp_path / "store").exists()


def test_a_part_that_something_else_made_is_left_out_and_stays(tmp_path, caplog):
    """Copied by hand into the wrong folder, or made under an identity with the same short hash."""
    one, other = Store(tmp_path, IDENTITY), Store(tmp_path, IDENTITY | {"weights": "v"})
    other.append([row("base", "a", -9.0)])
    one.append([row("base", "b")])
    (part,) = parts(other)
    shutil.copy(other.folder / part, one.folder / part)
    with caplog.at_level(logging.WARNING):
        assert keys(one.load(["base"])) == {("base", "b")}
    assert "made by something else" in caplog.text
    one.append([row("base", "a")])
    assert part in parts(one)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b'{"weights": "another"}'])
def test_a_damaged_description_of_the_folder_is_written_again(tmp_path, text):
    a_store = Store(tmp_path, IDENTITY)
    a_store.append([row("base", "a")])
    (a_store.folder / "identity.json").write_bytes(text)
    assert keys(Store(tmp_path, IDENTITY).load(["base"])) == {("base", "a")}
    a_store.append([row("base", "b")])
    assert json.loads((a_store.folder / "identity.json").read_text()) == IDENTITY


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_a_part_that_cannot_be_opened_now_is_not_taken_for_a_damaged_one(
    tmp_path, monkeypatch, number
):
    a_store = Store(tmp_path, IDENTITY)
    a_store.append([row("base", "a")])

    def fails(path):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        with pytest.raises(OSError, match=os.strerror(number)):
            a_store.load(["base"])
    assert keys(a_store.load(["base"])) == {("base", "a")}


def test_a_part_that_another_job_removes_is_skipped(tmp_path, monkeypatch):
    """Two jobs find the same damaged part; one is faster."""
    a_store = Store(tmp_path, IDENTITY)
    a_store.append([row("base", "a")])
    monkeypatch.setattr(Path, "glob", lambda *_: [a_store.folder / "part-gone.parquet"])
    assert a_store.load(["base"]).empty


def test_what_a_killed_writer_leaves_is_not_read(tmp_path):
    a_store = Store(tmp_path, IDENTITY)
    a_store.append([row("base", "a")])
    (name,) = parts(a_store)
    whole = (a_store.folder / name).read_bytes()
    (a_store.folder / f".{name}.x1y2z3.part").write_bytes(whole[:100])
    assert keys(a_store.load(["base"])) == {("base", "a")}


def test_a_full_disk_leaves_no_part(tmp_path, monkeypatch):
    a_store = Store(tmp_path, IDENTITY)
    a_store.append([row("base", "a")])
    before = parts(a_store)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError) as error:
        a_store.append([row("base", "b")])
    assert "no space left" in one_line(error) and "finished parts are kept" in str(error.value)
    assert parts(a_store) == before


@pytest.mark.slow
def test_many_writers_at_a_time_lose_nothing(tmp_path):
    """Shards of one task append to one folder; each opens the store by itself."""

    def write(number: int) -> None:
        a_store = Store(tmp_path, IDENTITY)
        for i in range(5):
            a_store.append([row("base", f"{number}-{i}"), row("base", "shared")])
            a_store.load(["base"])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {("base", f"{n}-{i}") for n in range(8) for i in range(5)} | {("base", "shared")}
    frame = Store(tmp_path, IDENTITY).load(["base"])
    assert keys(frame) == expected and len(frame) == 41
