"""Data files of any usual format, read as data sets; a damaged one is refused in one line."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from frankenlab.io.errors import UserError, one_line

ENDINGS = (".arrow", ".parquet", ".jsonl", ".json", ".csv", ".tsv")

# What a whole number is in a CSV or TSV file: it is written in one way only, and fits into 64 bits.
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")


class Splits(Mapping[str, datasets.Dataset]):
    """Files by the names of the splits that they hold, each read when it is first asked for."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files, self._read = files, dict[str, datasets.Dataset]()

    @classmethod
    def in_folder(cls, folder: Path) -> "Splits":
        """Return the splits of a data set that was fetched from the hub."""
        return cls({path.stem: path for path in sorted(folder.glob("*.parquet"))})

    def __getitem__(self, split: str) -> datasets.Dataset:
        """Return a split.

        Raises:
            UserError: as `read_data`.
            KeyError: there is no such split.
        """
        if split not in self._files:
            raise KeyError(f"{split}, and the splits are {', '.join(self)}")
        if split not in self._read:
            self._read[split] = read_data(self._files[split])
        return self._read[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def read_data(path: Path) -> datasets.Dataset:
    """Return the rows of an Arrow, Parquet, JSON, JSON lines, CSV or TSV file, gzipped or not.

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
        delimiter = {".csv": ",", ".tsv": "\t"}.get(ending)
        rows = _csv_rows(content, delimiter) if delimiter else _json_rows(content)
        return _from_rows(rows, fingerprint)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: it is not UTF-8 text (byte {error.start})") from None
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


def _csv_rows(content: bytes, delimiter: str) -> list[dict[str, Any]]:
    """Return the rows of a CSV or TSV file, whose first line names the columns.

    A column of whole numbers holds numbers. Every other one holds texts as they are written, so
    that a prompt shows "1.50", "007" or "None" as the file does.
    """
    # The library's own limit is 131,072 characters.
    csv.field_size_limit(len(content) + 1)
    text = io.StringIO(content.decode("utf-8-sig"), newline="")
    lines = csv.reader(text, delimiter=delimiter, strict=True)
    names = next(lines, [])
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"line 1: a name for each column is expected, not {names!r:.80}")
    rows: list[dict[str, Any]] = []
    for cells in lines:
        if len(cells) not in (0, len(names)):
            raise ValueError(f"line {lines.line_num}: {len(cells)} cells, and {len(names)} columns")
        if cells:
            rows.append(dict(zip(names, cells, strict=True)))
    for name in names:
        if all(_WHOLE.fullmatch(row[name]) for row in rows):
            for row in rows:
                row[name] = int(row[name])
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
