"""Scored rows on disk: content-addressed, append-only, written whole or not at all.

    <root>/<hash of what made the rows>/identity.json
    <root>/<hash of what made the rows>/part-<unique>.parquet

A row is a (plan, requests of a document) pair with its log-likelihoods; what made it (model,
quantization, task, engine, precision, code) is the folder. Snakemake does not know these files,
so it never deletes them: a job computes the rows that are missing and assembles its output.
"""

import logging
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from frankenlab.files import atomic_path, content_hash, write_json

SCHEMA = pa.schema(
    [
        ("plan", pa.string()),
        ("requests", pa.string()),
        ("loglikelihoods", pa.list_(pa.float64())),
        ("is_greedy", pa.list_(pa.bool_())),
    ]
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """Scores of one plan on one document's requests (`requests` is their hash)."""

    plan: str
    requests: str
    loglikelihoods: tuple[float, ...]
    is_greedy: tuple[bool, ...]


class Store:
    """The rows made by one combination of model, task, engine, precision and code.

    Args:
        root: folder of all such combinations.
        identity: JSON-able description of what makes the rows; its hash names the folder.
    """

    def __init__(self, root: str | Path, identity: Mapping[str, Any]) -> None:
        self.folder = Path(root) / content_hash(identity)
        if not (self.folder / "identity.json").is_file():
            write_json(self.folder / "identity.json", identity)

    def append(self, rows: Iterable[Row]) -> None:
        """Makes rows durable, in a part file of their own."""
        columns = [list(column) for column in zip(*map(_astuple, rows), strict=True)]
        if columns:
            table = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)
            with atomic_path(self.folder / f"part-{uuid.uuid4().hex}.parquet") as temporary:
                pq.write_table(table, temporary, compression="zstd")

    def load(self, plans: Collection[str]) -> pd.DataFrame:
        """Rows of the given plans, one per (plan, requests).

        A part that cannot be read (a truncated copy, say) is removed with a warning, so its
        rows count as missing and are computed again.
        """
        wanted = pa.array(sorted(plans), pa.string())
        tables = [SCHEMA.empty_table()]
        for path in sorted(self.folder.glob("part-*.parquet")):
            # Read apart from parsing: what cannot be opened now (too many open files, say) is not
            # damaged, and must not be removed.
            try:
                contents = path.read_bytes()
            except FileNotFoundError:
                continue  # damaged, and removed by another job
            try:
                table = pq.read_table(pa.BufferReader(contents), schema=SCHEMA)
            except (pa.ArrowException, OSError, ValueError) as error:
                logger.warning("%s: unreadable, its rows are computed again (%s)", path, error)
                path.unlink(missing_ok=True)
                continue
            tables.append(table.filter(pa.compute.is_in(table["plan"], wanted)))
        frame = pa.concat_tables(tables).to_pandas()
        return frame.drop_duplicates(["plan", "requests"], ignore_index=True)


def _astuple(row: Row) -> tuple:
    return row.plan, row.requests, list(row.loglikelihoods), list(row.is_greedy)
