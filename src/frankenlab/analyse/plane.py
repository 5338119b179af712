"""Place plans, bitrates and models by what they cost and how good they are.

All are compared on the confirm documents, which chose none of them, with the base of one model at
its reference quantization. This is exploration: there are intervals, and no verdicts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from frankenlab.analyse.comparisons import INTERVAL, paired
from frankenlab.analyse.gains import Gains, mean_limits, resampled
from frankenlab.analyse.outcomes import UNITS, Outcomes, Task, metric_value, outcomes, shared
from frankenlab.analyse.paired_tests import Floats, by_cluster
from frankenlab.analyse.selection import Frozen
from frankenlab.analyse.settings import Statistics
from frankenlab.models.footprint import Footprint
from frankenlab.plans.kinds import kind_of
from frankenlab.plans.plan import BASE, Plan, parse

Cell = tuple[str, str]  # model, quantization

# The group of the next larger model's base.
LARGER = "larger model"
# Column of a cost -> column of the probability of being on the front of quality against it.
FRONTS = {"read_bytes": "on_front", "multiplications": "on_front_compute"}
COLUMNS = (
    *("model", "quantization", "task", "tasks", "metric", "kind", "unit", "n"),
    *("point_model", "point_quantization", "plan", "group", "depth", "relative_depth"),
    *("read_bytes", "multiplications", "value", "effect", "low", "high", *FRONTS.values()),
)


class Point(NamedTuple):
    """A plan with certain weights."""

    model: str
    quantization: str
    plan: str


def plane(
    compared: pd.DataFrame,
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    frozen: Mapping[str, Frozen],
    footprints: Mapping[Cell, Footprint],
    depths: Mapping[str, int],
    rules: Statistics,
) -> pd.DataFrame:
    """Return, for each model, every plan that was confirmed with its weights at any quantization,
    and the base of the next larger model, on each search task and on the mean of those of one unit.

    Args:
        compared: comparisons of all stages and models; those of the search say what made a plan.
        scores: of the confirm stage, all models.
        frozen: model -> what `selection.freeze` made.
        footprints: (model, quantization) -> what the weights take.
        depths: model -> its number of layers.

    Returns:
        A row a model, task and point. `group` is "base", "frozen", "larger model" (its base), or
        the kind of a plan (`plans.kinds`), of which controls are "random". `effect` is paired with
        the model's own base at its reference quantization, with a 95 % interval. `read_bytes` are
        the bytes of weights that are read for each token, `multiplications` those by weights.
        `on_front` is the share of resamples of the documents in which the point is on the Pareto
        front of quality against bytes, `on_front_compute` the same against multiplications.
    """
    searched = compared[compared["stage"] == "search"].drop_duplicates(["model", "plan"])
    groups = searched.set_index(["model", "plan"])["group"].to_dict()
    rows: list[dict[str, Any]] = []
    for model, record in frozen.items():
        home = Point(model, record["reference_quantization"], BASE)
        larger = next_larger(model, footprints, depths)
        at = {
            task: found
            for task, settings in tasks.items()
            if settings.role == "search"
            and (found := _scored(scores[scores["task"] == task], settings, home, larger))
        }
        facts = {
            point: _facts(point, record, groups, footprints, depths)
            for found in at.values()
            for point in found
        }
        random = np.random.default_rng([rules.seed, 5])
        parts = {
            task: _on_task(found, home, tasks[task], random, rules) for task, found in at.items()
        }
        common = {"model": model, "quantization": home.quantization}
        each = ((task, *part) for task, part in parts.items())
        for name, found, drawn in (*_means(parts), *each):
            points = list(found.index)
            made = found.assign(**pd.DataFrame([facts[point] for point in points], found.index))
            for cost, column in FRONTS.items():
                made[column] = on_front(made[cost].to_numpy(), drawn[1:]).mean(axis=0)
            rows += made.assign(**common, task=name).to_dict("records")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def next_larger(
    model: str, footprints: Mapping[Cell, Footprint], depths: Mapping[str, int]
) -> str | None:
    """Return the model with the fewest multiplications for each token of those that have more than
    this one; None where it is the largest."""
    work = {
        name: size.multiplications(parse(BASE, depths[name]))
        for (name, _), size in footprints.items()
    }
    more = [name for name, count in work.items() if count > work[model]]
    return min(more, key=work.__getitem__, default=None)


def on_front(cost: Floats, quality: Floats) -> np.ndarray:
    """Tell which points are on the Pareto front: no other is as cheap and as good, and better in
    one of the two. NaN is not.

    Args:
        cost: [points].
        quality: [..., points]; higher is better.
    """
    quality = np.where(np.isnan(quality), -np.inf, quality)
    found = np.zeros(quality.shape, bool)
    best = np.full(quality.shape[:-1], -np.inf)
    for price in np.unique(cost):
        here = np.flatnonzero(cost == price)
        top = quality[..., here].max(axis=-1)
        found[..., here] = quality[..., here] == top[..., None]
        found[..., here] &= (top > best)[..., None]
        best = np.maximum(best, top)
    return found


def _scored(
    scores: pd.DataFrame, task: Task, home: Point, larger: str | None
) -> dict[Point, Outcomes]:
    """Return the outcomes that have each point, on the documents that all of them saw; nothing
    where the model was not confirmed on the task."""
    own, bigger = scores["model"] == home.model, scores["model"] == larger
    rows = scores[own | (bigger & (scores["plan"] == BASE))]
    cells = {
        (str(model), str(quantization)): outcomes(part, task.metric)
        for (model, quantization), part in rows.groupby(
            ["model", "quantization"], sort=False, observed=True
        )
    }
    if home[:2] not in cells:
        return {}
    measured = shared(cells)
    weights = measured[home[:2]].weights
    points = {
        Point(*cell, plan): found
        for cell, found in measured.items()
        # Averages over the tokens of two tokenizers are of different things.
        if np.array_equal(found.weights, weights)
        for plan in found.plans
    }
    return {home: points.pop(home), **points}


def _facts(
    point: Point,
    record: Frozen,
    groups: Mapping[tuple[str, str], str],
    footprints: Mapping[Cell, Footprint],
    depths: Mapping[str, int],
) -> dict[str, Any]:
    plan, size = parse(point.plan, depths[point.model]), footprints[point[:2]]
    made = groups.get((point.model, point.plan), "")
    return {
        **{f"point_{name}": value for name, value in point._asdict().items() if name != "plan"},
        "plan": point.plan,
        "group": LARGER if point.model != record["model"] else _group(plan, record, made),
        "depth": plan.depth,
        "relative_depth": plan.depth / plan.n_layers,
        "read_bytes": size.read_bytes(plan),
        "multiplications": size.multiplications(plan),
    }


def _group(plan: Plan, record: Frozen, group: str) -> str:
    if plan.text in (BASE, record["frozen"]):
        return "base" if plan.text == BASE else "frozen"
    return "random" if plan.text in record["controls"] else kind_of(plan, group)


def _on_task(
    found: Mapping[Point, Outcomes],
    home: Point,
    task: Task,
    random: np.random.Generator,
    rules: Statistics,
) -> tuple[pd.DataFrame, Floats]:
    """Return a row for each point, and its effects [1 + resamples, points], first those of the
    documents as they are."""
    own = found[home]
    scores = np.array([each.row(point.plan) for point, each in found.items()])
    differences = scores - own.row(BASE)
    effects = paired(differences, own, rules)
    table = pd.DataFrame(
        {
            "tasks": 1,
            "metric": task.metric,
            "kind": own.kind,
            "unit": UNITS[own.kind],
            "n": len(own.documents),
            "value": [metric_value(row, own, task.metric) for row in scores],
            "effect": effects.effect,
            **dict(zip(INTERVAL, effects.interval(0.95), strict=True)),
        },
        index=pd.Index(found, tupleize_cols=False),
    )
    # The base of which all are differences has no error.
    table.loc[[home], INTERVAL] = 0.0
    known = np.where(np.isfinite(differences), differences, np.nan)
    values = by_cluster(known, own.clusters)
    gained = Gains(values, by_cluster(own.weights, own.clusters))
    return table, resampled(gained, random, rules.resamples)


def _means(
    parts: Mapping[str, tuple[pd.DataFrame, Floats]],
) -> Iterator[tuple[str, pd.DataFrame, Floats]]:
    """Yield the mean over the tasks of each unit that has several, of the points that have all."""
    units: dict[str, list[str]] = {}
    for task, (table, _) in parts.items():
        units.setdefault(table["unit"].iloc[0], []).append(task)
    for tasks in units.values():
        if len(tasks) > 1:
            yield _mean([parts[task] for task in tasks])


def _mean(parts: Sequence[tuple[pd.DataFrame, Floats]]) -> tuple[str, pd.DataFrame, Floats]:
    tables = [table for table, _ in parts]
    points = [p for p in tables[0].index if all(p in table.index for table in tables)]
    places = [[list(table.index).index(point) for point in points] for table in tables]
    own = [table.iloc[place] for table, place in zip(tables, places, strict=True)]
    found = own[0].assign(
        tasks=len(own),
        metric=", ".join(dict.fromkeys(table["metric"].iloc[0] for table in own)),
        n=sum(table["n"].iloc[0] for table in own),
        value=np.nan,
    )
    columns = [[table[name] for table in own] for name in ("effect", *INTERVAL)]
    effects, lows, highs = (pd.DataFrame([c.to_numpy() for c in column]) for column in columns)
    limits = [mean_limits(effects[i], lows[i], highs[i]) for i in effects]
    found["effect"] = effects.mean().to_numpy()
    found["low"], found["high"] = np.transpose(limits)
    shown = [drawn[:, place] for (_, drawn), place in zip(parts, places, strict=True)]
    return f"mean of {len(own)} tasks", found, np.mean(shown, axis=0)
