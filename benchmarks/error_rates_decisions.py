"""What the workflow would decide and claim: the only module here that calls the analysis.

Each function stands for a step of the workflow, and takes arrays instead of score tables, so that
the intervals of many experiments are computed at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from error_rates_worlds import QUANTIZATIONS, Floats, Grid

from frankenlab.analyse.comparisons import compare
from frankenlab.analyse.outcomes import Outcomes
from frankenlab.analyse.paired_tests import Kind, by_cluster, holm, standard_error
from frankenlab.analyse.race_rule import Rule, Sample, stand
from frankenlab.analyse.selection import freeze, shortlist
from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.verdicts import verdict

RULES = Statistics()


def race(
    differences: Sequence[Floats], clusters: Sequence[np.ndarray], rounds: Sequence[int], keep: int
) -> tuple[Floats, np.ndarray]:
    """Return how many documents of each task each plan saw, [tasks, plans], and which were
    dropped; without rounds no plan is.

    Args:
        differences: for each search task [plans, documents].
        keep: plans that stay, the base among them.
    """
    seen = np.repeat([[float(d.shape[1])] for d in differences], len(differences[0]), axis=1)
    # The base is in the race; its differences to itself are 0.
    scores = [np.vstack((np.zeros(d.shape[1]), d)) for d in differences]
    left, leaders = np.arange(len(scores[0])), [0]
    rule = Rule(error=0.05, margin=1.0, decisions=max(1, len(rounds)), keep=keep)
    for end in rounds:
        samples = [
            Sample(
                by_cluster(s[left, :end], c[:end]),
                by_cluster(np.ones(min(end, s.shape[1])), c[:end]),
                len(np.unique(c)),
            )
            for s, c in zip(scores, clusters, strict=True)
        ]
        standing = stand(samples, rule, np.flatnonzero(np.isin(left, leaders)))
        leaders.append(int(left[standing.leader]))
        out = left[~standing.kept]
        for task, d in enumerate(differences):
            seen[task, out - 1] = min(end, d.shape[1])
        left = left[standing.kept]
    dropped = ~np.isin(np.arange(1, len(scores[0])), left)
    return seen, dropped


def stage_table(
    known: Grid,
    plans: np.ndarray,
    differences: Sequence[Floats],
    clusters: Sequence[np.ndarray],
    seen: Floats | None = None,
    dropped: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return what `comparisons` holds of a stage, as far as shortlist and freeze read it.

    Args:
        plans: numbers in the grid of the rows of `differences`.
        seen: documents of each task and plan; all where it is None.
        dropped: [plans]; none where it is None.
    """
    rows = []
    for task, (values, labels) in enumerate(zip(differences, clusters, strict=True)):
        effect, error = np.empty(len(values)), np.empty(len(values))
        counts = np.full(len(values), values.shape[1]) if seen is None else seen[task].astype(int)
        for count in np.unique(counts):
            same = counts == count
            summed = by_cluster(values[same, :count], labels[:count])
            weights = by_cluster(np.ones(count), labels[:count])
            effect[same] = 100 * summed.sum(axis=1) / weights.sum()
            error[same] = 100 * standard_error(summed, weights)
        rows.append(
            pd.DataFrame(
                {
                    "role": "search",
                    "task": task,
                    "number": plans,
                    "plan": [known.plans[p].text for p in plans],
                    "group": "layer",
                    "depth": [known.plans[p].depth for p in plans],
                    "effect": effect,
                    "standard_error": error,
                    "dropped": np.nan if dropped is None else np.where(dropped, 1.0, np.nan),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def shortlisted(table: pd.DataFrame, count: int) -> list[str]:
    """Return the plans that go from search to select."""
    return [row["plan"] for row in shortlist(table, count)]


def frozen(known: Grid, table: pd.DataFrame) -> str:
    """Return the frozen plan."""
    return freeze(table, "model", known.plans[0].n_layers, "none", 0, RULES.seed)["frozen"]


@dataclass(frozen=True)
class Contrast:
    """One comparison that the page makes of claims about one task.

    Attributes:
        family: what it is corrected together with.
        coefficients: [bitrates, plans]; the frozen plan comes first, its controls after it.
        signs: whether a document moves by one step at most.
    """

    family: str
    quantization: str
    plan: str
    coefficients: Floats
    signs: bool = True


def contrasts(role: str, controls: int) -> list[Contrast]:
    """Return what is compared on a task of this role: each plan with the base, the frozen plan with
    each control, and each plan at fewer bits with itself."""
    names = ["frozen", *(f"control {number}" for number in range(1, controls + 1))]
    found = []
    for q, quantization in enumerate(QUANTIZATIONS):
        for p, plan in enumerate(names):
            own = np.zeros((len(QUANTIZATIONS), len(names)))
            own[q, p] = 1
            found.append(Contrast("verdicts", quantization, plan, own))
            if p:
                against = -own
                against[q, 0] = 1
                found.append(Contrast("controls", quantization, plan, against))
            if q:
                bits = own.copy()
                bits[0, p] = -1
                found.append(Contrast("bits", quantization, plan, bits, signs=False))
    return found


def compared(
    differences: Floats, weights: Floats, labels: np.ndarray, kind: Kind, signs: bool
) -> pd.DataFrame:
    """Return tests and intervals of many comparisons [comparisons, documents] of one task."""
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
    return compare(differences, measured, RULES, signs).assign(kind=kind)


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the verdict of each comparison of ONE experiment, as the page has it, and the limits of
    the interval at the level of the verdict where there is one.

    Takes columns task, role, family, quantization, plan and what `compared` gives.
    """
    found = []
    for family, own in rows.groupby("family"):
        if family == "controls":
            # The page counts 95 % intervals that exclude 0.
            claims: list[Any] = [
                "improved" if low > 0 else "harmed" if high < 0 else "inconclusive"
                for low, high in zip(own["low"], own["high"], strict=True)
            ]
        else:
            claims = [
                verdict(effect, p, low, high, RULES)
                for effect, p, low, high in zip(
                    own["effect"], holm(own["p"]), own["low90"], own["high90"], strict=True
                )
            ]
        found.append(own.assign(verdict=claims, verdict_low=np.nan, verdict_high=np.nan))
    return pd.concat(found)
