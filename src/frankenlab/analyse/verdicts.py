"""What may be claimed of the confirmed plans, and how many documents a claim would need."""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special, stats

from frankenlab.analyse.paired_tests import Kind, clopper_pearson_upper, holm
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE

Verdict = Literal["improved", "harmed", "equivalent", "inconclusive"]

MOST_DOCUMENTS = 10_000_000
COLUMNS = (
    *("model", "quantization", "task", "role", "metric", "kind", "unit", "plan", "group"),
    *("depth", "relative_depth", "n", "value", "base_value", "effect", "low", "high"),
    *("low90", "high90", "up", "down", "p", "p_holm", "margin", "verdict", "documents_needed"),
    *("precision", "hardware", "mixed"),
)


def verdicts(table: pd.DataFrame, frozen: Mapping[str, str], rules: Statistics) -> pd.DataFrame:
    """Return the verdicts on the confirm documents, corrected over all of them (Holm).

    Args:
        table: comparisons of the confirm stage, all models.
        frozen: model -> frozen plan; every other plan but the base is a control.
    """
    rows = table[(table["stage"] == "confirm") & (table["plan"] != BASE)].copy()
    rows["group"] = np.where(rows["plan"] == rows["model"].map(frozen), "frozen", "control")
    rows["p_holm"] = holm(rows["p"])
    rows["margin"] = rules.margin
    records = rows.to_dict("records")
    rows["verdict"] = [
        verdict(r["effect"], r["p_holm"], r["low90"], r["high90"], rules) for r in records
    ]
    needed = [
        documents_needed(
            r["effect"],
            r["standard_error"] * math.sqrt(r["n_clusters"]),
            kind=r["kind"],
            margin=rules.margin,
            alpha=rules.alpha / len(rows),
        )
        for r in records
    ]
    rows["documents_needed"] = pd.array(needed, dtype="Int64")
    return rows[list(COLUMNS)].reset_index(drop=True)


def verdict(
    effect: float, p_corrected: float, low90: float, high90: float, rules: Statistics
) -> Verdict:
    """Return what may be claimed of one plan on one task.

    A significant change (p_corrected < alpha) is named by its sign even where it is smaller than
    the margin. Otherwise "equivalent" needs evidence: two one-sided tests at 0.05 (Schuirmann
    1987), that is, the 90 % interval lies inside +-margin. What is left is "inconclusive". NaN is
    evidence of nothing.
    """
    if p_corrected < rules.alpha and effect != 0:
        return "improved" if effect > 0 else "harmed"
    return "equivalent" if -rules.margin < low90 and high90 < rules.margin else "inconclusive"


def documents_needed(
    effect: float,
    deviation: float,
    *,
    kind: Kind,
    margin: float,
    alpha: float,
    power: float = 0.80,
) -> int | None:
    """Return at how many documents a verdict would be reached if effect and deviation were true.

    It is the smaller of the numbers for the test of a difference at `alpha` and, if the effect is
    inside the margin, for equivalence at 0.05. The power of exact tests is saw-toothed: the number
    is right to within a tooth. Clustered documents are counted in clusters. None if ten million are
    too few.

    Args:
        effect: in points or log-percent.
        deviation: `paired_tests.cluster_deviation`, in the effect's unit.
        kind: "mean" plans for exact McNemar, "perplexity" for the sign-flip test.
        margin: in the effect's unit.
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
    """Find the n from 2 to MOST_DOCUMENTS where `enough` turns true, by doubling and bisection."""
    low, high = 1, 2
    while not enough(high):
        if high == MOST_DOCUMENTS:
            return None
        low, high = high, min(2 * high, MOST_DOCUMENTS)
    return low + 1 + bisect_left(range(low + 1, high), True, key=enough)


def _gain_and_loss(delta: float, sigma: float) -> tuple[float, float]:
    """Return the probabilities of a gain and a loss that have this mean and deviation."""
    discordance = min(1.0, max(delta, sigma**2 + delta**2))
    return (discordance + delta) / 2, (discordance - delta) / 2


def _mcnemar_power(n: int, delta: float, sigma: float, alpha: float) -> float:
    """Return the unconditional power: the conditional one, averaged over the number of discordant
    documents."""
    gain, loss = _gain_and_loss(delta, sigma)
    rate = gain + loss
    centre, spread = n * rate, 8 * np.sqrt(n * rate) + 8
    counts = np.arange(max(0, int(centre - spread)), min(n, int(centre + spread)) + 1)
    critical = stats.binom.ppf(alpha / 2, counts, 0.5) - 1
    rejects = stats.binom.cdf(critical, counts, loss / rate)
    return float(stats.binom.pmf(counts, n, rate) @ rejects)


def _sign_flip_power(n: int, delta: float, sigma: float, alpha: float) -> float:
    """Return the power by a normal approximation; flips give the null variance
    sigma**2 + delta**2."""
    if 2.0 ** (1 - n) >= alpha:
        return 0.0
    surplus = np.sqrt(n) * delta - special.ndtri(1 - alpha / 2) * np.hypot(sigma, delta)
    return float(special.ndtr(surplus / sigma)) if sigma > 0 else float(surplus > 0)


def _tost_passes(
    n: int, delta: float, sigma: float, margin: float, power: float, kind: Kind
) -> bool:
    """Tell whether the 90 % interval with its exact limits falls inside the margin with this
    power."""
    if sigma > 0:
        room = np.array([margin - delta, margin + delta]) * np.sqrt(n) / sigma
        if special.ndtr(room - special.stdtrit(n - 1, 0.95)).sum() - 1 < power:
            return False
    if kind == "perplexity":
        return True
    rates = np.array(_gain_and_loss(delta, sigma))
    most = stats.binom.ppf((1 + power) / 2, n, rates)
    limits = clopper_pearson_upper(most, n, 0.05) - stats.binom.ppf(0.5, n, rates[::-1]) / n
    return bool((limits < margin).all())
