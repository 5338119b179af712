"""Scored rows on disk: content-addressed, append-only, written completely or not at all.

    <root>/<hash of what made the rows>/identity.json
    <root>/<hash of what made the rows>/part-<unique>.parquet

A row (`sweep.Row`) has the log-likelihoods of one plan on one document's requests. What made it
(model, quantization, task, engine, device, precision, code) names its folder. Every part carries
the full hash of that too, so that a part counts only where it belongs, and a hash of itself, so
that a damaged one is noticed. Snakemake does not know these files, so it never deletes them: a job
computes the rows that are missing and assembles its output.
"""

import json
import logging
import uuid
from collections.abc import Collection, Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute

from frankenlab.io.files import content_hash, write_if_changed
from frankenlab.io.parquet import Damaged, read_table, write_parquet

if TYPE_CHECKING:
    from frankenlab.evaluate.sweep import Row

SCHEMA = pa.schema(
    [
        ("plan", pa.string()),
        ("requests", pa.string()),
        ("loglikelihoods", pa.list_(pa.float64())),
        ("is_greedy", pa.list_(pa.bool_())),
        ("hardware", pa.string()),
    ]
)

# The key in a part's footer under which the full hash of what made its rows stands.
IDENTITY = "frankenlab.identity"

logger = logging.getLogger(__name__)


class Store:
    """The rows made by one combination of model, task, engine, device, precision and code.

    Opening and reading one writes and deletes nothing.

    Args:
        root: folder of all such combinations.
        identity: JSON-able description of what makes the rows; its hash names the folder.
    """

    def __init__(self, root: str | Path, identity: Mapping[str, Any]) -> None:
        self.folder = Path(root) / content_hash(identity)
        self._identity = identity
        self._hash = content_hash(identity, length=64)
        self._damaged: set[Path] = set()

    def append(self, rows: "Iterable[Row]") -> None:
        """Make rows durable, in a part file of their own.

        Parts that `load` found damaged are removed: their rows are computed again.
        """
        # Not `dataclasses.astuple`, which copies each number.
        values = map(attrgetter(*SCHEMA.names), rows)
        columns = [list(column) for column in zip(*values, strict=True)]
        if not columns:
            return
        # For people to read: no program does.
        text = json.dumps(self._identity, indent=1, ensure_ascii=False) + "\n"
        write_if_changed(self.folder / "identity.json", text)
        table = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)
        path = self.folder / f"part-{uuid.uuid4().hex}.parquet"
        write_parquet(table, path, {IDENTITY: self._hash})
        while self._damaged:
            self._damaged.pop().unlink(missing_ok=True)

    def load(self, plans: Collection[str]) -> pd.DataFrame:
        """Return the rows of the given plans, one per (plan, requests).

        Parts that were damaged (a flipped byte, a copy cut short) or made by something else are
        left out with a warning: their rows count as missing, and are computed again.
        """
        wanted = pa.array(sorted(plans), pa.string())
        tables = [SCHEMA.empty_table()]
        for path in sorted(self.folder.glob("part-*.parquet")):
            table = self._part(path)
            if table is not None:
                tables.append(table.filter(pa.compute.is_in(table["plan"], wanted)))
        frame = pa.concat_tables(tables).to_pandas()
        return frame.drop_duplicates(["plan", "requests"], ignore_index=True)

    def _part(self, path: Path) -> pa.Table | None:
        """Return a part's rows; None for one that does not count."""
        # Where a part cannot be opened now (too many open files, say), the error goes on: it is
        # not damaged.
        try:
            table, about = read_table(path)
        except FileNotFoundError:
            return None  # it was damaged, and another job removed it
        except Damaged:
            logger.warning("%s: damaged, its rows are computed again", path)
            self._damaged.add(path)
            return None
        if about.get(IDENTITY) != self._hash:
            logger.warning("%s: made by something else than its folder says; left out", path)
            return None
        return table.cast(SCHEMA)
