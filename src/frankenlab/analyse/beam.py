"""The plans that a search grew from its best ones, beside the base and the plans they grew from.

Everything here is exploration, without tests: a plan was grown for what the same documents said of
its parents, whose luck it shares in part. Select and confirm have fresh documents.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.analyse.comparisons import compare
from frankenlab.analyse.gains import mean_limits, seen_by
from frankenlab.analyse.outcomes import Task, outcomes
from frankenlab.analyse.race_rounds import Grown, Round, all_grown, dropped
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE

COLUMNS = (
    *("model", "quantization", "round", "plan", "parent", "other", "dropped", "n"),
    *("effect", "low", "high", "over_parent", "over_parent_low", "over_parent_high"),
)


def beam(
    scores: pd.DataFrame, tasks: Mapping[str, Task], records: Iterable[Round], rules: Statistics
) -> pd.DataFrame:
    """Return a row for each grown plan, in the order in which they were grown.

    Args:
        scores: of the search stage, all its rounds, at the reference quantizations.
        records: of the rounds of all models.

    Returns:
        Columns model, quantization, round (after which it was grown), plan, parent, other (as in
        the record), dropped (the round after which it was dropped, or <NA>), n (documents of all
        search tasks that it and its parent saw), its mean change over the search tasks against the
        base with a 95 % interval (effect, low, high), and the same against its parent
        (over_parent, over_parent_low, over_parent_high), both on these documents.
    """
    scores = scores.drop_duplicates(["model", "quantization", "task", "plan", "document"])
    records = sorted(records, key=lambda record: record["round"])
    rows: list[dict[str, Any]] = []
    for (model, quantization), own in scores.groupby(
        ["model", "quantization"], sort=False, observed=True
    ):
        mine = [record for record in records if record["model"] == model]
        rounds = dropped(mine)
        rows += [
            {
                "model": model,
                "quantization": quantization,
                **item,
                "dropped": rounds.get(item["plan"]),
                **_changes(own, tasks, item, rules),
            }
            for item in all_grown(mine)
        ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"dropped": "Int64"})


def _changes(
    scores: pd.DataFrame, tasks: Mapping[str, Task], item: Grown, rules: Statistics
) -> dict[str, Any]:
    plan, parent = item["plan"], item["parent"]
    rows = scores[scores["plan"].isin([BASE, plan, parent])]
    documents, parts = 0, []
    for name, mine in rows.groupby("task", sort=False, observed=True):
        measured = outcomes(mine, tasks[str(name)].metric)
        common = measured.at(np.flatnonzero(seen_by(mine, [plan, parent]).all(axis=0)))
        documents += len(common.documents)
        gained = [common.row(plan) - common.row(other) for other in (BASE, parent)]
        parts.append(compare(np.array(gained), common, rules))
    found: dict[str, Any] = {"n": documents}
    for place, names in enumerate((COLUMNS[8:11], COLUMNS[11:])):
        part = pd.DataFrame([table.iloc[place] for table in parts])
        low, high = mean_limits(part["effect"], part["low"], part["high"])
        found |= zip(names, (float(part["effect"].mean()), low, high), strict=True)
    return found
