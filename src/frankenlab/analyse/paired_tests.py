"""Paired effects with intervals, tests and corrections, by NumPy, SciPy and statsmodels.

`differences[plan, cluster]` is what a plan gains over its base on one cluster, oriented so that
positive is better, and `weights[cluster]` is the cluster's share of the denominator. A cluster is
what was sampled independently: one document, or all documents that share a text.

- kind "mean": scores in 0..1 (accuracies); difference = score - base score, weight 1.
- kind "perplexity": difference = base nll - nll, weight = words, bytes or tokens.

The effect is 100 * sum(differences) / sum(weights): percentage points, or 100 times the difference
of log-perplexities. docs/statistics.md says why these methods were chosen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats
from statsmodels.stats.multitest import multipletests

Kind = Literal["mean", "perplexity"]
Floats = NDArray[np.float64]

# Of an array that is computed at once.
BLOCK_BYTES = 1 << 25
# The sign-flip test enumerates all flips of up to so many clusters.
EXACT_CLUSTERS = 12


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects [plans] and the limits of their 95 % and 90 % intervals, in points or log-percent."""

    effect: Floats
    low: Floats
    high: Floats
    low90: Floats
    high90: Floats


def by_cluster(values: ArrayLike, clusters: ArrayLike) -> Floats:
    """Sum the documents of each cluster, so that the sums can be treated as independent.

    Takes differences or weights [..., documents] and each document's cluster; returns
    [..., clusters] in the sorted order of the labels.
    """
    values, labels = np.asarray(values, dtype=float), np.asarray(clusters)
    if values.shape[-1:] != labels.shape:
        raise ValueError(f"{labels.size} cluster labels for values of shape {values.shape}")
    _, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    return np.add.reduceat(values[..., np.argsort(codes, kind="stable")], starts, axis=-1)


def paired_bootstrap(
    differences: ArrayLike,
    weights: ArrayLike,
    *,
    kind: Kind,
    seed: int,
    resamples: int = 10_000,
) -> Effects:
    """Return effects with percentile bootstrap intervals over clusters.

    All plans get the same resamples, which follow from `seed`, `resamples` and the number of
    clusters. The tails are those of the expanded percentile interval (Hesterberg 2015), which
    carries the t-interval's correction for few clusters. For kind "mean" an interval is never
    tighter than the limits of `_exact_limits`, because a bootstrap cannot draw what a small sample
    happened not to contain. A plan with a value that is not finite gets NaN. One cluster says
    nothing about the spread of perplexities: its limits are NaN.

    Args:
        differences: [plans, clusters].
        weights: [clusters], none negative, not all 0.
    """
    d, w = _checked(differences, weights)
    n, levels = w.size, (0.95, 0.90)
    limits = np.full((4, len(d)), np.nan)
    if n > 1:
        tails = np.array([_expanded_tail(level, n) for level in levels])
        probabilities = np.concatenate((tails, 1 - tails))
        for plans in _slices(len(d), BLOCK_BYTES // (5 * resamples)):
            drawn = _resampled_effects(d[plans], w, resamples, seed)
            limits[:, plans] = np.quantile(drawn, probabilities, axis=0, overwrite_input=True)
    if kind == "mean":
        lower, upper = zip(*(_exact_limits(d, w, level) for level in levels), strict=True)
        limits[:2] = np.fmin(limits[:2], lower)
        limits[2:] = np.fmax(limits[2:], upper)
    low, low90, high, high90 = limits
    return Effects(100 * d.sum(axis=1) / w.sum(), low, high, low90, high90)


def residuals(numerators: Floats, weights: Floats) -> Floats:
    """Return what is left of each numerator [plans, clusters] if every weight has an equal share
    of their sum."""
    return numerators - np.outer(numerators.sum(axis=1) / weights.sum(), weights)


def standard_error(numerators: ArrayLike, weights: ArrayLike) -> Floats:
    """Return the standard error [plans] of sum(numerators) / sum(weights), linearised (Cochran
    1977, chapter 6).

    The numerators [plans, clusters] are scores, nlls or differences; times 100 it is the error of
    an effect. With weights of 1 it is sd / sqrt(n) with ddof=1, as in lm-evaluation-harness. It is
    NaN for fewer than two clusters.
    """
    x, w = _checked(numerators, weights)
    if w.size < 2:
        return np.full(len(x), np.nan)
    squares = (residuals(x, w) ** 2).sum(axis=1)
    return np.sqrt(squares * w.size / (w.size - 1)) / w.sum()


def cluster_deviation(differences: ArrayLike, weights: ArrayLike) -> Floats:
    """Return the standard deviation [plans] that one cluster contributes to an effect.

    The standard error of the effect with n clusters is this divided by the square root of n.
    """
    return 100 * standard_error(differences, weights) * np.sqrt(np.size(weights))


def _checked(values: ArrayLike, weights: ArrayLike) -> tuple[Floats, Floats]:
    x, w = np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    if x.ndim != 2 or w.shape != x.shape[1:] or not w.size:
        raise ValueError(f"values [plans, clusters] of shape {x.shape}, weights of shape {w.shape}")
    if not (np.isfinite(w) & (w >= 0)).all() or not w.sum() > 0:
        raise ValueError("weights must not be negative, nor all 0")
    # NaN passes through sums and quantiles in silence and stays inside its plan; inf does not.
    return np.where(np.isfinite(x), x, np.nan), w


def _slices(length: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _expanded_tail(level: float, n: int) -> float:
    """Return the tail area at which a bootstrap quantile of a mean of n clusters sits where the
    t-interval's limit does."""
    t = special.stdtrit(n - 1, (1 + level) / 2)
    return float(special.ndtr(-t * np.sqrt(n / (n - 1))))


def _resampled_effects(d: Floats, w: Floats, resamples: int, seed: int) -> Floats:
    """Return effects [resamples, plans]: the differences times how often each was drawn."""
    n = w.size
    random = np.random.default_rng([seed, 0])
    drawn = np.empty((resamples, len(d)))
    for rows in _slices(resamples, BLOCK_BYTES // (8 * max(2 * n, len(d)))):
        height = rows.stop - rows.start
        picks = random.integers(n, size=(height, n))
        picks += np.arange(height)[:, None] * n
        counts = np.bincount(picks.ravel(), minlength=height * n).reshape(height, n) * 1.0
        # Divided last, as the effect is: a limit k documents wide compares exactly with a margin.
        total = counts @ w
        total[total == 0] = np.nan  # only clusters without weight
        drawn[rows] = 100 * (counts @ d.T) / total[:, None]
    return drawn


def _exact_limits(d: Floats, w: Floats, level: float) -> tuple[Floats, Floats]:
    """Return the limits of a mean effect if only its gains, or only its losses, were uncertain.

    The upper limit lets the share of clusters that gain rise to its one-sided Clopper-Pearson
    (1934) limit and leaves the losses as observed; the lower limit is its mirror. With no
    discordant cluster this is the rule of three (Hanley and Lippman-Hand 1983):
    +-100 * (1 - tail**(1/n)), as an unseen gain could move a cluster as a whole. A cluster is taken
    to move by the mean share of its weight by which the observed ones moved: 1 for single
    documents.
    """
    n = w.size
    mass = (d != 0) @ w
    share = np.divide(np.abs(d).sum(axis=1), mass, out=np.ones(len(d)), where=mass > 0)
    effect = d.sum(axis=1) / w.sum()
    gains, losses = discordant(d)
    tail = (1 - level) / 2
    upper = effect + share * (clopper_pearson_upper(gains, n, tail) - gains / n)
    lower = effect - share * (clopper_pearson_upper(losses, n, tail) - losses / n)
    return 100 * lower, 100 * upper


def clopper_pearson_upper(successes: ArrayLike, trials: int, tail: float) -> Floats:
    """Return the exact upper limits of probabilities, from numbers of successes of any shape."""
    failures = trials - np.asarray(successes, dtype=float)
    inner = special.betaincinv(trials - failures + 1, np.maximum(failures, 1), 1 - tail)
    return np.where(failures > 0, inner, 1.0)


def discordant(differences: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count what gained (wrong to right) and what lost (right to wrong), [plans] each."""
    return np.greater(differences, 0).sum(axis=-1), np.less(differences, 0).sum(axis=-1)


def mcnemar_exact(up: ArrayLike, down: ArrayLike) -> Floats:
    """Return two-sided p of the exact McNemar (1947) test, from discordant counts of any one shape.

    It is a binomial sign test on the discordant documents; p is 1 where there are none.
    """
    up, down = np.asarray(up), np.asarray(down)
    return np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(up, down), up + down, 0.5))


def sign_flip_test(differences: ArrayLike, *, seed: int, resamples: int = 10_000) -> Floats:
    """Return two-sided p [plans] of the paired permutation test, from differences
    [plans, clusters].

    Under the null hypothesis plan and base can be exchanged on every cluster, which flips the sign
    of its difference and leaves its weight: sum(weights) is the same in all permutations, so the
    test of the weighted effect is the test of sum(differences). All flips are enumerated for up
    to 12 clusters; beyond, p = (r + 1) / (resamples + 1) (Phipson and Smyth 2010) with the same
    flips for all plans. A plan with a value that is not finite gets NaN.
    """
    d, _ = _checked(differences, np.ones(np.shape(differences)[1]))
    n = d.shape[1]
    exact = n <= EXACT_CLUSTERS
    total = 2**n if exact else resamples
    random = np.random.default_rng([seed, 1])
    # Sums in another order differ by rounding: without slack, ties would be lost at random.
    observed = np.abs(d.sum(axis=1)) - 1e-12 * np.abs(d).sum(axis=1)
    extreme = np.zeros(len(d), dtype=int)
    for rows in _slices(total, BLOCK_BYTES // (8 * max(n, len(d)))):
        if exact:
            bits = np.arange(rows.start, rows.stop)[:, None] >> np.arange(n) & 1
        else:
            bits = random.integers(2, size=(rows.stop - rows.start, n))
        extreme += (np.abs((2.0 * bits - 1) @ d.T) >= observed).sum(axis=0)
    p = extreme / total if exact else (extreme + 1) / (total + 1)
    return np.where(np.isnan(observed), np.nan, p)


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Adjust p for the false discovery rate (Benjamini and Hochberg 1995); NaN stays out of it."""
    return _adjusted(p, "fdr_bh")


def holm(p: ArrayLike) -> Floats:
    """Adjust p for the family-wise error rate (Holm 1979); NaN stays out of it."""
    return _adjusted(p, "holm")


def _adjusted(p: ArrayLike, method: str) -> Floats:
    adjusted = np.array(p, dtype=float)
    known = ~np.isnan(adjusted)
    if known.any():
        adjusted[known] = multipletests(adjusted[known], method=method)[1]
    return adjusted
