"""Data files of every kind are read whole, and a damaged one ends in one line."""

import gzip
import json
import os
import random

import pyarrow as pa
import pyarrow.parquet
import pytest

from frankenlab.io.errors import UserError
from frankenlab.tasks.data_files import read_data
from tests.support.processes import fork, one_line

ROWS = [{"text": "größer", "n": 1}, {"text": "two\u2028lines", "n": 2}]


def write_data(folder, ending: str, rows=ROWS):
    path = folder / f"data{ending}"
    table = pa.Table.from_pylist(rows)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if ending == ".arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    elif ending == ".parquet":
        pyarrow.parquet.write_table(table, path)
    elif ending == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines)
    return path


ENDINGS = [".arrow", ".parquet", ".jsonl", ".json", ".jsonl.gz"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_of_data_file_is_read(tmp_path, ending):
    assert list(read_data(write_data(tmp_path, ending))) == ROWS


def test_a_csv_file_has_whole_numbers_and_texts_as_they_are_written(tmp_path):
    path = tmp_path / "data.csv"
    long = "word " * 40_000
    path.write_text(
        "\ufefftext,label,year,price,code,empty\r\n"
        '"größer, ""so""\nlines",0,-5,1.50,007,\r\n'
        f"{long},1,1999,2,12,None\r\n"
    )
    assert list(read_data(path)) == [
        {"text": 'größer, "so"\nlines', "label": 0, "year": -5, "price": "1.50", "code": "007",
         "empty": ""},
        {"text": long, "label": 1, "year": 1999, "price": "2", "code": "12", "empty": "None"},
    ]  # fmt: skip
    zipped = tmp_path / "data.csv.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_data(zipped)) == list(read_data(path))


def test_a_tsv_file_is_read_like_a_csv_file(tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text('text\tlabel\n"a ""tab""\there"\t1\nb, and c\t0\n')
    assert list(read_data(path)) == [
        {"text": 'a "tab"\there', "label": 1},
        {"text": "b, and c", "label": 0},
    ]


def test_an_arrow_file_with_a_footer_is_read(tmp_path):
    table, path = pa.Table.from_pylist(ROWS), tmp_path / "data.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert list(read_data(path)) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", ["lines", "array"])
def test_json_may_be_an_array_and_begin_with_a_byte_order_mark(tmp_path, encoding, form):
    written = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    text = "\n".join(written) if form == "lines" else "[" + ",\n".join(written) + "]"
    path = tmp_path / "data.json"
    path.write_bytes(text.encode(encoding))
    assert list(read_data(path)) == ROWS


def test_a_field_that_the_first_row_lacks_is_not_lost(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": 1}\n{"a": 2, "b": {"c": "x"}}\n')
    assert list(read_data(path)) == [{"a": 1, "b": None}, {"a": 2, "b": {"c": "x"}}]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("damage", ["absent", "empty", "truncated"])
def test_a_data_file_that_is_absent_or_damaged_is_refused_by_name(tmp_path, ending, damage):
    path = write_data(tmp_path, ending)
    if damage == "absent":
        path.unlink()
    else:
        size = 0 if damage == "empty" else path.stat().st_size - 12
        path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError) as error:
        read_data(path)
    assert str(path) in one_line(error)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("data.txt", b"a\tb\n1\t2\n", ".parquet"),
        ("data.csv", b"a,b\n1,2\n3\n", "line 3: 1 cells, and 2 columns"),
        ("data.csv", b'a,b\n1,"2\n', "unexpected end"),
        ("data.csv", b"a,a\n1,2\n", "line 1: a name for each column"),
        ("data.csv", b"a,b\n", "empty"),
        ("data.csv", b"", "empty"),
        ("data.csv", b"a,b\n\x80,2\n", "UTF-8"),
        ("data.json", b'{"a": 1}\n{"a": "x"}\n', 'field "a"'),
        ("data.json", b'{"a": 1}\n{"a": \n', "line 2"),
        ("data.json", b"[1, 2]", "row 1"),
        ("data.json", b'"text"', "row 1"),
        ("data.json", b"[]", "empty"),
        ("data.json", b"[{}]", "no columns"),
        ("data.json", b"[" * 100_000, "recursion"),
        ("data.json", b"\x80\x81", "UTF-8"),
        ("data.arrow", b'{"a": 1}\n', "data.arrow"),
        ("data.parquet", b'{"a": 1}\n', "data.parquet"),
        ("data.jsonl.gz", b'{"a": 1}\n', "data.jsonl.gz"),
    ],
)
def test_another_content_is_refused_with_its_place(tmp_path, name, content, part):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_data(path)
    assert str(path) in one_line(error) and part in str(error.value)


def test_a_file_without_rows_is_refused(tmp_path):
    for ending in (".arrow", ".parquet"):
        path = write_data(tmp_path, ending)
        schema = pa.Table.from_pylist(ROWS).schema
        empty = schema.empty_table()
        if ending == ".arrow":
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                writer.write_table(empty)
        else:
            pyarrow.parquet.write_table(empty, path)
        with pytest.raises(UserError) as error:
            read_data(path)
        assert "no rows" in one_line(error)


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Return a copy with flipped bits, zeros in the middle, or without its end."""
    copy = bytearray(content)
    place = generator.randrange(len(copy))
    kind = generator.randrange(4)
    if kind == 0:
        return bytes(copy[:place])
    if kind == 1:
        copy[place : place + 64] = bytes(len(copy[place : place + 64]))
    # Most of a file is text, where damage shows nowhere: the beginning has the offsets.
    for _ in range(kind):
        copy[generator.randrange(min(2000, len(copy)))] ^= 1 << generator.randrange(8)
    return bytes(copy)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".arrow", ".parquet"])
def test_no_damage_ends_the_process(tmp_path, ending):
    """Arrow on a memory map kills one process in sixteen here. Reads in a process of its own."""
    rows = [
        {"text": f"text {i}", "many": [f"{i}", "b"], "one": {"n": i, "none": None if i % 3 else 1}}
        for i in range(60)
    ]
    content = write_data(tmp_path, ending, rows).read_bytes()
    generator = random.Random(5)

    def read_all() -> int:
        return sum(not ends_well(tmp_path, ending, content, generator) for _ in range(250))

    _, status = os.waitpid(fork(read_all, tmp_path / "log"), 0)
    assert os.waitstatus_to_exitcode(status) == 0, (tmp_path / "log").read_text()


def ends_well(folder, ending: str, content: bytes, generator: random.Random) -> bool:
    path = folder / f"damaged{ending}"
    path.write_bytes(damaged(content, generator))
    try:
        json.dumps(list(read_data(path)), default=str)
    except UserError as error:
        return "\n" not in str(error)
    return True
