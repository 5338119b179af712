"""Hold what plans gain over their own base, to compare it between models document by document.

Which documents a stage has does not depend on the model, so that two models see the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from frankenlab.analyse.comparisons import paired
from frankenlab.analyse.gains import differences, seen_by
from frankenlab.analyse.outcomes import UNITS, Outcomes, Task, outcomes
from frankenlab.analyse.paired_effects import PairedEffects
from frankenlab.analyse.paired_tests import Floats
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE


@dataclass(frozen=True, eq=False)
class Gained:
    """The mean gain of some plans over their base on one task: `values` [documents], on those that
    all of the plans saw."""

    values: Floats
    measured: Outcomes

    def paired(self, rules: Statistics) -> PairedEffects:
        """Return the effect."""
        return paired(self.values[None], self.measured, rules)

    def minus(self, other: "Gained", rules: Statistics) -> tuple[int, PairedEffects] | None:
        """Return on how many documents both were measured, and the difference of differences.

        None where there are none, or where documents weigh differently, as numbers of tokens do.
        """
        _, here, there = np.intersect1d(
            self.measured.documents, other.measured.documents, return_indices=True
        )
        at, weights = self.measured.at(here), other.measured.weights[there]
        if not len(here) or not np.array_equal(at.weights, weights):
            return None
        return len(here), paired((self.values[here] - other.values[there])[None], at, rules)


@dataclass(frozen=True, eq=False)
class Cell:
    """The scores of one model at one quantization on one task in one stage."""

    scores: pd.DataFrame
    task: Task

    @cached_property
    def measured(self) -> Outcomes:
        return outcomes(self.scores, self.task.metric)

    @cached_property
    def _gains(self) -> tuple[dict[str, int], Floats, NDArray[np.bool_]]:
        plans = [plan for plan in self.measured.plans if plan != BASE]
        gained, seen = differences(self.measured, plans), seen_by(self.scores, plans)
        return {plan: number for number, plan in enumerate(plans)}, gained, seen

    def gained(self, plans: Sequence[str]) -> Gained | None:
        """Return what some plans gained on average; None where one of them did not run."""
        places, gained, seen = self._gains
        if not set(plans) <= places.keys():
            return None
        rows = [places[plan] for plan in plans]
        known = np.flatnonzero(seen[rows].all(axis=0))
        return Gained(gained[rows][:, known].mean(axis=0), self.measured.at(known))

    @property
    def facts(self) -> dict[str, Any]:
        """Return what its rows of a table have in common."""
        first = self.scores.iloc[0]
        kind = self.measured.kind
        return {
            **{name: first[name] for name in ("model", "quantization", "stage", "task")},
            "role": self.task.role,
            "metric": self.task.metric,
            "kind": kind,
            "unit": UNITS[kind],
        }
