"""How often a confirm set was looked at.

Every look makes the next verdict on the same documents weaker than it says. The ledger is one
file for all experiments, because they share documents.
"""

import fcntl
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from frankenlab.files import content_hash

COLUMNS = ("model", "quantization", "task", "plan", "documents", "looked", "experiment")


def record(path: str | Path, look: Mapping[str, Any], documents: Sequence[str]) -> bool:
    """Writes a look down unless the same one is there; tells whether it was new.

    Args:
        look: experiment, model, quantization, task, plan (the frozen one).
        documents: their keys. Looking again at the same scores is no new look.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    identity = content_hash([dict(look), sorted(documents)])
    with path.open("a+") as handle:
        # Some network file systems have no locks; one write appends a whole line there too.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.seek(0)
        text = handle.read()
        if any(entry["identity"] == identity for entry in _entries(text)):
            return False
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"identity": identity, **look, "documents": len(documents), "looked": now}
        # A full disk or a kill may have cut the last line; it must not swallow this one.
        before = "" if not text or text.endswith("\n") else "\n"
        handle.write(before + json.dumps(entry) + "\n")
    return True


def table(path: str | Path, models: Sequence[str], tasks: Sequence[str]) -> pd.DataFrame:
    """All looks at the confirm sets of some models and tasks, whatever the experiment."""
    path = Path(path)
    entries = _entries(path.read_text()) if path.is_file() else []
    rows = [e for e in entries if e["model"] in models and e["task"] in tasks]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _entries(text: str) -> list[dict[str, Any]]:
    """One JSON object a line; a line cut short by a crash is not one."""
    entries = []
    for line in text.splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries
