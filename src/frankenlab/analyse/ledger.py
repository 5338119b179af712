"""The ledger: how often a confirm set was looked at.

Every look makes the next verdict on the same documents weaker than it says. The ledger is one
file for all experiments, because they share documents.
"""

import fcntl
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from frankenlab.io.files import content_hash

log = logging.getLogger(__name__)

COLUMNS = ("model", "quantization", "task", "plan", "documents", "looked", "experiment")
NEEDED = {"identity", *COLUMNS}


def record(path: str | Path, look: Mapping[str, Any], documents: Sequence[str]) -> bool:
    """Write a look down unless the same one is there, and return whether it was new.

    Looking again at the same scores is no new look.

    Args:
        look: experiment, model, quantization, task, plan (the frozen one).
        documents: keys of the documents.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    identity = content_hash([dict(look), sorted(documents)])
    with path.open("a+", encoding="utf-8", errors="replace") as handle:
        # Some network file systems have no locks; one write appends a whole line there too.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.seek(0)
        text = handle.read()
        if any(entry["identity"] == identity for entry in _entries(text, path)):
            return False
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"identity": identity, **look, "documents": len(documents), "looked": now}
        # A full disk or a kill may have cut the last line; it must not swallow this one.
        before = "" if not text or text.endswith("\n") else "\n"
        handle.write(before + json.dumps(entry) + "\n")
    return True


def table(path: str | Path, models: Sequence[str], tasks: Sequence[str]) -> pd.DataFrame:
    """Return all looks at the confirm sets of some models and tasks, whatever the experiment."""
    path = Path(path)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    entries = _entries(text, path)
    rows = [e for e in entries if e["model"] in models and e["task"] in tasks]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _entries(text: str, path: Path) -> list[dict[str, Any]]:
    """Return the looks that a ledger's text holds, one JSON object a line.

    A line that a crash cut short, or that was damaged since, does not count. It may have been a
    look, so there is a warning.
    """
    entries, damaged = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, dict) and entry.keys() >= NEEDED:
            entries.append(entry)
        else:
            damaged.append(number)
    if damaged:
        lines = ", ".join(map(str, damaged[:5])) + (", …" if len(damaged) > 5 else "")
        log.warning("%s: not readable, looks there do not count: line %s", path, lines)
    return entries
