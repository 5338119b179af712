"""Measure how an effect depends on the number of times that the same places run (dose-response).

The mean is over the places (blocks of layers, or one part of each) that were run with all of these
counts, kind by kind: whole blocks, attention alone, MLP alone, each with its scale,
and after the whole place or in place.

No place is chosen by its effect. Picking those that did best at the lowest count, on the same
documents, would show a fall towards the higher counts that is only the luck of the lowest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from frankenlab.analyse.comparisons import paired
from frankenlab.analyse.gains import Gains, differences, seen_by
from frankenlab.analyse.outcomes import UNITS, Outcomes, Task, outcomes
from frankenlab.analyse.paired_effects import PairedEffects
from frankenlab.analyse.paired_tests import Floats, benjamini_hochberg, by_cluster
from frankenlab.analyse.search_test import max_t
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE, Change, parse
from frankenlab.plans.steps import PARTS

# A kind of place is told by its part, its scale, and whether each layer repeats before the next
# one runs.
KIND = ("part", "scale", "in_place")
WHERE = ("model", "quantization", "task", "metric", "kind", "unit", *KIND)
COLUMNS = (*WHERE, "times", "blocks", "longest", "n", "effect", "low", "high", "fitted")
DOSE_COLUMNS = (
    *(*WHERE, "counts", "blocks", "longest", "n", "slope", "slope_low", "slope_high", "p", "q"),
    *("significant", "fit", "fit_share", "best", "best_low", "best_high", "worse_from"),
)
# One minus this is the confidence of the interval of the best count.
LEVEL = 0.05


@dataclass(frozen=True, eq=False)
class Series:
    """The same places at several counts, on one task.

    Attributes:
        where: what its rows have in common.
        counts: rising, without 1.
        common: the documents that all of its plans saw.
        gained: [counts, documents] differences from the base, means over the places.
    """

    where: dict[str, Any]
    counts: tuple[int, ...]
    common: Outcomes
    gained: Floats


def repetitions(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    depths: Mapping[str, int],
    rules: Statistics,
) -> pd.DataFrame:
    """Return the mean effects on each task, a row for each count; none where no place was run with
    several counts.

    `fitted` is the isotonic fit of `dose_response`. Under a race the documents are those that all
    of these plans saw.

    Args:
        scores: of the search stage, all its rounds, at the reference quantizations.
        depths: model -> its number of layers.
    """
    rows: list[dict[str, Any]] = []
    for series in _all_series(scores, tasks, depths):
        found = paired(series.gained, series.common, rules)
        _, fitted, _ = isotonic(found.effect)
        columns = zip(series.counts, found.effect, *found.interval(0.95), fitted, strict=True)
        names = ("times", "effect", "low", "high", "fitted")
        rows += [series.where | dict(zip(names, values, strict=True)) for values in columns]
    return pd.DataFrame(rows, columns=COLUMNS)


def dose_response(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    depths: Mapping[str, int],
    rules: Statistics,
) -> pd.DataFrame:
    """Return what more repetitions of the same places change, a row a task and kind of place.

    Takes what `repetitions` takes. All of it is exploration on search documents.

    Returns:
        `slope` is the change for each further repetition after the lowest count (a linear contrast
        of the counts, document by document), with its 95 % interval, p, and q over the rows of a
        model (Benjamini and Hochberg). `fit` names the isotonic fit that is nearer to the effects,
        and `fit_share` is the share of their variance that it explains. `best` is the count with
        the highest effect, 1 being the base, and its limits are the least and the largest of
        `possible_best`. From `worse_from` on every count is significantly worse than the best.
    """
    rows = []
    for series in _all_series(scores, tasks, depths):
        slope = trend(series.counts, series.gained, series.common, rules)
        low, high = slope.interval(0.95)
        effects = paired(series.gained, series.common, rules).effect
        fit, _, share = isotonic(effects)
        counts = (1, *series.counts)
        best = counts[int(np.nanargmax([0.0, *effects]))]
        possible = possible_best(series.gained, series.common, rules)
        kept = [count for count, may in zip(counts, possible, strict=True) if may]
        worse = [count for count in counts if count > max([*kept, best])]
        rows.append(
            {
                **series.where,
                "counts": ", ".join(map(str, series.counts)),
                "slope": slope.effect[0],
                "slope_low": low[0],
                "slope_high": high[0],
                "p": slope.p[0],
                "fit": fit,
                "fit_share": share,
                "best": best,
                "best_low": min([*kept, best]),
                "best_high": max([*kept, best]),
                "worse_from": worse[0] if worse else pd.NA,
            }
        )
    table = pd.DataFrame(rows, columns=DOSE_COLUMNS).astype({"worse_from": "Int64"})
    if len(table):
        cells = table.groupby(["model", "quantization"], sort=False)["p"]
        table["q"] = cells.transform(benjamini_hochberg)
    return table.assign(significant=table["q"] < rules.fdr)


def trend(
    counts: Sequence[int], gained: Floats, common: Outcomes, rules: Statistics
) -> PairedEffects:
    """Return the change for each further repetition: a linear contrast of the counts, document by
    document.

    Args:
        gained: [counts, documents] differences from the base.
    """
    steps = np.array(counts) - np.mean(counts)
    return paired((steps / (steps**2).sum() @ gained)[None], common, rules)


def isotonic(effects: Floats) -> tuple[str, Floats, float]:
    """Return the nearer of two monotone fits to the effects [counts] and the base's 0 before them.

    Returns:
        "decreasing", "increasing" or "flat" (all effects are 0); the fit [counts]; and the share
        of the variance of the effects, the base's among them, that it explains.
    """
    y = np.append(0.0, effects)
    if not np.isfinite(y).all():
        return "unknown", np.full(len(effects), np.nan), np.nan
    fits = {
        "decreasing": scipy.optimize.isotonic_regression(y, increasing=False).x,
        "increasing": scipy.optimize.isotonic_regression(y, increasing=True).x,
    }
    whole = float(((y - y.mean()) ** 2).sum())
    if whole == 0:
        return "flat", fits["decreasing"][1:], np.nan
    left = {name: float(((y - fit) ** 2).sum()) for name, fit in fits.items()}
    nearer = min(left, key=left.__getitem__)
    return nearer, fits[nearer][1:], 1 - left[nearer] / whole


def possible_best(gained: Floats, common: Outcomes, rules: Statistics) -> NDArray[np.bool_]:
    """Tell which counts may be the best one: those of which no test says that another is better.

    Each count has one test at `LEVEL`, against all others at once (`max_t`, which resamples the
    documents): so the best count is among them with a probability of 1 - LEVEL. The range of such
    counts is a confidence interval of the best.

    Args:
        gained: [counts, documents] differences from the base.

    Returns:
        [1 + counts]: first the base, which runs everything once.
    """
    sums = by_cluster(np.vstack([np.zeros(gained.shape[1]), gained]), common.clusters)
    weights = by_cluster(common.weights, common.clusters)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(sums).all(axis=1))
    possible = known.copy()
    if len(weights) < 2:
        return possible
    for number in np.flatnonzero(known):
        rivals = Gains(np.delete(sums[known], known[:number].sum(), axis=0) - sums[number], weights)
        if len(rivals.values):
            ran = np.ones(len(rivals.values), bool)
            found = max_t([rivals], ran, level=LEVEL, seed=rules.seed, resamples=rules.resamples)
            possible[number] = found.p > LEVEL
    return possible


def _all_series(
    scores: pd.DataFrame, tasks: Mapping[str, Task], depths: Mapping[str, int]
) -> Iterator[Series]:
    """Return the series of each model and task, whole blocks first."""
    scores = scores.drop_duplicates(["model", "quantization", "task", "plan", "document"])
    cells = scores.groupby(["model", "quantization", "task"], sort=False, observed=True)
    for (model, quantization, task), own in cells:
        changes = {plan: parse(plan, depths[model]).change for plan in own["plan"].unique()}
        repeated = {plan: c for plan, c in changes.items() if c is not None and c.times > 1}
        kinds = {_kind(change) for change in repeated.values()}
        for kind in sorted(kinds, key=lambda k: (PARTS.index(k[0]), -k[1], k[2])):
            members = {plan: c for plan, c in repeated.items() if _kind(c) == kind}
            chosen = balanced(members)
            if not chosen:
                continue
            plans = [plan for same in chosen.values() for plan in same]
            metric = tasks[task].metric
            rows = own[own["plan"].isin([BASE, *plans])]
            seen = np.flatnonzero(seen_by(rows, plans).all(axis=0))
            common = outcomes(rows, metric).at(seen)
            places = [members[plan] for plan in next(iter(chosen.values()))]
            where = {
                **{"model": model, "quantization": quantization, "task": task, "metric": metric},
                **{"kind": common.kind, "unit": UNITS[common.kind]},
                **dict(zip(KIND, kind, strict=True)),
                **{"blocks": len(places), "n": len(common.documents)},
                "longest": max(change.stop - change.start for change in places),
            }
            gained = [differences(common, same).mean(axis=0) for same in chosen.values()]
            yield Series(where, tuple(chosen), common, np.array(gained))


def _kind(change: Change) -> tuple[str, float, bool]:
    return change.part, change.scale, change.in_place


def balanced(changes: Mapping[str, Change]) -> dict[int, list[str]]:
    """Return counts and, for each, the plans of the places that were run with all of these counts,
    in one order of places; empty where no place was run with two counts.

    Of all sets of counts it is the one that has the most plans, and of those the one with more
    counts. Which plans were run decides, and not their effects.

    Args:
        changes: plan -> what it repeats.
    """
    places: dict[tuple[int, int], dict[int, str]] = {}
    for plan, (start, stop, times, *_) in sorted(changes.items(), key=lambda item: item[1]):
        places.setdefault((start, stop), {})[times] = plan
    sets = {frozenset(members) for members in places.values() if len(members) > 1}
    if not sets:
        return {}

    def members(counts: frozenset[int]) -> list[dict[int, str]]:
        return [place for place in places.values() if counts <= place.keys()]

    best = max(sets, key=lambda c: (len(c) * len(members(c)), len(c), sorted(c, reverse=True)))
    return {times: [place[times] for place in members(best)] for times in sorted(best)}
