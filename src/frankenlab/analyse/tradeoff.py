"""Compare what plans gain on the search tasks with what they lose on the guard tasks.

The plans are the frozen one and the finalists, on the confirm documents, which chose none of them.
This is exploration: there are intervals, and no verdicts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.analyse.gains import gains, mean_limits, resampled
from frankenlab.analyse.outcomes import Task
from frankenlab.analyse.paired_tests import Floats
from frankenlab.analyse.selection import Frozen
from frankenlab.analyse.settings import Statistics
from frankenlab.models.franken import FINALIST

MEAN = "mean"
COLUMNS = (
    *("model", "quantization", "plan", "group", "gain", "gain_low", "gain_high", "gain_unit"),
    *("guard", "unit", "guards", "n", "effect", "low", "high", "plans"),
    *("correlation", "correlation_low", "correlation_high"),
)
# Fewer plans have no correlation that says anything.
LEAST_PLANS = 3


def tradeoff(
    compared: pd.DataFrame,
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    frozen: Mapping[str, Frozen],
    rules: Statistics,
) -> pd.DataFrame:
    """Return each plan's mean effect on the search tasks beside its effect on each guard task, and
    on the mean of the guard tasks of one unit, at the reference quantizations.

    Args:
        compared: comparisons of the confirm stage, all models; other stages are left out.
        scores: of the confirm stage, all models.
        frozen: model -> what `selection.freeze` made.

    Returns:
        `correlation` is that of the two true effects over the plans (`correlated`), with a 95 %
        interval from resamples of the documents, task by task; NaN for fewer than three plans.
        Below 0, plans that gain more lose more.
    """
    rows: list[dict[str, Any]] = []
    for model, record in frozen.items():
        where = {"model": model, "quantization": record["reference_quantization"]}
        at = _at(compared[compared["stage"] == "confirm"], where)
        plans = [record["frozen"], *record["finalists"]]
        at = at[at["plan"].isin(plans)]
        search, guard = at[at["role"] == "search"], at[at["role"] == "guard"]
        own = _at(scores, where)
        random = np.random.default_rng([rules.seed, 4])
        drawn = {
            task: resampled(
                gains(own[own["task"] == task], tasks[task].metric, plans), random, rules.resamples
            )
            for task in at["task"].unique()
        }
        gained = _means(search, plans)
        gain = _mean(drawn, search["task"].unique())
        for name, members in _guards(guard):
            lost = _means(guard[guard["task"].isin(members)], plans)
            found = correlated(gain, _mean(drawn, members))
            for plan in plans:
                rows.append(
                    {
                        **where,
                        "plan": plan,
                        "group": "frozen" if plan == record["frozen"] else FINALIST,
                        **gained.loc[plan, ["effect", "low", "high", "unit"]]
                        .rename(lambda end: f"gain_{end}".replace("_effect", ""))
                        .to_dict(),
                        "guard": name,
                        "guards": len(members),
                        **lost.loc[plan].to_dict(),
                        "plans": len(plans),
                        **dict(zip(COLUMNS[-3:], found, strict=True)),
                    }
                )
    return pd.DataFrame(rows, columns=COLUMNS)


def correlated(one: Floats, other: Floats) -> tuple[float, float, float]:
    """Return the correlation over plans of two true effects, with a 95 % interval; NaN for fewer
    than three plans.

    Noise makes plans differ more than they do, which pulls a correlation towards 0. So the variance
    that noise gives, as the resamples show it, is taken off those of the effects; resamples have
    the noise of the measurement and as much again. Where nothing is left of a variance, the
    correlation may be anything: it is NaN, and 1 or -1 in a resample.

    Args:
        one, other: [1 + resamples, plans]: the effects, and those of resampled documents.
    """
    if one.shape[1] < LEAST_PLANS:
        return np.nan, np.nan, np.nan
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (one, other))
    together, own = (a * b).sum(axis=1), []
    for x in (a, b):
        noise = ((x[1:] - x[0]) ** 2).sum(axis=1).mean()
        own.append((x**2).sum(axis=1) - noise * np.append(1, np.full(len(x) - 1, 2)))
    known = (own[0] > 0) & (own[1] > 0)
    scale = np.sqrt(np.where(known, own[0] * own[1], 1.0))
    r = np.where(known, np.clip(together / scale, -1, 1), np.sign(together))
    low, high = np.quantile(r[1:], [0.025, 0.975])
    return float(r[0]) if known[0] else np.nan, float(low), float(high)


def _at(rows: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
    return rows[(rows[list(where)] == list(where.values())).all(axis=1)]


def _guards(rows: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    """Return the name and the tasks of what is a loss: the mean of the guard tasks of each unit
    that has several, and each guard task."""
    for _, own in rows.groupby("unit", sort=False):
        if own["task"].nunique() > 1:
            yield MEAN, list(own["task"].unique())
    for task in rows["task"].unique():
        yield task, [task]


def _means(rows: pd.DataFrame, plans: Sequence[str]) -> pd.DataFrame:
    """Return each plan's mean effect over the tasks, with its limits, unit and documents."""
    found = {}
    units = rows["unit"].unique()
    for plan in plans:
        own = rows[rows["plan"] == plan]
        low, high = mean_limits(own["effect"], own["low"], own["high"])
        found[plan] = {
            "effect": own["effect"].mean(),
            "low": low,
            "high": high,
            "unit": units[0] if len(units) == 1 else "",
            "n": int(own["n"].sum()),
        }
    return pd.DataFrame.from_dict(found, orient="index")


def _mean(drawn: Mapping[str, Floats], tasks: Sequence[str]) -> Floats:
    found: Floats = np.mean([drawn[task] for task in tasks], axis=0)
    return found
