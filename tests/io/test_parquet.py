"""Tables on disk prove that they are what was written."""

import random

import pandas as pd
import pyarrow as pa
import pytest

from frankenlab.io.parquet import (
    Damaged,
    damaged,
    is_whole,
    read_parquet,
    read_table,
    write_parquet,
)
from tests.support.processes import one_line

FRAME = pd.DataFrame(
    {
        "plan": pd.Categorical(["base", "0:2,1:4", "base"]),
        "loglikelihoods": [[-1 / 3, -1e-300], [-2.0], []],
        "up": pd.array([1, None, 3], "Int64"),
        "effect": [0.0, float("nan"), -0.1],
        "significant": [True, False, True],
    }
)


def same(found: pd.DataFrame) -> bool:
    """Tell whether a frame holds what `FRAME` does; lists come back as arrays."""
    lists = [list(one) for one in found["loglikelihoods"]]
    rest = found.drop(columns="loglikelihoods")
    return lists == list(FRAME["loglikelihoods"]) and rest.equals(
        FRAME.drop(columns="loglikelihoods")
    )


def test_a_table_comes_back_as_it_was_here_and_elsewhere(tmp_path):
    path = tmp_path / "new" / "table.parquet"
    write_parquet(FRAME, path)
    assert is_whole(path) and same(read_parquet(path))
    assert same(pd.read_parquet(path)), "any program can read it"
    write_parquet(FRAME, tmp_path / "again.parquet")
    assert path.read_bytes() == (tmp_path / "again.parquet").read_bytes()


@pytest.mark.parametrize("table", [FRAME.iloc[:0], pd.DataFrame(), pa.table({"a": [1]})])
def test_tables_without_rows_or_columns_and_arrows_own_can_be_written(tmp_path, table):
    write_parquet(table, tmp_path / "t.parquet", {"made by": "tests"})
    found, about = read_table(tmp_path / "t.parquet")
    assert found.num_rows == len(table) and about["made by"] == "tests"


@pytest.mark.slow
def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path):
    """Pages, headers of pages, footer, the hash itself, the lengths at the end."""
    path = tmp_path / "t.parquet"
    write_parquet(FRAME, path)
    whole, draw = path.read_bytes(), random.Random(2)
    assert len(whole) > 2000
    for place in range(len(whole)):
        flipped = bytes([whole[place] ^ draw.randrange(1, 256)])
        path.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        assert not is_whole(path), place
        path.write_bytes(whole[:place])
        assert not is_whole(path), place
    path.write_bytes(whole + b"\0")
    with pytest.raises(Damaged) as error:
        read_parquet(path)
    assert "t.parquet: damaged" in one_line(error) and "remove it" in str(error.value)


def test_a_file_that_something_else_wrote_does_not_count(tmp_path):
    FRAME.to_parquet(tmp_path / "foreign.parquet")
    assert not is_whole(tmp_path / "foreign.parquet")


def test_a_text_that_looks_like_the_hash_misleads_nobody(tmp_path):
    """It is the value of a column, whose extremes stand in the footer, or a key."""
    path = tmp_path / "t.parquet"
    mark = "frankenlab.sha256\x18@" + "0" * 64
    frame = pd.DataFrame({mark: [mark, "a"]})
    write_parquet(frame, path, {mark: mark})
    assert is_whole(path) and read_parquet(path).equals(frame)


def test_damaged_tables_are_found_and_left(tmp_path):
    write_parquet(FRAME, tmp_path / "whole.parquet")
    contents = (tmp_path / "whole.parquet").read_bytes()
    flipped = bytearray(contents)
    flipped[len(flipped) // 3] ^= 4
    wrong = {
        "cut.parquet": contents[:-1],
        "deeper/flipped.parquet": bytes(flipped),
        "empty.parquet": b"",
        "foreign.parquet": b"PAR1...PAR1",
    }
    (tmp_path / "deeper").mkdir()
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "table.csv").write_text("x")
    (tmp_path / "folder.parquet").mkdir()
    assert damaged(tmp_path) == sorted(tmp_path / name for name in wrong)
    assert all((tmp_path / name).read_bytes() == content for name, content in wrong.items())
