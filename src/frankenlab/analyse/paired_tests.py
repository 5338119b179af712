"""Standard errors, exact tests and corrections of paired differences, by NumPy and SciPy.

`differences[plan, cluster]` is what a plan gains over its base on one cluster, oriented so that
positive is better, and `weights[cluster]` is the cluster's share of the denominator. A cluster is
what was sampled independently: one document, or all documents that share a text.

- kind "mean": scores in 0..1 (accuracies); difference = score - base score, weight 1.
- kind "perplexity": difference = base nll - nll, weight = words, bytes or tokens.

The effect is 100 * sum(differences) / sum(weights): percentage points, or 100 times the difference
of log-perplexities. `paired_effects` puts these parts together.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

Kind = Literal["mean", "perplexity"]
Floats = NDArray[np.float64]

# Of an array that is computed at once.
BLOCK_BYTES = 1 << 25
# The sign-flip test enumerates all flips of up to so many clusters.
EXACT_CLUSTERS = 12
# Differences that are multiples of 1 / k, for a k up to this, have an exact sign-flip test.
FINEST_STEP = 12


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
    x, w = checked(numerators, weights)
    if w.size < 2:
        return np.full(len(x), np.nan)
    squares = (residuals(x, w) ** 2).sum(axis=1)
    return np.sqrt(squares * w.size / (w.size - 1)) / w.sum()


def cluster_deviation(differences: ArrayLike, weights: ArrayLike) -> Floats:
    """Return the standard deviation [plans] that one cluster contributes to an effect.

    The standard error of the effect with n clusters is this divided by the square root of n.
    """
    return 100 * standard_error(differences, weights) * np.sqrt(np.size(weights))


def dominance(differences: ArrayLike, weights: ArrayLike) -> Floats:
    """Return the largest share [plans] that one cluster has in the variance of an effect.

    It is 1 / n where all clusters spread alike, near 1 where one decides, and NaN where none moves.
    """
    squares = residuals(*checked(differences, weights)) ** 2
    total = squares.sum(axis=1)
    return np.divide(squares.max(axis=1), total, out=np.full(len(total), np.nan), where=total != 0)


def checked(values: ArrayLike, weights: ArrayLike) -> tuple[Floats, Floats]:
    """Return values [plans, clusters] and weights [clusters] as floats, with NaN for infinities.

    Raises:
        ValueError: the shapes differ, or the weights are negative or all 0.
    """
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


def clopper_pearson_upper(successes: ArrayLike, trials: int, tail: float) -> Floats:
    """Return the exact upper limits of probabilities, from numbers of successes of any shape."""
    failures = trials - np.asarray(successes, dtype=float)
    inner = scipy.special.betaincinv(trials - failures + 1, np.maximum(failures, 1), 1 - tail)
    return np.where(failures > 0, inner, 1.0)


def discordant(differences: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count what gained (wrong to right) and what lost (right to wrong), [plans] each."""
    return np.greater(differences, 0).sum(axis=-1), np.less(differences, 0).sum(axis=-1)


def mcnemar_exact(up: ArrayLike, down: ArrayLike) -> Floats:
    """Return two-sided p of the exact McNemar (1947) test, from discordant counts of any one shape.

    It is a binomial sign test on the discordant documents; p is 1 where there are none.
    """
    up, down = np.asarray(up), np.asarray(down)
    return np.minimum(1.0, 2 * scipy.stats.binom.cdf(np.minimum(up, down), up + down, 0.5))


def sign_flip_test(differences: ArrayLike, *, seed: int, resamples: int = 10_000) -> Floats:
    """Return two-sided p [plans] of the paired permutation test, from differences
    [plans, clusters].

    Under the null hypothesis plan and base can be exchanged on every cluster, which flips the sign
    of its difference and leaves its weight: sum(weights) is the same in all permutations, so the
    test of the weighted effect is the test of sum(differences). It tests symmetry around 0, which
    is more than a mean of 0.

    It is exact where all differences are multiples of one step, 1 to 1 / 12, as with right and
    wrong answers, and for up to 12 clusters. Else p = (r + 1) / (resamples + 1) (Phipson and Smyth
    2010) with the same random flips for all plans. A plan with a value that is not finite gets NaN.
    """
    d, _ = checked(differences, np.ones(np.shape(differences)[1]))
    for steps in range(1, FINEST_STEP + 1):
        whole = np.rint(d * steps)
        if (np.isnan(d) | (np.abs(whole - d * steps) < 1e-6)).all():
            return np.array([_lattice_p(row) for row in whole])
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


def _lattice_p(whole: Floats) -> float:
    """Return the share of all sign flips of whole numbers whose sum is as far from 0 as theirs."""
    if np.isnan(whole).any():
        return float("nan")
    sizes, counts = np.unique(np.abs(whole[whole != 0]).astype(int), return_counts=True)
    total = int(sizes @ counts)
    # chance[k] is that of the sum 2 * k - total: those that are positive are k large.
    chance = np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        spread = np.zeros(size * count + 1)
        spread[::size] = scipy.stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chance = np.convolve(chance, spread)
    sums = 2 * np.arange(total + 1) - total
    return min(1.0, float(chance[np.abs(sums) >= abs(whole.sum())].sum()))


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Adjust p for the false discovery rate (Benjamini and Hochberg 1995); NaN stays out of it."""
    adjusted = np.array(p, dtype=float)
    known = ~np.isnan(adjusted)
    if known.any():
        adjusted[known] = scipy.stats.false_discovery_control(adjusted[known])
    return adjusted
