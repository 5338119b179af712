"""Which documents a plan flipped: right where the base is wrong, or wrong where it is right."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from frankenlab.analyse.comparisons import concatenated
from frankenlab.analyse.outcomes import Task, outcomes
from frankenlab.plans.plan import BASE

# More than these are not kept.
MOST = 20_000
COLUMNS = ["model", "quantization", "stage", "task", "plan", "document", "change"]


def flips(
    scores: Iterable[pd.DataFrame],
    tasks: Mapping[str, Task],
    frozen: Mapping[str, str],
    most: int = MOST,
) -> pd.DataFrame:
    """Return the flipped documents of the frozen plans, and of as many other plans as fit.

    Args:
        scores: rows of any stages, of which a document may stand in several (the rounds of a race).
            At confirm only the frozen plans are kept.
        frozen: model -> its frozen plan.
        most: the most rows. Whole plans are left out, those with the lowest effects first.

    Returns:
        Columns model, quantization, stage, task, plan, document and change: 1 where the document
        became better, -1 where it became worse. Perplexities have no such documents.
    """
    parts = [pd.DataFrame(columns=COLUMNS)]
    keys = ["model", "quantization", "stage", "task"]
    # Shards of one task share the base, which is in one of them.
    whole = concatenated(scores)
    cases = whole.groupby(keys, sort=False, observed=True) if len(whole) else ()
    for case, rows in cases:
        model, _, stage, task = case
        if stage == "confirm":
            rows = rows[rows["plan"].isin([BASE, frozen[model]])]
        found = _changes(rows.drop_duplicates(["plan", "document"]), tasks[task].metric)
        parts.append(found.assign(**dict(zip(keys, case, strict=True)))[COLUMNS])
    changes = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return _best(changes, frozen, most).astype({"document": "int64", "change": "int64"})


def _changes(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return plan, document and change of one task's scores; nothing for a perplexity."""
    measured = outcomes(scores, metric)
    if measured.kind != "mean":
        return pd.DataFrame(columns=["plan", "document", "change"])
    # A plan that a race dropped has no score of later documents.
    change = np.sign(np.nan_to_num(measured.scores - measured.row(BASE)))
    plan, place = np.nonzero(change)
    return pd.DataFrame(
        {
            "plan": np.array(measured.plans, dtype=object)[plan],
            "document": measured.documents[place],
            "change": change[plan, place].astype(int),
        }
    )


def _best(changes: pd.DataFrame, frozen: Mapping[str, str], most: int) -> pd.DataFrame:
    """Return the rows of the frozen plans and then of the best plans, `most` in all."""
    plans = changes.groupby(["model", "plan"], sort=False)["change"].agg(["sum", "size"])
    first = [frozen[model] == plan for model, plan in plans.index]
    plans = plans.assign(first=first).sort_values(["first", "sum"], ascending=False, kind="stable")
    kept = plans[plans["first"] | (plans["size"].cumsum() <= most)].index
    place = {case: number for number, case in enumerate(kept)}
    order = pd.Series(
        [place.get(case, -1) for case in zip(changes["model"], changes["plan"], strict=True)],
        index=changes.index,
        dtype=int,
    )
    return changes.loc[order[order >= 0].sort_values(kind="stable").index].reset_index(drop=True)
