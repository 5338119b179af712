"""A global test of a search: does any plan of the grid beat the base, and do they on average?

The best of many plans is best partly by luck. So the test is of the largest t of all plans, where t
is a plan's mean effect over the search tasks divided by its standard error, against the
distribution of the largest t if no plan differed from the base (Westfall and Young 1993). Clusters
of documents are resampled, the same for all plans, which keeps the correlation between plans.
docs/statistics/search.md says why this holds its level, under a race too.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from frankenlab.analyse import error_budget
from frankenlab.analyse.comparisons import compare
from frankenlab.analyse.gains import (
    Gains,
    Resample,
    bootstrap,
    differences,
    gains,
    mean_gains,
    mean_limits,
    seen_by,
    shared_weights,
)
from frankenlab.analyse.outcomes import Task, outcomes
from frankenlab.analyse.paired_tests import BLOCK_BYTES, Floats
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE

# Sums in another order differ by rounding: without slack, ties would be lost at random.
TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Found:
    """The result of the global test of a search.

    Attributes:
        effects: [plans] mean effects over the tasks, in points or log-percent.
        errors: [plans] their standard errors.
        lows: [plans] their simultaneous one-sided lower limits; NaN for plans that were dropped.
        best: the plan with the highest effect: of those whose limit is above 0, where there are
            any, else of all that were not dropped.
        p: one-sided; the null hypothesis is that no plan is better than the base.
        luck: the mean of the highest effect if no plan differed from the base, in points or
            log-percent: what the best of so many plans would have measured by luck alone.
    """

    effects: Floats
    errors: Floats
    lows: Floats
    best: int
    p: float
    luck: float


def max_t(
    tasks: Sequence[Gains], ran: ArrayLike, *, level: float, seed: int, resamples: int
) -> Found:
    """Test whether any plan beats the base.

    Args:
        tasks: the gains of the same plans on each task; tasks do not share documents.
        ran: [plans] whether a plan saw every document, and was not grown for what these documents
            say. Only such plans can be found better. Those that a race dropped count in the
            distribution of the largest t as if they had gone on, and so do those that were grown.
        level: of the test and of the limits.
        resamples: more are drawn where the level needs them.
    """
    # A mean of 0 is symmetry where differences are single steps, and flips of signs test that.
    # Others can be skewed with a mean of 0.
    draws = [flips] if all(task.stepwise for task in tasks) else [flips, bootstrap]
    tasks = [task.filled() for task in tasks]
    effects, errors = mean_gains(tasks)
    ran = np.asarray(ran) & np.isfinite(effects)
    if not ran.any():
        raise ValueError("no plan has an effect on all documents")
    resamples = error_budget.resamples(resamples, level)
    found = [largest(tasks, draw, resamples, seed) for draw in draws]
    drawn = np.array([t for t, _ in found])
    t = np.where(ran, _ratio(effects, errors), -np.inf)
    beyond = int((drawn >= t.max() - TINY).sum(axis=1).max())
    limit = critical(drawn, level)
    better = t > limit + TINY
    return Found(
        effects,
        errors,
        np.where(ran, effects - limit * errors, np.nan),
        int(np.argmax(np.where(better if better.any() else ran, effects, -np.inf))),
        (beyond + 1) / (resamples + 1),
        max(float(highest.mean()) for _, highest in found),
    )


def critical(drawn: Floats, level: float) -> float:
    """Return what the largest t of a resample exceeds with a chance of at most `level`.

    Args:
        drawn: [..., resamples] largest t; of several ways to draw them the strictest counts.
    """
    resamples = drawn.shape[-1]
    rank = resamples - math.floor(level * (resamples + 1))
    return float(np.partition(drawn, rank, axis=-1)[..., rank].max())


def _ratio(effects: Floats, errors: Floats) -> Floats:
    """Return effects by errors: 0 where both are 0, as of a plan that changed nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(effects == 0, 0.0, effects / errors)


def largest(
    tasks: Sequence[Gains],
    draw: Callable[[Gains], Resample],
    resamples: int,
    seed: int,
    both: bool = False,
) -> tuple[Floats, Floats]:
    """Return the largest t and the highest effect of all plans in each resample.

    Args:
        both: take the size of t, for a test of both directions.
    """
    random = np.random.default_rng([seed, 2])
    rows = max(1, BLOCK_BYTES // (8 * max(max(task.values.shape) for task in tasks)))
    drawn = [draw(task) for task in tasks]
    size, highest = np.empty(resamples), np.empty(resamples)
    for start in range(0, resamples, rows):
        block = slice(start, min(start + rows, resamples))
        parts = [resample(random, block.stop - start) for resample in drawn]
        effects, variances = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
        t = _ratio(effects, np.sqrt(variances))
        # fmax passes over plans with values that are not finite.
        size[block] = np.fmax.reduce(np.abs(t) if both else t, axis=1)
        highest[block] = 100 / len(tasks) * np.fmax.reduce(effects, axis=1)
    return size, highest


def flips(task: Gains) -> Resample:
    """Return what flips the signs of all plans' differences at once: plan and base change places on
    a cluster."""
    d, w = task.values, shared_weights(task.weights)
    n, total = d.shape[1], w.sum(axis=1)
    squares, cross, own = (d**2).sum(axis=1), (d * w).T, (w**2).sum(axis=1)

    def resample(random: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
        bits = random.integers(256, size=(rows, -(-n // 8)), dtype=np.uint8)
        signs = 2.0 * np.unpackbits(bits, axis=1, count=n) - 1
        effect = signs @ d.T / total
        rest = squares - 2 * effect * (signs @ cross) + effect**2 * own
        return effect, np.maximum(rest, 0) * (n / (n - 1) / total**2)

    return resample


def search(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    level: float,
    rules: Statistics,
    grown: Mapping[str, Collection[str]] | None = None,
    selected: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return what the search of each model found, a row each.

    The mean over the plans of the grid, and the share of them better than the base, are over the
    documents that all of them saw: a plan that was dropped looks worse on its own documents than it
    is.

    Args:
        scores: of the search stage, all its rounds, at the reference quantizations.
        level: of the test of one model.
        grown: model -> plans that were grown on the way. They count in `plans`, in the distribution
            of the largest t and in `best_by_luck`, and stand apart: `best_plan` is of the grid.
        selected: scores of the select stage, whose documents did not choose these plans; a test of
            their own at the same level is in the columns `select_*`.
    """
    grown = grown or {}
    scores = scores.drop_duplicates(["model", "quantization", "task", "plan", "document"])
    cells = scores.groupby(["model", "quantization"], sort=False, observed=True)
    return pd.DataFrame(
        {
            **{"model": model, "quantization": quantization},
            **_row(rows, tasks, level, rules, grown.get(model, ())),
            **({} if selected is None else _fresh(selected, model, tasks, level, rules)),
        }
        for (model, quantization), rows in cells
    )


def _fresh(
    scores: pd.DataFrame, model: str, tasks: Mapping[str, Task], level: float, rules: Statistics
) -> dict[str, Any]:
    """Return whether any plan of a model's shortlist beats the base on the select documents."""
    own = scores[scores["model"] == model].drop_duplicates(["task", "plan", "document"])
    plans = [plan for plan in own["plan"].unique() if plan != BASE]
    by_task = own.groupby("task", sort=False, observed=True)
    measured = [gains(rows, tasks[str(name)].metric, plans) for name, rows in by_task]
    ran = np.ones(len(plans), bool)
    found = max_t(measured, ran, level=level, seed=rules.seed, resamples=rules.resamples)
    return {
        "select_plan": plans[found.best],
        "select_effect": found.effects[found.best],
        "select_low": found.lows[found.best],
        "select_p": found.p,
        "select_significant": found.p <= level,
    }


def _row(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    level: float,
    rules: Statistics,
    grown: Collection[str],
) -> dict[str, Any]:
    plans = [plan for plan in scores["plan"].unique() if plan != BASE]
    whole, documents, shared = np.ones(len(plans), bool), 0, 0
    added = np.isin(plans, list(grown))
    grid = [plan for plan in plans if plan not in grown]
    measured, together, means = [], [], []
    for name, rows in scores.groupby("task", sort=False, observed=True):
        metric = tasks[str(name)].metric
        seen = seen_by(rows, plans)
        whole &= seen.all(axis=1)
        documents += seen.shape[1]
        measured.append(gains(rows, metric, plans))
        common = outcomes(rows, metric).at(np.flatnonzero(seen[~added].all(axis=0)))
        shared += len(common.documents)
        gained = differences(common, grid)
        together.append(Gains(gained, common.weights))
        means.append(compare(gained.mean(axis=0)[None], common, rules))
    ran = whole & ~added
    found = max_t(measured, ran, level=level, seed=rules.seed, resamples=rules.resamples)
    of_grown = np.where(whole & added, found.effects, -np.inf)
    best_grown = int(np.argmax(of_grown)) if np.isfinite(of_grown).any() else None
    mean = pd.concat(means)
    low, high = mean_limits(mean["effect"], mean["low"], mean["high"])
    return {
        "plans": len(plans),
        "dropped": int((~whole).sum()),
        "grown": int(added.sum()),
        "tasks": len(measured),
        "documents": documents,
        "best_plan": plans[found.best],
        "best_effect": found.effects[found.best],
        "best_low": found.lows[found.best],
        "best_by_luck": found.luck,
        "best_grown": "" if best_grown is None else plans[best_grown],
        "best_grown_effect": math.nan if best_grown is None else found.effects[best_grown],
        "p": found.p,
        "level": level,
        "significant": found.p <= level,
        "shared_documents": shared,
        "mean_effect": mean["effect"].mean(),
        "mean_low": low,
        "mean_high": high,
        "share_better": float((mean_gains(together)[0] > 0).mean()),
    }
