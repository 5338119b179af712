"""Hold the plans' gains over the base on the search tasks as arrays, and average them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from frankenlab.analyse.outcomes import Outcomes, outcomes
from frankenlab.analyse.paired_tests import BLOCK_BYTES, Floats, by_cluster
from frankenlab.plans.plan import BASE

# Draws effects and their variances, [resamples, plans] each, as shares and not in points.
Resample = Callable[[np.random.Generator, int], tuple[Floats, Floats]]


@dataclass(frozen=True, eq=False)
class Gains:
    """The gains of plans over the base on one task.

    Attributes:
        values: [plans, clusters] sums of the differences plan - base; higher is better.
        weights: [clusters] or [plans, clusters]: documents, or words, bytes or tokens.
        seen: [plans, clusters]: whether a plan saw any of the cluster; None where all saw all.
    """

    values: Floats
    weights: Floats
    seen: NDArray[np.bool_] | None = None

    @property
    def clusters(self) -> NDArray[np.int64]:
        """Return how many clusters each plan [plans] saw."""
        count = np.full(len(self.values), self.values.shape[1])
        return count if self.seen is None else self.seen.sum(axis=1)

    @property
    def residuals(self) -> Floats:
        """Return what each cluster [plans, clusters] adds to a plan's effect beyond its weight, as
        a share of all weights."""
        total = self.weights.sum(axis=-1)[..., None]
        share = self.values.sum(axis=1, keepdims=True) / total
        rest: Floats = (self.values - share * self.weights) / total
        return rest

    @property
    def stepwise(self) -> bool:
        """Tell whether all differences are single steps: one document turned right or wrong."""
        values = self.values[np.isfinite(self.values)]
        return bool(np.isin(values, (-1.0, 0.0, 1.0)).all())

    def filled(self) -> "Gains":
        """Return gains where plans that saw less have what they saw again, in turn, in the place of
        what they did not see."""
        weights = np.broadcast_to(self.weights, self.values.shape)
        if self.seen is None:
            return Gains(self.values, weights)
        places = np.tile(np.arange(self.values.shape[1]), (len(self.values), 1))
        for row, seen in zip(places, self.seen, strict=True):
            row[~seen] = np.resize(np.flatnonzero(seen), np.count_nonzero(~seen))
        values = np.take_along_axis(self.values, places, axis=1)
        return Gains(values, np.take_along_axis(weights, places, axis=1))


def differences(measured: Outcomes, plans: Sequence[str]) -> Floats:
    """Return what plans gained on each document [plans, documents]; NaN where one was not seen."""
    scores = np.array([measured.row(plan) for plan in plans])
    return scores.reshape(len(plans), -1) - measured.row(BASE)


def seen_by(scores: pd.DataFrame, plans: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which documents plans saw [plans, documents], in the order of `outcomes`."""
    found = scores.pivot(index="plan", columns="document", values="cluster").notna()
    return found.loc[list(plans)].to_numpy()


def gains(scores: pd.DataFrame, metric: str, plans: Sequence[str]) -> Gains:
    """Return what plans gained on one task, from its scores and the base's."""
    measured, seen = outcomes(scores, metric), seen_by(scores, plans)
    differed = differences(measured, plans)
    # NaN stays inside its plan; inf does not.
    differed[~np.isfinite(differed)] = np.nan
    values = by_cluster(np.where(seen, differed, 0.0), measured.clusters)
    if seen.all():
        return Gains(values, by_cluster(measured.weights, measured.clusters))
    weights = by_cluster(np.where(seen, measured.weights, 0.0), measured.clusters)
    return Gains(values, weights, by_cluster(seen, measured.clusters) > 0)


def mean_gains(tasks: Sequence[Gains]) -> tuple[Floats, Floats]:
    """Return the plans' mean effects [plans] over the tasks, and their standard errors [plans].

    Tasks do not share documents, so their errors are independent.
    """
    means = [task.values.sum(axis=1) / task.weights.sum(axis=-1) for task in tasks]
    n = [task.values.shape[1] for task in tasks]
    squares = [
        (task.residuals**2).sum(axis=1) * m / (m - 1) for task, m in zip(tasks, n, strict=True)
    ]
    scale = 100 / len(tasks)
    return scale * np.sum(means, axis=0), scale * np.sqrt(np.sum(squares, axis=0))


def mean_limits(effects: pd.Series, lows: pd.Series, highs: pd.Series) -> tuple[float, float]:
    """Return the limits of the mean of independent effects, from those of each (Zou and Donner
    2008): the distances to the limits add up as standard errors do, on each side."""
    mean, count = effects.mean(), len(effects)
    low = np.sqrt(((effects - lows) ** 2).sum()) / count
    high = np.sqrt(((highs - effects) ** 2).sum()) / count
    return float(mean - low), float(mean + high)


def bootstrap(task: Gains) -> Resample:
    """Return what draws clusters with replacement, with effects centred at the observed ones."""
    d, w = task.values, shared_weights(task.weights)
    n = d.shape[1]
    r = d - (d.sum(axis=1) / w.sum(axis=1))[:, None] * w
    sums = [x.T for x in (r, w, r**2, r * w, w**2)]

    def resample(random: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
        picks = random.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
        counts = np.bincount(picks.ravel(), minlength=rows * n).reshape(rows, n) * 1.0
        gain, weight, squares, cross, own = (counts @ x for x in sums)
        effect = gain / weight
        rest = squares - 2 * effect * cross + effect**2 * own
        return effect, np.maximum(rest, 0) * (n / (n - 1) / weight**2)

    return resample


def resampled(task: Gains, random: np.random.Generator, resamples: int) -> Floats:
    """Return the effects [1 + resamples, plans], first those of the documents as they are."""
    effects, _ = mean_gains([task])
    draw, rows = bootstrap(task), max(1, BLOCK_BYTES // (8 * task.values.shape[1]))
    left = range(0, resamples, rows)
    shifts = [draw(random, min(rows, resamples - start))[0] for start in left]
    return np.vstack([effects, *(effects + 100 * shift for shift in shifts)])


def shared_weights(weights: Floats) -> Floats:
    """Return weights [1, clusters] where all plans have the same, else [plans, clusters]."""
    weights = np.atleast_2d(weights)
    return weights[:1] if (weights == weights[0]).all() else weights
