"""How well numbers that need no evaluation predict the effect of repeating layers.

For each search task: rank correlations between a number of each layer (`predictors`) and what
running it twice does to the task. The number was measured on the prompts of the other search tasks;
with one search task, on prompts of documents that are left out of the effects. Blocks are ranked
among blocks of their length, because longer ones do more whatever they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.analyse.gains import Gains, differences, seen_by
from frankenlab.analyse.outcomes import Task, outcomes
from frankenlab.analyse.paired_tests import Floats, by_cluster
from frankenlab.analyse.predictors import (
    MEASURED,
    POSITION,
    PUBLISHED,
    correlation,
    predictors,
    ranks,
)
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE, parse

COLUMNS = (
    *("model", "quantization", "task", "scope", "predictor", "chosen", "probed", "fitted"),
    *("plans", "n", "correlation", "low", "high", "reliability"),
)
SCOPES = ("layers", "blocks")
# The first two are chosen or fitted on the other search tasks; the third is the effect there, which
# needs no probe.
CHOSEN, FITTED, OTHER = "chosen", "fitted", "other_effect"
# The page calls the predictors by these names, in this order.
NAMES: Mapping[str, str] = {
    CHOSEN: "best number on the other tasks",
    FITTED: "all numbers, fitted on the other tasks",
    **MEASURED,
    **PUBLISHED,
    POSITION: "position in the model alone",
    OTHER: "effect on the other tasks (evaluated)",
}
# Fewer plans are no sample.
LEAST_PLANS = 8
# Neighbours are alike, so that layers are resampled in runs of so many.
RUN = 3
RESAMPLES = 1000
SPLITS = 100
FOLDS = 5
Z95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Effects:
    """Hold the effects of running spans of layers twice on one task.

    Attributes:
        spans: (start, stop) of each.
        gains: of these plans.
        n: documents.
    """

    spans: tuple[tuple[int, int], ...]
    gains: Gains
    n: int

    @property
    def lengths(self) -> Floats:
        """Return the length of each span."""
        return np.array([float(stop - start) for start, stop in self.spans])

    def means(self, counts: Floats) -> Floats:
        """Return the effects [plans], with each cluster taken so many times."""
        found: Floats = (self.gains.values @ counts) / (self.gains.weights @ counts)
        return found

    def ranked(self, counts: Floats | None = None) -> Floats:
        """Return the ranks of the effects, with each cluster taken so many times or once."""
        once = np.ones(self.gains.values.shape[1])
        return ranks(self.means(once if counts is None else counts), self.lengths)


def prediction(
    scores: pd.DataFrame,
    layers: pd.DataFrame,
    similarity: pd.DataFrame,
    documents: pd.DataFrame,
    tasks: Mapping[str, Task],
    depths: Mapping[str, int],
    rules: Statistics,
) -> pd.DataFrame:
    """Return the rank correlations, a row for each model, search task, scope and predictor.

    Args:
        scores: of the search stage, all its rounds, at the reference quantizations. Under a race
            the documents are those that all plans of a scope saw.
        layers, similarity, documents: of the probes: see `evaluate.probe`, with columns model,
            quantization and task.
        depths: model -> its number of layers.

    Returns:
        Columns model, quantization, task, scope ("layers" or "blocks"), predictor, chosen (which
        predictor was chosen on the other tasks), probed and fitted (tasks whose prompts and whose
        effects were used), plans, n (documents of the effects), correlation with its 95 % interval
        (low, high) and reliability: the rank correlation that another sample of as many documents
        is expected to have with these effects.
    """
    scores = scores.drop_duplicates(["model", "quantization", "task", "plan", "document"])
    keys = ["model", "quantization"]
    rows: list[dict[str, Any]] = []
    for (model, quantization), own in scores.groupby(keys, sort=False, observed=True):
        where = {"model": model, "quantization": quantization}
        probe = _Probe(*(_at(table, where) for table in (layers, similarity, documents)))
        if probe.layers.empty:
            continue
        for scope in SCOPES:
            effects: dict[str, Effects] = {}
            for task, part in own.groupby("task", sort=False, observed=True):
                found = _effects(part, tasks[str(task)].metric, probe, scope, depths[model])
                if found:
                    effects[str(task)] = found
            for task in effects:
                predicted = _predicted(task, effects, probe, rules)
                rows += [where | {"task": task, "scope": scope} | row for row in predicted]
    return pd.DataFrame(rows, columns=COLUMNS)


@dataclass(frozen=True, eq=False)
class _Probe:
    """The tables of one model's probe."""

    layers: pd.DataFrame
    similarity: pd.DataFrame
    documents: pd.DataFrame

    def values(self, tasks: Sequence[str], spans: Sequence[tuple[int, int]]) -> pd.DataFrame:
        """Return the predictors of spans, as a mean over the prompts of some tasks."""
        each = [
            predictors(
                self.layers[self.layers["task"] == task],
                self.similarity[self.similarity["task"] == task],
                spans,
            )
            for task in tasks
        ]
        mean: pd.DataFrame = sum(each[1:], each[0]) / len(each)
        return mean


def _at(table: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
    return table[
        (table["model"] == where["model"]) & (table["quantization"] == where["quantization"])
    ]


def _effects(
    scores: pd.DataFrame, metric: str, probe: _Probe, scope: str, n_layers: int
) -> Effects | None:
    """Return the effects of running layers or blocks twice; None where too few plans do."""
    loops = {plan: parse(plan, n_layers).loop for plan in scores["plan"].unique()}
    spans = {
        plan: (loop[0], loop[1])
        for plan, loop in loops.items()
        if loop and loop[2] == 2 and (loop[1] - loop[0] == 1) == (scope == "layers")
    }
    if len(spans) < LEAST_PLANS:
        return None
    plans = sorted(spans, key=lambda plan: spans[plan])
    probed = probe.documents
    seen = probed.loc[probed["task"] == scores["task"].iloc[0], "document"]
    scores = scores[scores["plan"].isin([BASE, *plans]) & ~scores["document"].isin(seen)]
    if scores["plan"].nunique() <= len(plans):
        return None
    common = outcomes(scores, metric).at(np.flatnonzero(seen_by(scores, plans).all(axis=0)))
    if common.n_clusters < 2:
        return None
    differed = by_cluster(differences(common, plans), common.clusters)
    gains = Gains(differed, by_cluster(common.weights, common.clusters))
    return Effects(tuple(spans[plan] for plan in plans), gains, len(common.documents))


def _predicted(
    task: str, effects: Mapping[str, Effects], probe: _Probe, rules: Statistics
) -> list[dict[str, Any]]:
    """Return the rows of one task, which the others' prompts and effects predict."""
    own = effects[task]
    others = [name for name in effects if name != task and effects[name].spans == own.spans]
    probed = others or [task]
    values = probe.values(probed, own.spans)
    # A number that is nowhere different, or somewhere none, ranks nothing.
    usable = [
        name for name in values if np.isfinite(values[name]).all() and values[name].nunique() > 1
    ]
    ranked = {name: ranks(values[name].to_numpy(float), own.lengths) for name in usable}
    numbers = [name for name in usable if name != POSITION]
    chosen = ""
    if others and numbers:
        matrix = np.array([ranked[name] for name in numbers])
        goal = np.mean([effects[name].ranked() for name in others], axis=0)
        found = correlation(matrix, goal)
        best = int(np.nanargmax(np.abs(found)))
        chosen = numbers[best]
        starts = np.array([start for start, _ in own.spans])
        ranked[CHOSEN] = np.sign(found[best]) * matrix[best]
        ranked[FITTED] = ranks(_fitted(matrix.T, goal, starts), own.lengths)
        ranked[OTHER] = ranks(goal, own.lengths)
    names = list(ranked)
    estimates = correlation(np.array([ranked[name] for name in names]), own.ranked())
    lows, highs = _intervals(np.array([ranked[name] for name in names]), own, estimates, rules)
    reliability = _reliability(own, rules)
    return [
        {
            "predictor": name,
            "chosen": chosen if name == CHOSEN else "",
            "probed": "" if name in (POSITION, OTHER) else ", ".join(probed),
            "fitted": ", ".join(others) if name in (CHOSEN, FITTED, OTHER) else "",
            "plans": len(own.spans),
            "n": own.n,
            "correlation": estimate,
            "low": low,
            "high": high,
            "reliability": reliability,
        }
        for name, estimate, low, high in zip(names, estimates, lows, highs, strict=True)
    ]


def _fitted(numbers: Floats, goal: Floats, starts: Floats) -> Floats:
    """Return what a ridge regression on ranks [plans, predictors] predicts for the plans of each
    part of the model, fitted to those of the other parts.

    Of what is fitted nothing is known of these plans but their numbers. The penalty is as large as
    the sum of squares of each number, which halves the weight of one number alone.
    """
    found = np.zeros(len(goal))
    scale = np.sqrt((numbers**2).mean(axis=0))
    scaled = numbers / np.where(scale > 0, scale, 1.0)
    places = np.unique(starts)
    for part in np.array_split(places, FOLDS):
        held = np.isin(starts, part)
        x, y = scaled[~held], goal[~held]
        weights = np.linalg.solve(x.T @ x + len(x) * np.eye(x.shape[1]), x.T @ y)
        found[held] = scaled[held] @ weights
    return found


def _intervals(
    ranked: Floats, own: Effects, estimates: Floats, rules: Statistics
) -> tuple[Floats, Floats]:
    """Return 95 % limits of correlations, from a bootstrap over layers and documents together.

    Layers are drawn in runs of neighbours (a circular block bootstrap: Politis and Romano 1992),
    and with a layer come all blocks that begin with it; documents are drawn by their clusters. The
    spread of the draws is taken on Fisher's scale around the estimate: the draws themselves are
    nearer to 0, because drawing documents again adds their noise a second time.
    """
    random = np.random.default_rng(rules.seed)
    starts = np.array([start for start, _ in own.spans])
    lengths, places = own.lengths, np.unique(starts)
    members = [np.flatnonzero(starts == place) for place in places]
    runs = -(-len(places) // RUN)
    draws = np.full((min(rules.resamples, RESAMPLES), len(ranked)), np.nan)
    clusters = own.gains.values.shape[1]
    for draw in draws:
        first = random.integers(len(places), size=runs)[:, None] + np.arange(RUN)
        drawn = first.ravel()[: len(places)] % len(places)
        plans = np.concatenate([members[place] for place in drawn])
        counts = np.bincount(random.integers(clusters, size=clusters), minlength=clusters)
        again = own.means(counts.astype(float))[plans]
        both = ranks(np.vstack([ranked[:, plans], again]), lengths[plans])
        draw[:] = correlation(both[:-1], both[-1])
    most = 1 - 1e-9
    spread = np.nanstd(np.arctanh(np.clip(draws, -most, most)), axis=0)
    middle = np.arctanh(np.clip(estimates, -most, most))
    return np.tanh(middle - Z95 * spread), np.tanh(middle + Z95 * spread)


def _reliability(own: Effects, rules: Statistics) -> float:
    """Return the correlation expected between the effects and those on as many other documents.

    It is the mean over random halves of the documents, stepped up to all of them (Spearman 1910,
    Brown 1910). No predictor can be expected to correlate with the effects by more than its root.
    """
    random = np.random.default_rng(rules.seed)
    clusters = own.gains.values.shape[1]
    found = []
    for _ in range(SPLITS):
        half = np.zeros(clusters)
        half[random.permutation(clusters)[: clusters // 2]] = 1
        found.append(correlation(own.ranked(half), own.ranked(1 - half)))
    r = max(0.0, float(np.nanmean(found)))
    return 2 * r / (1 + r)
