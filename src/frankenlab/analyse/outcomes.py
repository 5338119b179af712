"""Rows of scores -> arrays in which higher is better, whatever the metric."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd

from frankenlab.analyse.paired_tests import Kind
from frankenlab.io.errors import UserError

Key = TypeVar("Key")

UNITS: dict[Kind, str] = {"mean": "points", "perplexity": "log-percent"}


class Task(Protocol):
    """What the analyses need to know of a task; `tasks.TaskSettings` has it."""

    @property
    def metric(self) -> str: ...
    @property
    def role(self) -> str: ...


@dataclass(frozen=True)
class Outcomes:
    """The scores of several plans on the same documents.

    Attributes:
        plans: [plans] canonical texts.
        documents: [documents] numbers in lm-eval's order.
        scores: [plans, documents]; higher is better: the metric itself times `sign`, or minus the
            negative log-likelihood.
        weights: [documents]: 1, or the words, bytes or tokens that a log-likelihood is over; 0 for
            a text without any.
        clusters: [documents]: label of what is resampled as one.
        hardware: [plans, documents]: what computed each score.
        sign: of a mean: -1 where lower values of the metric are better, else 1.
    """

    kind: Kind
    plans: tuple[str, ...]
    documents: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    clusters: np.ndarray
    hardware: np.ndarray
    sign: float

    @property
    def n_clusters(self) -> int:
        return len(np.unique(self.clusters))

    def row(self, plan: str) -> np.ndarray:
        """Return the scores [documents] of one plan."""
        return self.scores[self.plans.index(plan)]

    def ran_on(self, plan: str) -> np.ndarray:
        """Return the hardware [documents] of one plan."""
        return self.hardware[self.plans.index(plan)]

    def at(self, places: np.ndarray) -> "Outcomes":
        """Return the outcomes on some of the documents, which are given by their places."""
        fields = ("documents", "weights", "clusters")
        kept = {name: getattr(self, name)[places] for name in fields}
        grids = {name: getattr(self, name)[:, places] for name in ("scores", "hardware")}
        return replace(self, **grids, **kept)


def outcomes(scores: pd.DataFrame, metric: str) -> Outcomes:
    """Return the primary metric of one task's scores as arrays, turned so that higher is better.

    Which metrics are turned is in the rows: see `EvaluationTask.metrics`.

    Raises:
        UserError: the metric is an average over words, bytes or tokens, of which no text has any.
    """
    # Rows of several tasks were below each other: a column may be another task's.
    weighted = _first(scores, f"{metric}_weight", None) is not None
    table = scores.pivot(index="plan", columns="document", values=metric)
    documents = scores.drop_duplicates("document").set_index("document").loc[table.columns]
    values = table.to_numpy(dtype=float)
    weights = np.ones(values.shape[1])
    sign = float(_first(scores, f"{metric}_sign", 1.0))
    if weighted:
        weights = documents[f"{metric}_weight"].to_numpy(dtype=float)
        if not weights.any():
            raise UserError(
                f'metric "{metric}": all {len(weights)} texts are empty, so there is nothing to '
                "average over; take another metric or other documents"
            )
        rate = values * math.log(2) if metric.startswith("bits") else np.log(values)
        # An empty text has no bytes, but what is scored of it counts: see `EvaluationTask.metrics`.
        values = -rate * np.where(weights == 0, 1.0, weights)
    else:
        values = sign * values
    return Outcomes(
        kind="perplexity" if weighted else "mean",
        plans=tuple(table.index),
        documents=table.columns.to_numpy(),
        scores=values,
        weights=weights,
        clusters=documents["cluster"].to_numpy(dtype=str),
        hardware=scores.astype({"hardware": str})
        .pivot(index="plan", columns="document", values="hardware")
        .to_numpy(),
        sign=sign,
    )


def shared(measured: Mapping[Key, Outcomes]) -> dict[Key, Outcomes]:
    """Return one task's outcomes on the documents that all of them are on."""
    common = sorted(set.intersection(*(set(found.documents) for found in measured.values())))
    return {
        key: found.at(np.searchsorted(found.documents, common)) for key, found in measured.items()
    }


def _first(scores: pd.DataFrame, column: str, default: Any) -> Any:
    """Return the first value of a column; the default where it is missing or empty."""
    values = scores[column].dropna() if column in scores else pd.Series()
    return values.iloc[0] if len(values) else default


def metric_value(scores: np.ndarray, measured: Outcomes, metric: str) -> float:
    """Return the metric of one plan's scores [documents], in its own unit."""
    rate = float(scores.sum() / measured.weights.sum())
    if measured.kind == "mean":
        return measured.sign * rate
    return -rate / math.log(2) if metric.startswith("bits") else math.exp(-rate)
