"""Paired effects, intervals, tests, corrections and verdicts. NumPy, SciPy and statsmodels only.

Every comparison is paired: `differences[plan, unit]` is what a plan gains over its base on one
unit, oriented so that positive is better, and `weights[unit]` is the unit's share of the
denominator. A unit is what was sampled independently: a document, or all rows of one passage.

- kind "mean": scores in 0..1 (accuracies); difference = score - base score, weight 1.
- kind "perplexity": difference = base nll - nll, weight = words, bytes or tokens.

The effect is 100 * sum(differences) / sum(weights): percentage points, or 100 times the difference
of log-perplexities. docs/statistics.md tells why these methods were chosen.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats
from statsmodels.stats.multitest import multipletests

Kind = Literal["mean", "perplexity"]
Verdict = Literal["improved", "harmed", "equivalent", "inconclusive"]
Floats = NDArray[np.float64]

BLOCK_BYTES = 1 << 25
EXACT_UNITS = 12
MOST_DOCUMENTS = 10_000_000


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects [plans] with limits [levels, plans], all in points or log-percent."""

    effect: Floats
    levels: tuple[float, ...]
    low: Floats
    high: Floats

    def interval(self, level: float) -> tuple[Floats, Floats]:
        """The lower and upper limits [plans] at one of `levels`; ValueError for another level."""
        index = self.levels.index(level)
        return self.low[index], self.high[index]


def by_cluster(values: ArrayLike, clusters: ArrayLike) -> Floats:
    """Sums rows that belong together, so that the sums can be treated as independent units.

    Takes differences or weights [..., rows] and a label for each row; gives [..., units] in the
    sorted order of the labels.
    """
    values = np.asarray(values, dtype=float)
    labels = np.asarray(clusters)
    if labels.ndim != 1 or values.shape[-1] != labels.size:
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
    levels: Sequence[float] = (0.95, 0.90),
    resamples: int = 10_000,
) -> Effects:
    """Effects and percentile bootstrap intervals over units, the same resamples for all plans.

    The tails are those of the expanded percentile interval (Hesterberg 2015), which carries the
    t-interval's correction for few units. For kind "mean" an interval is never tighter than the
    exact limits that `_exact_limits` gives, because a bootstrap cannot draw what a small sample
    happened not to contain. A plan with a value that is not finite gets NaN. One unit says nothing
    about the spread of perplexities: NaN limits.

    Args:
        differences: [plans, units].
        weights: [units], none negative, not all 0.
        kind: "mean" or "perplexity".
        seed: with `resamples` and the number of units it settles the resamples.
        levels: confidence levels, each inside (0, 1).
    """
    d, w = _checked(differences, weights)
    units = w.size
    effect = 100 * d.sum(axis=1) / w.sum()
    low = np.full((len(levels), len(d)), np.nan)
    high = low.copy()
    if units > 1:
        tails = np.array([_expanded_tail(level, units) for level in levels])
        probabilities = np.concatenate((tails, 1 - tails))
        for plans in _slices(len(d), BLOCK_BYTES // (5 * resamples)):
            drawn = _resampled_effects(d[plans], w, resamples, seed)
            limits = np.quantile(drawn, probabilities, axis=0, overwrite_input=True)
            low[:, plans], high[:, plans] = np.split(limits, 2)
    if kind == "mean":
        for index, level in enumerate(levels):
            lower, upper = _exact_limits(d, w, level)
            low[index] = np.fmin(low[index], lower)
            high[index] = np.fmax(high[index], upper)
    return Effects(effect, tuple(levels), low, high)


def standard_error(numerators: ArrayLike, weights: ArrayLike) -> Floats:
    """Standard error of sum(numerators) / sum(weights), linearised (Cochran 1977, chapter 6).

    From numerators [plans, units] (scores, nlls, or differences of them) and weights [units], in
    the ratio's own unit [plans]: times 100 for an effect. With weights of 1 it is sd / sqrt(n)
    with ddof=1, as in lm-evaluation-harness. NaN for fewer than two units.
    """
    x, w = _checked(numerators, weights)
    if w.size < 2:
        return np.full(len(x), np.nan)
    residuals = x - np.outer(x.sum(axis=1) / w.sum(), w)
    return np.sqrt((residuals**2).sum(axis=1) * w.size / (w.size - 1)) / w.sum()


def unit_deviation(differences: ArrayLike, weights: ArrayLike) -> Floats:
    """Standard deviation [plans] that one unit contributes to an effect, in the effect's unit.

    The standard error of the effect with n units is this divided by the square root of n.
    """
    return 100 * standard_error(differences, weights) * np.sqrt(np.size(weights))


def mean_effect_standard_error(standard_errors: ArrayLike) -> Floats:
    """Standard error [...] of the mean over tasks, from [..., tasks], one per task.

    Tasks do not share documents, so their errors are independent.
    """
    errors = np.asarray(standard_errors, dtype=float)
    return np.sqrt((errors**2).sum(axis=-1)) / errors.shape[-1]


def _checked(values: ArrayLike, weights: ArrayLike) -> tuple[Floats, Floats]:
    x, w = np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    if x.ndim != 2 or w.shape != x.shape[1:] or not w.size:
        raise ValueError(f"values [plans, units] of shape {x.shape}, weights of shape {w.shape}")
    if not (np.isfinite(w) & (w >= 0)).all() or not w.sum() > 0:
        raise ValueError("weights must not be negative, nor all 0")
    # NaN passes through sums and quantiles in silence and stays inside its plan; inf does not.
    return np.where(np.isfinite(x), x, np.nan), w


def _slices(length: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _expanded_tail(level: float, units: int) -> float:
    """Tail area at which a bootstrap quantile of a mean sits where the t-interval's limit does."""
    t = special.stdtrit(units - 1, (1 + level) / 2)
    return float(special.ndtr(-t * np.sqrt(units / (units - 1))))


def _resampled_effects(d: Floats, w: Floats, resamples: int, seed: int) -> Floats:
    """Effects [resamples, plans]; the counts of drawn units turn resampling into a product."""
    units = w.size
    random = np.random.default_rng([seed, 0])
    drawn = np.empty((resamples, len(d)))
    for rows in _slices(resamples, BLOCK_BYTES // (8 * max(2 * units, len(d)))):
        height = rows.stop - rows.start
        picks = random.integers(units, size=(height, units))
        picks += np.arange(height)[:, None] * units
        counts = np.bincount(picks.ravel(), minlength=height * units).reshape(height, units) * 1.0
        # Divided last, as the effect is: a limit k documents wide compares exactly with a margin.
        total = counts @ w
        total[total == 0] = np.nan  # only units without weight
        drawn[rows] = 100 * (counts @ d.T) / total[:, None]
    return drawn


def _exact_limits(d: Floats, w: Floats, level: float) -> tuple[Floats, Floats]:
    """Limits of a mean effect if only its gains, or only its losses, were uncertain.

    The upper limit lets the share of units that gain rise to its one-sided Clopper-Pearson (1934)
    limit and leaves the losses as observed; the lower limit is its mirror. With no discordant
    unit this is the rule of three (Hanley and Lippman-Hand 1983): +-100 * (1 - tail**(1/n)), as
    an unseen gain could move a unit as a whole. A unit is taken to move by the observed mean
    share of its weight where any moved: 1 for single documents.
    """
    units = w.size
    moved = d != 0
    mass = moved @ w
    share = np.divide(np.abs(d).sum(axis=1), mass, out=np.ones(len(d)), where=mass > 0)
    effect = d.sum(axis=1) / w.sum()
    gains, losses = discordant(d)
    tail = (1 - level) / 2
    upper = effect + share * (_clopper_pearson_upper(gains, units, tail) - gains / units)
    lower = effect - share * (_clopper_pearson_upper(losses, units, tail) - losses / units)
    return 100 * lower, 100 * upper


def _clopper_pearson_upper(successes: ArrayLike, trials: int, tail: float) -> Floats:
    failures = trials - np.asarray(successes, dtype=float)
    inner = special.betaincinv(trials - failures + 1, np.maximum(failures, 1), 1 - tail)
    return np.where(failures > 0, inner, 1.0)


def discordant(differences: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Units [plans] that gained (wrong to right) and that lost (right to wrong)."""
    return np.greater(differences, 0).sum(axis=-1), np.less(differences, 0).sum(axis=-1)


def mcnemar_exact(up: ArrayLike, down: ArrayLike) -> Floats:
    """Two-sided p of the exact McNemar (1947) test, from discordant counts of any one shape.

    A binomial sign test on the discordant documents; 1 where there is none.
    """
    up, down = np.asarray(up), np.asarray(down)
    return np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(up, down), up + down, 0.5))


def sign_flip_test(differences: ArrayLike, *, seed: int, resamples: int = 10_000) -> Floats:
    """Two-sided p [plans] of the paired permutation test, from differences [plans, units].

    Under the null hypothesis plan and base can be exchanged on every unit, which flips the sign
    of its difference and leaves its weight: sum(weights) is the same in all permutations, so the
    test of the weighted effect is the test of sum(differences). All flips are enumerated for up
    to 12 units; beyond, p = (r + 1) / (resamples + 1) (Phipson and Smyth 2010) with the same
    flips for all plans. A plan with a value that is not finite gets NaN.
    """
    d, _ = _checked(differences, np.ones(np.shape(differences)[1]))
    units = d.shape[1]
    exact = units <= EXACT_UNITS
    total = 2**units if exact else resamples
    random = np.random.default_rng([seed, 1])
    # Sums in another order differ by rounding: without slack, ties would be lost at random.
    observed = np.abs(d.sum(axis=1)) - 1e-12 * np.abs(d).sum(axis=1)
    extreme = np.zeros(len(d), dtype=int)
    for rows in _slices(total, BLOCK_BYTES // (8 * max(units, len(d)))):
        if exact:
            bits = np.arange(rows.start, rows.stop)[:, None] >> np.arange(units) & 1
        else:
            bits = random.integers(2, size=(rows.stop - rows.start, units))
        extreme += (np.abs((2.0 * bits - 1) @ d.T) >= observed).sum(axis=0)
    p = extreme / total if exact else (extreme + 1) / (total + 1)
    return np.where(np.isnan(observed), np.nan, p)


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """p adjusted for the false discovery rate (Benjamini and Hochberg 1995); NaN is left out."""
    return _adjusted(p, "fdr_bh")


def holm(p: ArrayLike) -> Floats:
    """p adjusted for the family-wise error rate (Holm 1979); NaN is left out."""
    return _adjusted(p, "holm")


def _adjusted(p: ArrayLike, method: str) -> Floats:
    adjusted = np.array(p, dtype=float)
    known = ~np.isnan(adjusted)
    if known.any():
        adjusted[known] = multipletests(adjusted[known], method=method)[1]
    return adjusted


def equivalent(low90: float, high90: float, margin: float) -> bool:
    """Two one-sided tests at 0.05 (Schuirmann 1987): the 90 % interval lies inside +-margin."""
    return bool(-margin < low90 and high90 < margin)


def verdict(
    effect: float, p_corrected: float, low90: float, high90: float, margin: float, alpha: float
) -> Verdict:
    """What may be claimed of one plan on one task.

    A significant change (p_corrected < alpha) is named by its sign even where it is smaller than
    the margin; otherwise "equivalent" needs evidence, and what is left is "inconclusive". NaN is
    evidence of nothing.
    """
    if p_corrected < alpha and effect != 0:
        return "improved" if effect > 0 else "harmed"
    return "equivalent" if equivalent(low90, high90, margin) else "inconclusive"


def documents_needed(
    effect: float,
    deviation: float,
    *,
    kind: Kind,
    margin: float,
    alpha: float,
    power: float = 0.80,
) -> int | None:
    """Units at which a verdict would be reached, if effect and deviation were the true ones.

    The smaller of the numbers for the test of a difference at `alpha` and, if the effect is inside
    the margin, for equivalence at 0.05. The power of exact tests is saw-toothed: the number is
    right to within a tooth. For clusters it counts clusters. None if ten million are too few.

    Args:
        effect: in points or log-percent.
        deviation: `unit_deviation`, same unit.
        kind: "mean" plans for exact McNemar, "perplexity" for the sign-flip test.
        margin: same unit.
        alpha: two-sided, after correction: the family's alpha over its number of tests.
        power: probability of the verdict.
    """
    if not (np.isfinite(effect) and np.isfinite(deviation)):
        return None
    delta, sigma = abs(effect) / 100, deviation / 100
    detects = _mcnemar_power if kind == "mean" else _sign_flip_power
    numbers = []
    if delta > 0:
        numbers.append(_smallest(lambda n: detects(n, delta, sigma, alpha) >= power))
    if delta < margin / 100:
        bound = margin / 100
        numbers.append(_smallest(lambda n: _tost_passes(n, delta, sigma, bound, power, kind)))
    return min((number for number in numbers if number is not None), default=None)


def _smallest(enough: Callable[[int], bool]) -> int | None:
    """The n from 2 up to MOST_DOCUMENTS where `enough` turns true, by doubling and bisection."""
    low, high = 1, 2
    while not enough(high):
        if high == MOST_DOCUMENTS:
            return None
        low, high = high, min(2 * high, MOST_DOCUMENTS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _gain_and_loss(delta: float, sigma: float) -> tuple[float, float]:
    """Probabilities of a gain and a loss that have this mean and standard deviation."""
    discordance = min(1.0, max(delta, sigma**2 + delta**2))
    return (discordance + delta) / 2, (discordance - delta) / 2


def _mcnemar_power(n: int, delta: float, sigma: float, alpha: float) -> float:
    """Unconditional power: the conditional one, averaged over the number of discordant units."""
    gain, loss = _gain_and_loss(delta, sigma)
    rate = gain + loss
    centre, spread = n * rate, 8 * np.sqrt(n * rate) + 8
    counts = np.arange(max(0, int(centre - spread)), min(n, int(centre + spread)) + 1)
    critical = stats.binom.ppf(alpha / 2, counts, 0.5) - 1
    rejects = stats.binom.cdf(critical, counts, loss / rate)
    return float(stats.binom.pmf(counts, n, rate) @ rejects)


def _sign_flip_power(n: int, delta: float, sigma: float, alpha: float) -> float:
    """Normal approximation; flips give the null variance sigma**2 + delta**2."""
    if 2.0 ** (1 - n) >= alpha:
        return 0.0
    surplus = np.sqrt(n) * delta - special.ndtri(1 - alpha / 2) * np.hypot(sigma, delta)
    return float(special.ndtr(surplus / sigma)) if sigma > 0 else float(surplus > 0)


def _tost_passes(
    n: int, delta: float, sigma: float, margin: float, power: float, kind: Kind
) -> bool:
    """Whether the 90 % interval, with its exact limits, falls inside the margin with this power."""
    if sigma > 0:
        room = np.array([margin - delta, margin + delta]) * np.sqrt(n) / sigma
        if special.ndtr(room - special.stdtrit(n - 1, 0.95)).sum() - 1 < power:
            return False
    if kind == "perplexity":
        return True
    rates = np.array(_gain_and_loss(delta, sigma))
    most = stats.binom.ppf((1 + power) / 2, n, rates)
    limits = _clopper_pearson_upper(most, n, 0.05) - stats.binom.ppf(0.5, n, rates[::-1]) / n
    return bool((limits < margin).all())


def cheapest_within_one_standard_error(
    effects: ArrayLike, costs: ArrayLike, standard_error: float
) -> int:
    """Index of the cheapest plan that is not clearly worse than the best (Breiman et al. 1984).

    Takes mean effects [plans], costs [plans] (for example depths) and the standard error of the
    best plan's mean effect. Equal costs are decided by the higher effect, then by the earlier
    position. Plans with a NaN effect are passed over; ValueError if none is left.
    """
    effect = np.asarray(effects, dtype=float)
    cost = np.asarray(costs, dtype=float)
    if np.isnan(effect).all():
        raise ValueError("no plan has an effect")
    tolerance = 0.0 if np.isnan(standard_error) else standard_error
    candidates = np.flatnonzero(effect >= np.nanmax(effect) - tolerance)
    return int(min(candidates, key=lambda index: (cost[index], -effect[index], index)))


def pareto_front(cost: ArrayLike, quality: ArrayLike) -> NDArray[np.bool_]:
    """Mask [plans] of those that no other plan beats in cost or quality and matches in the other.

    Lower cost and higher quality are better. Equal points stand or fall together; NaN falls.
    """
    points = np.column_stack((np.asarray(cost, dtype=float), -np.asarray(quality, dtype=float)))
    known = ~np.isnan(points).any(axis=1)
    front = np.zeros(len(points), dtype=bool)
    # Sorted by cost, then best quality first: a point stands if it beats all the cheaper ones.
    distinct, inverse = np.unique(points[known], axis=0, return_inverse=True)
    best_before = np.minimum.accumulate(np.concatenate(([np.inf], distinct[:, 1])))[:-1]
    front[known] = (distinct[:, 1] < best_before)[inverse]
    return front
