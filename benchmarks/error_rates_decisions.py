"""Decide and claim what the workflow would. No other module here calls the analysis.

Each function stands for a step of the workflow, and takes arrays instead of score tables, so that
the intervals of many experiments are computed at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from error_rates_worlds import QUANTIZATIONS, Floats, Grid
from numpy.typing import NDArray

from frankenlab.analyse.comparisons import paired
from frankenlab.analyse.error_budget import SEARCH_TESTS, Family, level
from frankenlab.analyse.gains import Gains, mean_gains
from frankenlab.analyse.outcomes import Outcomes
from frankenlab.analyse.paired_tests import Kind, by_cluster, standard_error
from frankenlab.analyse.race_rule import Rule, Sample, stand
from frankenlab.analyse.search_test import Found, max_t
from frankenlab.analyse.selection import choose, shortlist
from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.shrinkage import Z95, measure, shrunken
from frankenlab.analyse.verdicts import judge

Booleans = NDArray[np.bool_]
Labels = NDArray[np.int64]

RULES = Statistics()
RACE_ERROR, RACE_MARGIN = 0.1, 1.0


def race(
    differences: Sequence[Floats], clusters: Sequence[Labels], rounds: Sequence[int], keep: int
) -> NDArray[np.int64]:
    """Return how many documents of each task each plan saw before it was dropped, [tasks, plans].

    Args:
        differences: for each search task [plans, documents].
        rounds: documents of a task after which plans are dropped; without any none is.
        keep: plans that stay, the base among them.
    """
    sizes = [d.shape[1] for d in differences]
    seen = np.repeat(np.array(sizes)[:, None], len(differences[0]), axis=1)
    # The base is in the race; its differences to itself are 0.
    scores = [np.vstack((np.zeros(d.shape[1]), d)) for d in differences]
    left, leaders = np.arange(len(scores[0])), [0]
    rule = Rule(RACE_ERROR, RACE_MARGIN, decisions=max(1, len(rounds)), keep=keep)
    for end in rounds:
        samples = [
            Sample(
                by_cluster(s[left, :end], c[:end]),
                by_cluster(np.ones(len(c[:end])), c[:end]),
                len(np.unique(c)),
            )
            for s, c in zip(scores, clusters, strict=True)
        ]
        standing = stand(samples, rule, np.flatnonzero(np.isin(left, leaders)))
        leaders.append(int(left[standing.leader]))
        for task, size in enumerate(sizes):
            seen[task, left[~standing.kept] - 1] = min(end, size)
        left = left[standing.kept]
    return seen


def gains_of(differences: Floats, labels: Labels, seen: NDArray[np.int64]) -> Gains:
    """Return what plans gained on one task, from differences [plans, documents] and how many of
    the documents each plan saw."""
    ran = np.arange(differences.shape[1]) < seen[:, None]
    values = by_cluster(np.where(ran, differences, 0.0), labels)
    if ran.all():
        return Gains(values, by_cluster(np.ones(len(labels)), labels))
    return Gains(values, by_cluster(1.0 * ran, labels), by_cluster(1.0 * ran, labels) > 0)


def shortlisted(
    known: Grid,
    differences: Sequence[Floats],
    clusters: Sequence[Labels],
    ran: Booleans,
    count: int,
) -> NDArray[np.int64]:
    """Return the numbers of the plans that go from search to select."""
    plans = np.flatnonzero(ran)
    tables = []
    for values, labels in zip(differences, clusters, strict=True):
        summed, weights = (
            by_cluster(values[plans], labels),
            by_cluster(np.ones(len(labels)), labels),
        )
        tables.append(
            pd.DataFrame(
                {
                    "role": "search",
                    "plan": [known.plans[p].text for p in plans],
                    "group": "layer",
                    "depth": [known.plans[p].depth for p in plans],
                    "effect": 100 * summed.sum(axis=1) / weights.sum(),
                    "standard_error": 100 * standard_error(summed, weights),
                    "dropped": np.nan,
                }
            )
        )
    texts = [plan.text for plan in known.plans]
    return np.array([texts.index(row["plan"]) for row in shortlist(pd.concat(tables), count)])


def frozen(known: Grid, short: NDArray[np.int64], both: Sequence[Gains]) -> int:
    """Return the place in the shortlist of the frozen plan.

    Args:
        both: the gains of the shortlist on the documents of search and select together.
    """
    effects, errors = mean_gains(both)
    return int(choose(effects, errors, np.array([known.plans[p].depth for p in short])))


def beats_base(tested: Sequence[Gains], ran: Booleans) -> tuple[Found, bool]:
    """Return the test whether any of these plans beats the base, and whether it says so.

    There is one over the whole grid on the search documents, and one over the shortlist on the
    select documents.
    """
    at = level(RULES.alpha, "search", SEARCH_TESTS)
    found = max_t(tested, ran, level=at, seed=RULES.seed, resamples=RULES.resamples)
    return found, found.p <= at


def shrunken_effect(
    searched: Sequence[Gains], selected: Sequence[Gains], short: NDArray[np.int64], plan: int
) -> tuple[float, float]:
    """Return the shrunken mean effect of a plan after select, and half the width of its 95 %
    interval."""
    count = len(searched[0].values)
    stages = [measure(searched, range(count)), measure(selected, short.tolist())]
    mean, deviation = shrunken(stages, count)
    return float(mean[plan]), float(Z95 * deviation[plan])


@dataclass(frozen=True)
class Contrast:
    """One comparison that the page makes claims about.

    Attributes:
        family: whose share of the error budget it has a part of.
        coefficients: [bitrates, plans]; the frozen plan comes first, its controls after it.
    """

    family: Family
    quantization: str
    coefficients: Floats


def contrasts(role: str, controls: int) -> list[Contrast]:
    """Return what is compared on a task of this role: the frozen plan with the base, with the mean
    of its controls (they run at the reference, on search tasks), and with itself at fewer bits."""
    shape = (len(QUANTIZATIONS), 1 + controls)
    found = []
    for q, quantization in enumerate(QUANTIZATIONS):
        own = np.zeros(shape)
        own[q, 0] = 1
        found.append(Contrast("verdicts", quantization, own))
        if q:
            bits = own.copy()
            bits[0, 0] = -1
            found.append(Contrast("bits", quantization, bits))
        elif role == "search" and controls:
            against = own.copy()
            against[q, 1:] = -1 / controls
            found.append(Contrast("controls", quantization, against))
    return found


def levels(roles: Sequence[str], controls: int) -> dict[Family, float]:
    """Return the level of each test of a family, from the roles of all tasks."""
    families = [c.family for role in roles for c in contrasts(role, controls)]
    return {family: level(RULES.alpha, family, families.count(family)) for family in families}


def judged(
    differences: Floats, weights: Floats, labels: Labels, kind: Kind, family: Family, at: float
) -> pd.DataFrame:
    """Return effects, intervals and claims of many comparisons [comparisons, documents] of one
    task, at this level."""
    measured = Outcomes(
        kind=kind,
        plans=(),
        documents=np.arange(weights.size),
        scores=np.empty((0, weights.size)),
        weights=weights,
        clusters=labels,
        hardware=np.empty((0, weights.size)),
        sign=1.0,
    )
    found = paired(differences, measured, RULES)
    low, high = found.interval(0.95)
    shown = judge(found, at, RULES.margin)
    claims = shown.verdict
    if family == "controls":  # The page says better, worse or inconclusive of them.
        claims = np.where(claims == "equivalent", "inconclusive", claims)
    return pd.DataFrame(
        {
            "kind": kind,
            "effect": found.effect,
            "low": low,
            "high": high,
            "verdict_low": shown.low,
            "verdict_high": shown.high,
            "verdict": claims,
        }
    )
