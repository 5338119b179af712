"""Measure what more repetitions of a block change: the mean effect of running it 2, 3, ... times.

The mean is over the blocks that were run with all of these counts.

No block is chosen by its effect. Picking those that did best at the lowest count, on the same
documents, would show a fall towards the higher counts that is only the luck of the lowest.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.analyse.comparisons import compare
from frankenlab.analyse.gains import differences, seen_by
from frankenlab.analyse.outcomes import UNITS, Task, outcomes
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE, parse

COLUMNS = (
    *("model", "quantization", "task", "metric", "kind", "unit", "times", "blocks", "n"),
    *("effect", "low", "high"),
)


def repetitions(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    depths: Mapping[str, int],
    rules: Statistics,
) -> pd.DataFrame:
    """Return the mean effects on each task, a row for each count; none where no block was run with
    several counts.

    Under a race the documents are those that all of these plans saw.

    Args:
        scores: of the search stage, all its rounds, at the reference quantizations.
        depths: model -> its number of layers.
    """
    scores = scores.drop_duplicates(["model", "quantization", "task", "plan", "document"])
    cells = scores.groupby(["model", "quantization", "task"], sort=False, observed=True)
    rows: list[dict[str, Any]] = []
    for (model, quantization, task), own in cells:
        loops = {plan: parse(plan, depths[model]).loop for plan in own["plan"].unique()}
        series = balanced({plan: loop for plan, loop in loops.items() if loop})
        if not series:
            continue
        plans = [plan for members in series.values() for plan in members]
        own = own[own["plan"].isin([BASE, *plans])]
        metric = tasks[task].metric
        common = outcomes(own, metric).at(np.flatnonzero(seen_by(own, plans).all(axis=0)))
        means = [differences(common, members).mean(axis=0) for members in series.values()]
        found = compare(np.array(means), common, rules)
        where = {"model": model, "quantization": quantization, "task": task, "metric": metric}
        where |= {"kind": common.kind, "unit": UNITS[common.kind]}
        rows += [
            where
            | {"times": times, "blocks": len(series[times]), "n": len(common.documents)}
            | row[["effect", "low", "high"]].to_dict()
            for times, (_, row) in zip(series, found.iterrows(), strict=True)
        ]
    return pd.DataFrame(rows, columns=COLUMNS)


def balanced(loops: Mapping[str, tuple[int, int, int]]) -> dict[int, list[str]]:
    """Return counts and, for each, the plans of the blocks that were run with all of these counts,
    in one order of blocks; empty where no block was run with two counts.

    Of all sets of counts it is the one that has the most plans, and of those the one with more
    counts. Which plans were run decides, and not their effects.

    Args:
        loops: plan -> (start, stop, times) of its block.
    """
    blocks: dict[tuple[int, int], dict[int, str]] = {}
    for plan, (start, stop, times) in sorted(loops.items(), key=lambda item: item[1]):
        blocks.setdefault((start, stop), {})[times] = plan
    sets = {frozenset(members) for members in blocks.values() if len(members) > 1}
    if not sets:
        return {}

    def members(counts: frozenset[int]) -> list[dict[int, str]]:
        return [block for block in blocks.values() if counts <= block.keys()]

    best = max(sets, key=lambda c: (len(c) * len(members(c)), len(c), sorted(c, reverse=True)))
    return {times: [block[times] for block in members(best)] for times in sorted(best)}
