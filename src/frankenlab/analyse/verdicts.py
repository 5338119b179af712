"""What may be claimed of the confirmed plans, and what would be needed to claim more."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from frankenlab.analyse import error_budget
from frankenlab.analyse.comparisons import paired
from frankenlab.analyse.outcomes import Task, outcomes
from frankenlab.analyse.paired_effects import PairedEffects
from frankenlab.analyse.paired_tests import Floats, Kind, dominance
from frankenlab.analyse.power import documents_needed, smallest_detectable
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE

Verdict = Literal["improved", "harmed", "equivalent", "inconclusive"]

# From this share of an effect's variance on, one cluster of documents decides too much alone.
DOMINANT = 0.25
COLUMNS = (
    *("model", "quantization", "task", "role", "metric", "kind", "unit", "plan", "group"),
    *("depth", "relative_depth", "n", "n_clusters", "available", "value", "base_value", "effect"),
    *("low", "high", "verdict_low", "verdict_high", "equivalence_low", "equivalence_high"),
    *("up", "down", "p", "p_corrected", "level", "margin", "verdict", "smallest_detectable"),
    *("documents_needed", "dominance", "precision", "hardware", "mixed"),
)


@dataclass(frozen=True, eq=False)
class Judged:
    """What several comparisons show at one level: limits and verdicts [comparisons].

    Attributes:
        low, high: limits of the interval of 1 - level. A change is claimed where it excludes 0.
        equivalence_low, equivalence_high: those of 1 - 2 * level. It lies inside the margin where
            two one-sided tests at the level (Schuirmann 1987) show equivalence.
        verdict: a `Verdict` each.
    """

    low: Floats
    high: Floats
    equivalence_low: Floats
    equivalence_high: Floats
    verdict: np.ndarray


def judge(found: PairedEffects, level: float, margin: float) -> Judged:
    """Return what may be claimed of each comparison at this level.

    A change is named by its sign even where it is smaller than the margin. "Equivalent" needs
    evidence of its own; what is left is "inconclusive". At most one of the two claims of a test
    can be false, so that the level covers both. NaN is evidence of nothing.
    """
    low, high = found.interval(1 - level)
    inner_low, inner_high = found.interval(1 - 2 * level)
    changed = found.p <= level
    verdict = np.select(
        [
            changed & (low > 0),
            changed & (high < 0),
            (inner_low > -margin) & (inner_high < margin),
        ],
        ["improved", "harmed", "equivalent"],
        "inconclusive",
    )
    return Judged(low, high, inner_low, inner_high, verdict)


def verdicts(
    compared: pd.DataFrame,
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    frozen: Mapping[str, str],
    rules: Statistics,
) -> pd.DataFrame:
    """Return the confirmed plans against the base: the frozen plans with verdicts, which share
    one budget of error, and then the controls, of which nothing is claimed.

    Args:
        compared: comparisons of the confirm stage, all models.
        scores: of the confirm stage, all models.
        tasks: task -> its settings.
        frozen: model -> frozen plan; every other plan but the base is a control.
    """
    rows = compared[(compared["stage"] == "confirm") & (compared["plan"] != BASE)]
    is_frozen = rows["plan"] == rows["model"].map(frozen)
    rows = rows.assign(group=np.where(is_frozen, "frozen", "control"))
    level = error_budget.level(rules.alpha, "verdicts", int(is_frozen.sum()))
    cell = ["model", "quantization", "task"]
    measured = {
        key: outcomes(own, tasks[key[2]].metric)
        for key, own in scores[scores["stage"] == "confirm"].groupby(cell, observed=True)
    }
    judged = []
    for key, own in rows.groupby(cell, sort=False, observed=True):
        at = measured[key]
        differences = np.array([at.row(plan) - at.row(BASE) for plan in own["plan"]])
        found = paired(differences, at, rules, error_budget.resamples(rules.resamples, level))
        shown = judge(found, level, rules.margin)
        judged.append(
            pd.DataFrame(
                {
                    "p": found.p,
                    "verdict_low": shown.low,
                    "verdict_high": shown.high,
                    "equivalence_low": shown.equivalence_low,
                    "equivalence_high": shown.equivalence_high,
                    "verdict": shown.verdict,
                    # Where documents move by one step or not, a large share means few flips, which
                    # the exact test allows for.
                    "dominance": dominance(found.differences, found.weights)
                    if at.kind == "perplexity"
                    else np.nan,
                },
                index=own.index,
            )
        )
    made = rows.drop(columns="p").join(pd.concat(judged))
    made = made.assign(level=level, margin=rules.margin)
    made["p_corrected"] = error_budget.corrected(made["p"], rules.alpha, level)
    plans = [_planned(row, rules.margin, level) for row in made.to_dict("records")]
    made["documents_needed"] = pd.array([needed for needed, _ in plans], dtype="Int64")
    made["smallest_detectable"] = np.array([effect for _, effect in plans], dtype=float)
    claimed = ["p_corrected", "verdict", "documents_needed", "smallest_detectable"]
    made[claimed] = made[claimed].where(made["group"] == "frozen")
    made = made.sort_values("group", ascending=False, kind="stable")
    return made[list(COLUMNS)].reset_index(drop=True)


def _planned(row: Mapping[str, Any], margin: float, level: float) -> tuple[int | None, Any]:
    """Return the documents that a row's verdict needs, and the smallest effect that it shows."""
    deviation = row["standard_error"] * math.sqrt(row["n_clusters"])
    single = row["n"] == row["n_clusters"]
    needed = documents_needed(
        row["effect"], deviation, kind=row["kind"], margin=margin, level=level
    )
    # Clusters have no discordant pairs to count.
    kind: Kind = row["kind"] if single else "perplexity"
    return needed, smallest_detectable(row["n_clusters"], deviation, kind=kind, level=level)
