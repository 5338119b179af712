"""Paired comparisons of plans with the base and with each other, document by document.

Signs and units are the same in every table: an effect above 0 is better, in percentage points
for accuracies and in log-percent (100 times the natural logarithm of a ratio) for perplexities.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.analyse import paired_tests
from frankenlab.analyse.outcomes import UNITS, Outcomes, Task, metric_value, outcomes
from frankenlab.analyse.paired_effects import PairedEffects, paired_effects
from frankenlab.analyse.settings import Statistics
from frankenlab.models.franken import GROWN
from frankenlab.plans.plan import BASE, Change, parse

INTERVAL = ["low", "high"]


def paired(
    differences: np.ndarray, measured: Outcomes, rules: Statistics, resamples: int | None = None
) -> PairedEffects:
    """Return paired effects from differences [comparisons, documents] of which higher is better.

    Args:
        measured: weights and clusters of the documents.
        resamples: of random sign flips, where a level needs more than the rules say.
    """
    return paired_effects(
        differences,
        measured.weights,
        measured.clusters,
        kind=measured.kind,
        seed=rules.seed,
        resamples=resamples or rules.resamples,
    )


def compare(differences: np.ndarray, measured: Outcomes, rules: Statistics) -> pd.DataFrame:
    """Return a row for each paired comparison, from differences [comparisons, documents] of which
    higher is better.

    Returns:
        Columns effect, low, high (95 %), standard_error, up, down (how many documents got better
        and worse; <NA> for a perplexity) and p.
    """
    found = paired(differences, measured, rules)
    low, high = found.interval(0.95)
    up, down = paired_tests.discordant(differences)
    mean = measured.kind == "mean"
    table = pd.DataFrame(
        {
            "effect": found.effect,
            "low": low,
            "high": high,
            "standard_error": found.standard_error,
            "up": up if mean else pd.NA,
            "down": down if mean else pd.NA,
            "p": found.p,
        }
    )
    return table.astype({"up": "Int64", "down": "Int64"})


def stage_comparisons(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    groups: Mapping[str, str],
    dropped: Mapping[str, int],
    depths: Mapping[str, int],
    rules: Statistics,
) -> pd.DataFrame:
    """Compare every plan of a stage with the base, at each quantization and on each task.

    Args:
        scores: rows of the stage. A document is scored again in every round of a race.
        groups: plan text -> the generator that made it.
        dropped: plan text -> the round of a race after which it was dropped.
        depths: model -> its number of layers.
    """
    scores = scores.drop_duplicates(["quantization", "task", "plan", "document"])
    tables = [
        comparisons(rows, tasks[task].metric, tasks[task].role, groups, rules, dropped)
        for (_, task), rows in scores.groupby(["quantization", "task"], sort=False, observed=True)
    ]
    return with_shapes(concatenated(tables), depths)


def comparisons(
    scores: pd.DataFrame,
    metric: str,
    role: str,
    groups: Mapping[str, str],
    rules: Statistics,
    dropped: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Compare every plan of one (stage, model, quantization, task) with the base.

    A plan that a race dropped is compared on the documents that it saw. It has no p and no q: it
    was dropped for what these documents say, so that a test on them would not hold its level. In
    the correction of the others it counts with p = 1, which is no smaller than what all documents
    would have given: the false discovery rate holds as without a race. So does a plan of a search
    that was grown for what these documents say.
    """
    rounds = scores["plan"].map(dropped or {})
    base = scores[scores["plan"] == BASE]
    found = [_compared(scores[rounds.isna()], metric, role, groups, rules)]
    for _, rows in scores.groupby(rounds):
        seen = base[base["document"].isin(rows["document"])]
        part = _compared(pd.concat([seen, rows]), metric, role, groups, rules)
        found.append(part[part["plan"] != BASE])
    table = pd.concat(found, ignore_index=True)
    table["dropped"] = table["plan"].map(dropped or {}).astype("Int64")
    grown = (table["group"] == GROWN) & (table["stage"] == "search")
    chosen, others = table["dropped"].notna() | grown, table["plan"] != BASE
    tested = table["p"].where(~chosen, 1.0)[others]
    table.loc[others, "q"] = paired_tests.benjamini_hochberg(tested)
    table.loc[chosen, ["p", "q"]] = np.nan
    table["available"] = table["available"].astype("Int64")
    return table.assign(significant=table["q"] < rules.fdr)


def _compared(
    scores: pd.DataFrame, metric: str, role: str, groups: Mapping[str, str], rules: Statistics
) -> pd.DataFrame:
    """Compare plans that saw the same documents with the base, before any correction."""
    measured = outcomes(scores, metric)
    base = measured.row(BASE)
    others = [plan for plan in measured.plans if plan != BASE]
    plans = [BASE, *others]
    differences = np.array([measured.row(plan) - base for plan in others])
    found = compare(differences.reshape(len(others), len(base)), measured, rules)
    # The base, in front, does not differ from itself.
    found = found.set_index(pd.Index(others)).reindex(plans).assign(q=np.nan)
    found.loc[BASE, ["effect", *INTERVAL, "standard_error"]] = 0.0
    found.loc[BASE, ["p", "q"]] = 1.0
    values = [metric_value(measured.row(plan), measured, metric) for plan in plans]
    ran = [_hardware(measured.ran_on(plan), measured.ran_on(BASE)) for plan in plans]
    common = scores[["stage", "model", "quantization", "task"]].iloc[0].to_dict()
    return pd.DataFrame(
        {
            **common,
            "role": role,
            "metric": metric,
            "kind": measured.kind,
            "unit": UNITS[measured.kind],
            "n": len(measured.documents),
            "n_clusters": measured.n_clusters,
            "available": _available(scores),
            "base_value": values[0],
            "plan": plans,
            "value": values,
            "value_stderr": [_value_error(measured, plan, metric) for plan in plans],
            **{name: found[name].array for name in found},
            "group": [groups[plan] for plan in plans],
            "precision": scores["precision"].iloc[0],
            "hardware": [names for names, _ in ran],
            "mixed": [mixed for _, mixed in ran],
        }
    )


def _available(scores: pd.DataFrame) -> Any:
    """Return how many documents the stage has for the task, before any limit; <NA> if unknown."""
    return scores["available"].iloc[0] if "available" in scores else pd.NA


def _hardware(one: np.ndarray, other: np.ndarray) -> tuple[str, int]:
    """Return the names of what computed two sides, and on how many documents they differ."""
    return "; ".join(sorted({*one, *other})), int((one != other).sum())


def _value_error(measured: Outcomes, plan: str, metric: str) -> float:
    """Return the standard error of a plan's value in the metric's own unit (for a perplexity by
    the delta method)."""
    summed = paired_tests.by_cluster(measured.row(plan)[None], measured.clusters)
    weights = paired_tests.by_cluster(measured.weights, measured.clusters)
    error = float(paired_tests.standard_error(summed, weights)[0])
    if measured.kind == "mean":
        return error
    if metric.startswith("bits"):
        return error / math.log(2)
    return error * metric_value(measured.row(plan), measured, metric)


def with_shapes(table: pd.DataFrame, depths: Mapping[str, int]) -> pd.DataFrame:
    """Add depth, relative_depth and the one range that each row's plan runs again or leaves out:
    start, stop, times (0 if it is left out), part, scale and in_place.

    Args:
        depths: model -> its number of layers.
    """
    plans = [parse(t, depths[m]) for t, m in zip(table["plan"], table["model"], strict=True)]
    changes = [plan.change or (None,) * len(Change._fields) for plan in plans]
    shapes = pd.DataFrame(changes, columns=Change._fields, index=table.index)
    types: dict[str, Any] = dict.fromkeys(("start", "stop", "times"), "Int64")
    types |= {"part": "str", "scale": float, "in_place": "boolean"}
    return table.assign(
        depth=[plan.depth for plan in plans],
        relative_depth=[plan.depth / plan.n_layers for plan in plans],
        **{name: shapes[name].astype(types[name]) for name in shapes},
    )


def pairs(scores: pd.DataFrame, tasks: Mapping[str, Task], rules: Statistics) -> pd.DataFrame:
    """Compare plans with each other on the documents that both saw, task by task.

    Within a model at one quantization these are all pairs without the base (which `comparisons`
    has), across models and quantizations the pairs of one plan from each side.
    """
    rows = []
    for task, frame in scores.groupby("task", sort=False, observed=True):
        cells = dict(list(frame.groupby(["model", "quantization"], sort=False, observed=True)))
        measured = {cell: outcomes(own, tasks[task].metric) for cell, own in cells.items()}
        sides = [(*cell, plan) for cell, own in cells.items() for plan in own["plan"].unique()]
        for a, b in combinations(sides, 2):
            if a[:2] == b[:2] and BASE in (a[2], b[2]):
                continue
            left, right = measured[a[:2]], measured[b[:2]]
            named = {"stage": frame["stage"].iloc[0], "task": task, "metric": tasks[task].metric}
            named |= {"kind": left.kind, "unit": UNITS[left.kind]}
            for end, side in (("a", a), ("b", b)):
                named |= {f"model_{end}": side[0], f"quantization_{end}": side[1]}
                named |= {f"plan_{end}": side[2]}
            rows.append(named | _pair(left, a[2], right, b[2], rules))
    return pd.DataFrame(rows)


def _pair(
    left: Outcomes, plan_a: str, right: Outcomes, plan_b: str, rules: Statistics
) -> dict[str, Any]:
    both, in_left, in_right = np.intersect1d(left.documents, right.documents, return_indices=True)
    left, right = left.at(in_left), right.at(in_right)
    found = compare((left.row(plan_a) - right.row(plan_b))[None], left, rules)
    return {
        "n": len(both),
        **found[["effect", "low", "high", "p"]].iloc[0],
        "mixed": _hardware(left.ran_on(plan_a), right.ran_on(plan_b))[1],
    }


def concatenated(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return the tables below each other; empty ones are skipped."""
    kept: Sequence[pd.DataFrame] = [table for table in tables if len(table)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()
