"""What the page shows of a plan on request: a strip of its layers, and the documents it flipped."""

import json
from collections.abc import Iterable
from itertools import groupby

import pandas as pd

from frankenlab.io.errors import UserError
from frankenlab.plans.plan import BASE, parse
from frankenlab.plans.words import layer_counts
from frankenlab.report.elements import json_script
from frankenlab.report.results import Results
from frankenlab.report.text import quantization_name

# The most characters of all the documents' texts together.
MOST_TEXT = 1_500_000


def page_data(results: Results) -> str:
    """Return an element that the page's script reads, for the whole page; people see nothing of it.

    It has `layers` (how often each layer of a model runs, for each plan), `flips` (the documents
    that became right or wrong) and `documents` (their texts, choices and right answers).
    """
    found = {
        "layers": _layers(results),
        "flips": _flips(results.table("flips")),
        "documents": _documents(results.table("documents")),
    }
    return json_script("page-data", found)


def _layers(results: Results) -> dict[str, dict[str, str]]:
    """Return for each model and plan how often its layers run."""
    names = ("comparisons", "verdicts", "path")
    tables = [results.table(name) for name in names]
    rows = pd.concat([table[["model", "plan"]] for table in tables if len(table)] or [_NO_PLANS])
    found: dict[str, dict[str, str]] = {}
    for model, plan in rows[rows["plan"] != BASE].drop_duplicates().itertuples(index=False):
        n_layers = results.n_layers(model)
        try:
            counts = layer_counts(parse(plan, n_layers)) if n_layers else []
        except UserError:
            continue
        found.setdefault(model, {})[plan] = runs(counts)
    return found


_NO_PLANS = pd.DataFrame({"model": [], "plan": []})


def runs(counts: Iterable[float]) -> str:
    """Return counts as runs of equal ones: [1, 1, 1, 2, 1] is "3*1 1*2 1*1"."""
    return " ".join(f"{len(list(run))}*{count:g}" for count, run in groupby(counts))


def _flips(table: pd.DataFrame) -> list[dict[str, object]]:
    """Return a record for each plan on a task, with the numbers of its documents."""
    keys = ["model", "quantization", "stage", "task", "plan"]
    if table.empty:
        return []
    return [
        dict(zip(keys, case, strict=True))
        | {"at": quantization_name(case[1])}
        | {
            name: rows.loc[rows["change"] == change, "document"].tolist()
            for name, change in (("up", 1), ("down", -1))
        }
        for case, rows in table.groupby(keys, sort=False)
    ]


def _documents(table: pd.DataFrame) -> dict[str, dict[int, list[object]]]:
    """Return [text, choices, answer] by task and number; texts are cut where there are many."""
    most = MOST_TEXT // max(len(table), 1)
    found: dict[str, dict[int, list[object]]] = {}
    for row in table.to_dict("records"):
        text = row["text"] if len(row["text"]) <= most else f"{row['text'][:most]}…"
        read = [text, json.loads(row["choices"]), row["answer"]]
        found.setdefault(row["task"], {})[row["document"]] = read
    return found
