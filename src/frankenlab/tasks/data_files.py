"""Data files of any usual format, read as data sets; a damaged one is refused in one line."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from frankenlab.io.errors import UserError, one_line

ENDINGS = (".arrow", ".parquet", ".jsonl", ".json")


def read_data(path: Path) -> datasets.Dataset:
    """Return the rows of an Arrow, Parquet, JSON or JSON lines file, gzipped or not.

    The whole file is read into memory and checked. A memory map would end the process where a
    damaged Arrow file points outside of itself, or where the file is cut while it is read.

    Raises:
        UserError: the file is missing, damaged, empty, or of another kind.
    """
    ending = next((e for e in ENDINGS if path.name.removesuffix(".gz").endswith(e)), None)
    if ending is None:
        raise UserError(
            f"{path}: unknown kind of data, one of {' '.join(ENDINGS)} is expected, as it is or .gz"
        )
    try:
        with pyarrow.input_stream(str(path)) as stream:
            content = stream.read()
        fingerprint = hashlib.sha256(content).hexdigest()[:16]
        if ending == ".arrow":
            return _data_set(_arrow_table(content), fingerprint)
        if ending == ".parquet":
            file = pyarrow.BufferReader(content)
            table = pyarrow.parquet.read_table(file, page_checksum_verification=True)
            return _data_set(table, fingerprint)
        return _from_rows(_json_rows(content), fingerprint)
    # The errors that damage raises inside of pyarrow and datasets have no common type.
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{path}: not a readable data file ({reason})") from error


def _arrow_table(content: bytes) -> pyarrow.Table:
    """Return the table of an Arrow stream, as `datasets` writes it, or of an Arrow file."""
    is_file = content.startswith(b"ARROW1")
    open_ = pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream
    with open_(pyarrow.BufferReader(content)) as reader:
        return reader.read_all()


def _data_set(table: pyarrow.Table, fingerprint: str) -> datasets.Dataset:
    # Offsets and lengths that point outside of their buffers would crash whoever reads them.
    table.validate(full=True)
    if not table.num_columns:
        raise ValueError("it has no columns")
    if not table.num_rows:
        raise ValueError("it has no rows")
    # Without a name `datasets` would pickle the whole table to make one.
    return datasets.Dataset(table, fingerprint=fingerprint)


def _json_rows(content: bytes) -> list[Any]:
    """Return the rows of JSON lines or of a JSON array."""
    text = content.decode(json.detect_encoding(content))
    if text.lstrip().startswith("["):
        return json.loads(text)
    rows = []
    # Not splitlines(): a JSON string may hold one of Unicode's line separators.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return rows


def _from_rows(rows: Sequence[Any], fingerprint: str) -> datasets.Dataset:
    if not rows:
        raise ValueError("it is empty")
    wrong = next((i for i, row in enumerate(rows, 1) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise ValueError(f"row {wrong} is not an object with named fields")
    # The first row alone does not do: a field that it lacks would be lost in all others.
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    try:
        return _data_set(datasets.Dataset.from_dict(columns).data.table, fingerprint)
    except pyarrow.ArrowException:
        for name, values in columns.items():
            try:
                pyarrow.array(values)
            except pyarrow.ArrowException as error:
                raise ValueError(f'field "{name}": {error}') from None
        raise
