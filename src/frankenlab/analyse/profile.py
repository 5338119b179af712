"""Measure where in a model repeating pays: its effect place by place, as a profile over the depth.

All places of a profile are repeated alike: as many layers, as many times, at the same scale. Of all
ways that a grid repeats, the profile shows the one with the most plans, so that no effect chooses.
Parts of a layer (block, attention, MLP) that were repeated alike have a profile each, and profiles
of their paired differences. The places are those that the search tried; this is exploration.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import scipy

from frankenlab.analyse.comparisons import compare, paired
from frankenlab.analyse.gains import Gains, differences, seen_by
from frankenlab.analyse.outcomes import UNITS, Outcomes, Task, outcomes
from frankenlab.analyse.paired_effects import PairedEffects
from frankenlab.analyse.paired_tests import Floats
from frankenlab.analyse.search_test import critical, flips, largest
from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.shrinkage import Z95, limits, measure, shrunken
from frankenlab.plans.plan import BASE, Change, parse
from frankenlab.plans.steps import PARTS

# These columns tell one profile from another.
WHOSE = ("model", "quantization", "task", "metric", "kind", "unit", "part", "against")
COLUMNS = (
    *WHOSE,
    *("plan", "start", "stop", "times", "scale", "in_place", "depth", "relative_depth", "position"),
    *("n", "documents", "effect", "low", "high", "band_low", "band_high"),
    *("shrunken", "shrunken_low", "shrunken_high"),
)
SHAPE_COLUMNS = (*WHOSE, "measure", "other", "places", "n", "estimate", "low", "high")
# Fewer places are no profile.
LEAST_PLACES = 4
# Random halves that a reliability is the mean of.
SPLITS = 200
# The variance of a rank correlation is this many times that of Pearson's correlation (Fieller,
# Hartley and Pearson 1957).
RANK_FACTOR = 1.06


@dataclass(frozen=True, eq=False)
class Curve:
    """The effects of repeating one part at all places, on one task.

    Attributes:
        whose: model, quantization, task, metric, kind, unit, part, against ("base" or a part).
        depth: layers of the model.
        plans: [places] their texts, from the first layers to the last.
        changes: [places] what they repeat.
        values: [places, documents] paired differences; higher is better.
        measured: the documents that all plans of all parts saw.
        documents: how many the base saw.
    """

    whose: Mapping[str, Any]
    depth: int
    plans: tuple[str, ...]
    changes: tuple[Change, ...]
    values: Floats
    measured: Outcomes
    documents: int

    @property
    def positions(self) -> Floats:
        """Return the middles [places] of what is repeated, as shares of the model's depth."""
        return np.array([(change.start + change.stop) / 2 / self.depth for change in self.changes])


def places(changes: Mapping[str, Change]) -> dict[str, dict[int, str]]:
    """Return part -> first layer -> plan of those that repeat alike, at `LEAST_PLACES` or more.

    Of all ways to repeat it is the one with the most plans, and of those the one with the fewest
    layers, the fewest times and the scale closest to 1. One layer's attention may run again before
    or after its MLP, which for other parts is the same: the form with more plans stands for it.

    Args:
        changes: plan -> what it repeats.
    """
    ways: dict[tuple[int, int, float, bool], dict[tuple[str, bool], dict[int, str]]] = {}
    for plan, change in changes.items():
        if change.times > 1:
            length = change.stop - change.start
            way = (length, change.times, change.scale, change.in_place and length > 1)
            forms = ways.setdefault(way, {})
            forms.setdefault((change.part, change.in_place), {})[change.start] = plan
    kept = {way: _parts(forms) for way, forms in ways.items()}

    def rank(way: tuple[int, int, float, bool]) -> tuple[float, ...]:
        length, times, scale, in_place = way
        plans = sum(map(len, kept[way].values()))
        return -plans, length, times, abs(scale - 1), scale, in_place

    return kept[min(kept, key=rank)] if kept else {}


def _parts(forms: Mapping[tuple[str, bool], dict[int, str]]) -> dict[str, dict[int, str]]:
    """Return each part's form with the most places, in order, of those that have enough."""
    found = {}
    for part in PARTS:
        own = max(forms.get((part, False), {}), forms.get((part, True), {}), key=len)
        if len(own) >= LEAST_PLACES:
            found[part] = dict(sorted(own.items()))
    return found


def curves(
    scores: pd.DataFrame, tasks: Mapping[str, Task], depths: Mapping[str, int]
) -> Iterator[Curve]:
    """Yield the profiles of each model on each task: of each part, then of each two parts.

    Args:
        scores: of the search stage, all its rounds, at the reference quantizations.
        depths: model -> its number of layers.
    """
    scores = scores.drop_duplicates(["model", "quantization", "task", "plan", "document"])
    cells = scores.groupby(["model", "quantization", "task"], sort=False, observed=True)
    for (model, quantization, task), own in cells:
        depth = depths[model]
        found = {plan: parse(plan, depth).change for plan in own["plan"].unique()}
        changes = {plan: change for plan, change in found.items() if change}
        parts = places(changes)
        plans = [plan for by_start in parts.values() for plan in by_start.values()]
        if not plans:
            continue
        metric = tasks[task].metric
        own = own[own["plan"].isin([BASE, *plans])]
        measured = outcomes(own, metric)
        common = measured.at(np.flatnonzero(seen_by(own, plans).all(axis=0)))
        gained = dict(zip(plans, differences(common, plans), strict=True))
        whose = {"model": model, "quantization": quantization, "task": task, "metric": metric}
        whose |= {"kind": common.kind, "unit": UNITS[common.kind]}
        for part, against in [*((part, BASE) for part in parts), *_two(parts)]:
            starts = [start for start in parts[part] if start in parts.get(against, parts[part])]
            if len(starts) < LEAST_PLACES:
                continue
            ones = [parts[part][start] for start in starts]
            values = np.array([gained[plan] for plan in ones])
            if against != BASE:
                values = values - [gained[parts[against][start]] for start in starts]
            yield Curve(
                whose | {"part": part, "against": against},
                depth,
                tuple(ones),
                tuple(changes[plan] for plan in ones),
                values,
                common,
                len(measured.documents),
            )


def _two(parts: Iterable[str]) -> list[tuple[str, str]]:
    """Return attention and MLP against the whole block, and attention against MLP."""
    pairs = combinations(parts, 2)
    return [(b, a) if a == "block" else (a, b) for a, b in pairs]


def profile(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    depths: Mapping[str, int],
    rules: Statistics,
) -> pd.DataFrame:
    """Return the profiles, a row a place, with bands and shrunken effects; see `curves`.

    `position` is the middle of what is repeated, as a share of the model's depth.
    """
    return pd.DataFrame(
        (row for curve in curves(scores, tasks, depths) for row in _rows(curve, rules)),
        columns=COLUMNS,
    )


def _rows(curve: Curve, rules: Statistics) -> Iterator[dict[str, Any]]:
    found = paired(curve.values, curve.measured, rules)
    count = len(curve.plans)
    stage = measure([Gains(found.differences, found.weights)], range(count))
    columns = limits(*shrunken([stage], count)) | {"effect": found.effect}
    for name, (low, high) in (("", found.interval(0.95)), ("band_", band(found, rules))):
        columns |= {f"{name}low": low, f"{name}high": high}
    columns["position"] = curve.positions
    for place, (plan, change) in enumerate(zip(curve.plans, curve.changes, strict=True)):
        depth = parse(plan, curve.depth).depth
        yield {
            **curve.whose,
            "plan": plan,
            **change._asdict(),
            "part": curve.whose["part"],
            "depth": depth,
            "relative_depth": depth / curve.depth,
            "n": len(curve.measured.documents),
            "documents": curve.documents,
            **{name: values[place] for name, values in columns.items()},
        }


def band(found: PairedEffects, rules: Statistics, level: float = 0.05) -> tuple[Floats, Floats]:
    """Return the limits [places] between which the whole true profile lies with 1 - `level`.

    The largest |t| of all places says by how many standard errors: its distribution comes from
    flips of the signs of all residuals of a cluster at once, which keeps the correlation between
    places. Limits at this confidence are then those of single effects, which hold where answers
    flip rarely and where differences are skewed.
    """
    gained = Gains(found.differences, found.weights)
    centred = Gains(gained.residuals * found.weights.sum(), found.weights)
    drawn, _ = largest([centred], flips, rules.resamples, rules.seed, both=True)
    tail = float(scipy.special.stdtr(found.n_clusters - 1, -critical(drawn, level)))
    return found.interval(1 - 2 * min(tail, level / 2))


def reliability(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    depths: Mapping[str, int],
    rules: Statistics,
) -> pd.DataFrame:
    """Return what the shapes of the profiles are worth, a row for each profile and `measure`.

    - "mean": the mean effect over its places, with its paired 95 % interval.
    - "reliability": how well another set of as many documents would order the places; see `halves`.
    - "between tasks", "between models": the rank correlation with the same part's profile on the
      task, or of the model, in `other`.
    """
    rows: list[dict[str, Any]] = []
    earlier: list[tuple[Curve, Floats]] = []
    for curve in curves(scores, tasks, depths):
        found = paired(curve.values, curve.measured, rules)
        count = {"places": len(curve.plans), "n": len(curve.measured.documents)}
        mean = compare(curve.values.mean(axis=0)[None], curve.measured, rules).iloc[0]
        made = [("mean", "", mean["effect"], mean["low"], mean["high"])]
        made.append(("reliability", "", *halves(found, rules.seed)))
        for other, effect in earlier:
            if kind := _apart(curve, other):
                least = min(len(curve.plans), len(other.plans))
                there = np.interp(curve.positions, other.positions, effect)
                name = other.whose[kind]
                found_here = rank_correlation(there, found.effect, least)
                made.append((f"between {kind}s", name, *found_here))
        names = ("measure", "other", "estimate", "low", "high")
        rows += [{**curve.whose, **count, **dict(zip(names, row, strict=True))} for row in made]
        earlier.append((curve, found.effect))
    return pd.DataFrame(rows, columns=SHAPE_COLUMNS)


def _apart(one: Curve, other: Curve) -> str:
    """Return what alone sets two profiles of one part apart: "task" or "model", else ""."""
    alike = {name: one.whose[name] == other.whose[name] for name in WHOSE}
    if not (alike["part"] and alike["against"]):
        return ""
    if alike["model"] and alike["quantization"] and not alike["task"]:
        return "task"
    return "model" if alike["task"] and not alike["model"] else ""


def halves(found: PairedEffects, seed: int) -> tuple[float, float, float]:
    """Return the reliability of the order of the places, with its 95 % limits.

    It is the rank correlation between the profiles of two random halves of the documents, averaged
    over `SPLITS` splits and extrapolated to all documents (Spearman 1910, Brown 1910). Ranks, as
    the one layer that ruins the model would decide any other correlation. The limits are Feldt's
    (1965), of the reliability of a mean over documents; NaN where nothing differs.
    """
    values, weights = found.differences, found.weights
    values = values[np.isfinite(values).all(axis=1)]
    count, n = values.shape
    if count < LEAST_PLACES or n < 4:
        return np.nan, np.nan, np.nan
    order = np.random.default_rng([seed, 3]).random((SPLITS, n)).argsort(axis=1)
    one = (order < n // 2) * 1.0
    ranks = [
        scipy.stats.rankdata(side @ values.T / (side @ weights)[:, None], axis=1)
        for side in (one, 1 - one)
    ]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    if not size.any():
        return np.nan, np.nan, np.nan
    # A half in which all places are alike says nothing of their order.
    each = np.divide((a * b).sum(axis=1), size, out=np.zeros(SPLITS), where=size > 0)
    r = float(each.mean())
    whole = 2 * r / (1 + r)
    ratio = scipy.stats.f.ppf([0.975, 0.025], count - 1, (count - 1) * (n - 1))
    low, high = 1 - (1 - whole) * ratio
    return whole, float(low), float(high)


def rank_correlation(one: Floats, other: Floats, count: int) -> tuple[float, float, float]:
    """Return the rank correlation of two profiles with its 95 % limits, by Fisher's z.

    Args:
        count: of the places that both rest on.
    """
    known = np.isfinite(one) & np.isfinite(other)
    one, other, count = one[known], other[known], min(count, int(known.sum()))
    if count < LEAST_PLACES or not (np.ptp(one) and np.ptp(other)):
        return np.nan, np.nan, np.nan
    r = float(scipy.stats.spearmanr(one, other).statistic)
    if abs(r) == 1:
        return r, r, r
    half = Z95 * np.sqrt(RANK_FACTOR / (count - 3))
    low, high = np.tanh(np.arctanh(r) + np.array([-half, half]))
    return r, float(low), float(high)
