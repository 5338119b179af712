"""How many documents a verdict needs, and the smallest effect that a number of documents shows."""

import math
from bisect import bisect_left
from collections.abc import Callable

import numpy as np
import scipy

from frankenlab.analyse.paired_tests import Kind, clopper_pearson_upper

MOST_DOCUMENTS = 10_000_000


def deviation_of_flips(share: float) -> float:
    """Return the deviation, in points, of one document where this share of the documents flips,
    as many up as down."""
    return 100 * math.sqrt(share)


def documents_needed(
    effect: float,
    deviation: float,
    *,
    kind: Kind,
    margin: float,
    level: float,
    power: float = 0.80,
) -> int | None:
    """Return at how many documents a verdict would be reached if effect and deviation were true.

    It is the smaller of the numbers for a change and, if the effect is inside the margin, for
    equivalence. The power of exact tests is saw-toothed: the number is right to within a tooth.
    Clustered documents are counted in clusters. None if ten million are too few.

    Args:
        effect: in points or log-percent.
        deviation: `paired_tests.cluster_deviation`, in the effect's unit.
        kind: "mean" plans for exact McNemar, "perplexity" for the t-test.
        margin: in the effect's unit.
        level: of the one test, as `error_budget` has it.
        power: probability of the verdict.
    """
    if not (np.isfinite(effect) and np.isfinite(deviation)):
        return None
    delta, sigma = abs(effect) / 100, deviation / 100
    detects = _power_of(kind)
    numbers = []
    if delta > 0:
        numbers.append(_smallest(lambda n: detects(n, delta, sigma, level) >= power))
    if delta < margin / 100:
        bound = margin / 100
        numbers.append(
            _smallest(lambda n: _tost_passes(n, delta, sigma, bound, level, power, kind))
        )
    return min((number for number in numbers if number is not None), default=None)


def smallest_detectable(
    n: int, deviation: float, *, kind: Kind, level: float, power: float = 0.80
) -> float | None:
    """Return the smallest true effect, up or down, that n documents call a change with this power.

    It does not depend on the effect that was seen. None where no effect is large enough, as for
    too few documents.

    Args:
        n: documents, or clusters of them.
        deviation: of one document, in the effect's unit; before there are data, that of
            `deviation_of_flips`.
        kind, level, power: as for `documents_needed`.

    Returns:
        points, or log-percent.
    """
    if not np.isfinite(deviation):
        return None
    detects, sigma = _power_of(kind), deviation / 100
    low, high = 0.0, 1.0
    while detects(n, high, sigma, level) < power:
        if kind == "mean" or high > 1e3:
            return None
        low, high = high, 2 * high
    for _ in range(24):
        middle = (low + high) / 2
        enough = detects(n, middle, sigma, level) >= power
        low, high = (low, middle) if enough else (middle, high)
    return 100 * high


def can_be_equivalent(
    n: int, deviation: float, *, kind: Kind, margin: float, level: float, power: float = 0.80
) -> bool:
    """Tell whether n documents would call a plan that changes nothing equivalent with this
    power; the arguments are those of `smallest_detectable` and `documents_needed`."""
    return _tost_passes(n, 0.0, deviation / 100, margin / 100, level, power, kind)


def _smallest(enough: Callable[[int], bool]) -> int | None:
    """Find the n from 2 to MOST_DOCUMENTS where `enough` turns true, by doubling and bisection."""
    low, high = 1, 2
    while not enough(high):
        if high == MOST_DOCUMENTS:
            return None
        low, high = high, min(2 * high, MOST_DOCUMENTS)
    return low + 1 + bisect_left(range(low + 1, high), True, key=enough)


def _power_of(kind: Kind) -> Callable[[int, float, float, float], float]:
    return _mcnemar_power if kind == "mean" else _t_power


def _gain_and_loss(delta: float, sigma: float) -> tuple[float, float]:
    """Return the probabilities of a gain and a loss that have this mean and deviation."""
    discordance = min(1.0, max(delta, sigma**2 + delta**2))
    return (discordance + delta) / 2, (discordance - delta) / 2


def _mcnemar_power(n: int, delta: float, sigma: float, level: float) -> float:
    """Return the unconditional power: the conditional one, averaged over the number of discordant
    documents."""
    gain, loss = _gain_and_loss(delta, sigma)
    rate = gain + loss
    if rate == 0:
        return 0.0
    centre, spread = n * rate, 8 * np.sqrt(n * rate) + 8
    counts = np.arange(max(0, int(centre - spread)), min(n, int(centre + spread)) + 1)
    critical = scipy.stats.binom.ppf(level / 2, counts, 0.5) - 1
    rejects = scipy.stats.binom.cdf(critical, counts, loss / rate)
    return float(scipy.stats.binom.pmf(counts, n, rate) @ rejects)


def _t_power(n: int, delta: float, sigma: float, level: float) -> float:
    """Return the power of a t-test, by the normal distribution around a t-test's limit."""
    if n < 2:
        return 0.0
    surplus = np.sqrt(n) * delta - scipy.special.stdtrit(n - 1, 1 - level / 2) * sigma
    return float(scipy.special.ndtr(surplus / sigma)) if sigma > 0 else float(surplus > 0)


def _tost_passes(
    n: int, delta: float, sigma: float, margin: float, level: float, power: float, kind: Kind
) -> bool:
    """Tell whether the interval of 1 - 2 * level falls inside the margin with this power."""
    if sigma > 0:
        room = np.array([margin - delta, margin + delta]) * np.sqrt(n) / sigma
        if scipy.special.ndtr(room - scipy.special.stdtrit(n - 1, 1 - level)).sum() - 1 < power:
            return False
    if kind == "perplexity":
        return True
    rates = np.array(_gain_and_loss(delta, sigma))
    most = scipy.stats.binom.ppf((1 + power) / 2, n, rates)
    limits = clopper_pearson_upper(most, n, level) - scipy.stats.binom.ppf(0.5, n, rates[::-1]) / n
    return bool((limits < margin).all())
