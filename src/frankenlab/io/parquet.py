"""Parquet files that prove, when they are read, that they are what was written.

The checksums of Parquet's pages leave out the footer and the headers of the pages, where a changed
byte can give other values. So the footer carries the SHA-256 of the whole file, computed with zeros
in the place of the hash itself. Any program that reads Parquet can read these files.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from frankenlab.io.errors import UserError
from frankenlab.io.files import atomic_path

KEY = "frankenlab.sha256"
HASH_LENGTH = 64
# The bytes before the hash in the footer: its key, then the number and type of the next field and
# the length of its text in Thrift's compact protocol.
MARK = KEY.encode() + bytes([0x18, HASH_LENGTH])
NO_HASH = b"0" * HASH_LENGTH


class Damaged(UserError):
    """The contents of a file are not those that were written."""


def write_parquet(
    table: pd.DataFrame | pa.Table, path: str | os.PathLike, about: Mapping[str, str] | None = None
) -> None:
    """Write a table with the hash of its file, whole or not at all.

    Args:
        about: more keys and texts for the footer (see `read_table`).

    Raises:
        UserError: as `atomic_path`.
    """
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({**(about or {}), KEY: NO_HASH.decode()})
    contents = sink.getvalue().to_pybytes()
    start = _hash_starts(contents)
    assert contents[start : start + HASH_LENGTH] == NO_HASH, "the footer holds the place of a hash"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(contents[:start])
        file.write(_digest(contents, start))
        file.write(contents[start + HASH_LENGTH :])


def read_parquet(path: str | os.PathLike) -> pd.DataFrame:
    """Return the table in a file that `write_parquet` wrote.

    Raises:
        Damaged: the file is not what was written.
        OSError: the file cannot be opened.
    """
    return read_table(path)[0].to_pandas()


def read_table(path: str | os.PathLike) -> tuple[pa.Table, dict[str, str]]:
    """Return the Arrow table in a file, and the keys and texts of its footer.

    Raises:
        Damaged, OSError: as `read_parquet`.
    """
    contents = Path(path).read_bytes()
    if not _is_sound(contents):
        raise Damaged(
            f"{path}: damaged, its contents are not what was written; remove it and run again"
        )
    file = pq.ParquetFile(pa.BufferReader(contents))
    about = {key.decode(): text.decode() for key, text in file.metadata.metadata.items()}
    return file.read(), about


def is_whole(path: str | os.PathLike) -> bool:
    """Tell whether a file is as `write_parquet` wrote it."""
    return _is_sound(Path(path).read_bytes())


def damaged(folder: str | os.PathLike) -> list[Path]:
    """Return the Parquet files below a folder that are not as `write_parquet` wrote them.

    They were cut short, bytes of them were changed, or another program wrote them.
    """
    found = sorted(Path(folder).rglob("*.parquet"))
    return [path for path in found if path.is_file() and not is_whole(path)]


def _is_sound(contents: bytes) -> bool:
    start = _hash_starts(contents)
    return start > 0 and contents[start : start + HASH_LENGTH] == _digest(contents, start)


def _hash_starts(contents: bytes) -> int:
    """Return where the hash stands in the file; 0 if it has none."""
    at = contents.rfind(MARK)
    return 0 if at < 0 else at + len(MARK)


def _digest(contents: bytes, start: int) -> bytes:
    """Return the hash of the contents with zeros in the place of the hash at `start`."""
    view = memoryview(contents)
    digest = hashlib.sha256(view[:start])
    digest.update(NO_HASH)
    digest.update(view[start + HASH_LENGTH :])
    return digest.hexdigest().encode()
