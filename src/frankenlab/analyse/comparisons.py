"""Scores -> comparisons with the base and with each other, shortlist, frozen plan, verdicts.

Units and signs are the same in every table: an effect above 0 is better, in percentage points
for accuracies and in log-percent (100 times the natural logarithm of a ratio) for perplexities.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.analyse import paired_tests as statistics
from frankenlab.analyse.hardware import with_hardware, with_pair_hardware
from frankenlab.analyse.outcomes import UNITS, Outcomes, metric_value, outcomes
from frankenlab.plans.grid import equal_cost_controls
from frankenlab.plans.plan import BASE, parse


@dataclass(frozen=True)
class Rules:
    """The `statistics` section of the config."""

    fdr: float
    alpha: float
    margin: float
    resamples: int
    seed: int


@dataclass(frozen=True)
class Comparison:
    """Several paired comparisons on the same documents; arrays [comparisons]."""

    effect: np.ndarray
    low: np.ndarray
    high: np.ndarray
    low90: np.ndarray
    high90: np.ndarray
    p: np.ndarray
    up: np.ndarray
    down: np.ndarray
    deviation: np.ndarray


def compare(differences: np.ndarray, measured: Outcomes, rules: Rules) -> Comparison:
    """Paired comparisons from differences [comparisons, documents], higher is better."""
    summed = statistics.by_cluster(differences, measured.clusters)
    weights = statistics.by_cluster(measured.weights, measured.clusters)
    effects = statistics.paired_bootstrap(
        summed, weights, kind=measured.kind, seed=rules.seed, resamples=rules.resamples
    )
    up, down = statistics.discordant(differences)
    # McNemar's test counts signs: a document that is right in part needs its size, too.
    whole = np.isin(differences, (-1.0, 0.0, 1.0)).all()
    if measured.kind == "mean" and whole and not measured.clustered:
        p = statistics.mcnemar_exact(up, down)
    else:
        p = statistics.sign_flip_test(summed, seed=rules.seed, resamples=rules.resamples)
    return Comparison(
        effects.effect,
        *effects.interval(0.95),
        *effects.interval(0.90),
        p=p,
        up=up,
        down=down,
        deviation=statistics.unit_deviation(summed, weights),
    )


def comparisons(
    scores: pd.DataFrame,
    metric: str,
    role: str,
    groups: Mapping[str, str],
    rules: Rules,
    dropped: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Every plan of one (stage, model, quantization, task) against the base.

    A plan that a race dropped is compared on the documents that it saw. It has no p and no q: it
    was dropped for what these documents say, so that a test on them would not hold its level. In
    the correction of the others it counts with p = 1, which is no smaller than what all documents
    would have given: the false discovery rate holds as without a race.

    Args:
        groups: plan text -> the generator that made it.
        dropped: plan text -> the round after which it was dropped.
    """
    rounds = scores["plan"].map(dropped or {})
    base = scores[scores["plan"] == BASE]
    found = [_compared(scores[rounds.isna()], metric, role, groups, rules)]
    for _, rows in scores.groupby(rounds):
        seen = base[base["document"].isin(rows["document"])]
        part = _compared(pd.concat([seen, rows]), metric, role, groups, rules)
        found.append(part[part["plan"] != BASE])
    table = with_hardware(pd.concat(found, ignore_index=True), scores)
    table["dropped"] = table["plan"].map(dropped or {}).astype("Int64")
    raced, others = table["dropped"].notna(), table["plan"] != BASE
    tested = table["p"].where(~raced, 1.0)[others]
    table.loc[others, "q"] = statistics.benjamini_hochberg(tested)
    table.loc[raced, ["p", "q"]] = np.nan
    return table.assign(significant=table["q"] < rules.fdr)


def _compared(
    scores: pd.DataFrame, metric: str, role: str, groups: Mapping[str, str], rules: Rules
) -> pd.DataFrame:
    """Plans that saw the same documents against the base, before any correction."""
    measured = outcomes(scores, metric)
    base = measured.row(BASE)
    others = [plan for plan in measured.plans if plan != BASE]
    n_clusters = len(np.unique(measured.clusters))
    common = {
        "stage": scores["stage"].iloc[0],
        "model": scores["model"].iloc[0],
        "quantization": scores["quantization"].iloc[0],
        "task": scores["task"].iloc[0],
        "role": role,
        "metric": metric,
        "kind": measured.kind,
        "unit": UNITS[measured.kind],
        "n": len(measured.documents),
        "n_clusters": n_clusters,
        "base_value": metric_value(base, measured, metric),
    }
    rows = [_base_row(measured, metric)]
    if others:
        differences = np.array([measured.row(plan) - base for plan in others])
        found = compare(differences, measured, rules)
        flips = measured.kind == "mean"
        for i, plan in enumerate(others):
            rows.append(
                {
                    "plan": plan,
                    **_values(measured.row(plan), measured, metric),
                    "effect": found.effect[i],
                    "low": found.low[i],
                    "high": found.high[i],
                    "low90": found.low90[i],
                    "high90": found.high90[i],
                    "standard_error": found.deviation[i] / math.sqrt(n_clusters),
                    "up": found.up[i] if flips else None,
                    "down": found.down[i] if flips else None,
                    "p": found.p[i],
                }
            )
    table = pd.DataFrame([common | row | {"group": groups[row["plan"]]} for row in rows])
    return table.astype({"up": "Int64", "down": "Int64"})


def with_shapes(table: pd.DataFrame, depths: Mapping[str, int]) -> pd.DataFrame:
    """Adds depth, relative_depth and the loop (start, stop, times) of each row's plan.

    Args:
        depths: model -> its number of layers.
    """
    plans = [parse(t, depths[m]) for t, m in zip(table["plan"], table["model"], strict=True)]
    loops = [plan.loop or (None, None, None) for plan in plans]
    shapes = pd.DataFrame(loops, columns=["start", "stop", "times"], index=table.index)
    return table.assign(
        depth=[plan.depth for plan in plans],
        relative_depth=[plan.depth / plan.n_layers for plan in plans],
        **{name: shapes[name].astype("Int64") for name in shapes},
    )


def mean_effects(table: pd.DataFrame) -> pd.DataFrame:
    """Mean effect over the search tasks of each plan but the base, best first.

    Returns:
        Columns plan, group, mean_effect, standard_error (of the mean over tasks), depth.
    """
    rows = table[(table["role"] == "search") & (table["plan"] != BASE)]
    grouped = rows.groupby("plan", sort=False, observed=True)
    means = grouped.agg(
        group=("group", "first"),
        mean_effect=("effect", "mean"),
        standard_error=(
            "standard_error",
            lambda s: float(statistics.mean_effect_standard_error(s.to_numpy())),
        ),
        depth=("depth", "first"),
    ).reset_index()
    order = ["mean_effect", "depth", "plan"]
    return means.sort_values(order, ascending=[False, True, True], ignore_index=True)


class Shortlisted(TypedDict):
    """What readers use of a plan on the shortlist."""

    plan: str
    group: str


class Shortlist(TypedDict):
    """The file that holds a model's shortlist."""

    plans: list[Shortlisted]


class Frozen(TypedDict):
    """The file that holds a model's frozen plan: what `freeze` returns."""

    model: str
    frozen: str
    group: str
    controls: list[str]
    reference_quantization: str
    reason: str


def shortlist(table: pd.DataFrame, count: int) -> list[dict[str, Any]]:
    """The plans with the highest mean effect on the search documents, without dropped ones."""
    return mean_effects(table[table["dropped"].isna()]).head(count).to_dict("records")


def freeze(
    table: pd.DataFrame, model: str, n_layers: int, quantization: str, controls: int, seed: int
) -> Frozen:
    """The franken of a model: the cheapest plan within one standard error of the best.

    Args:
        table: comparisons of the select stage at the reference quantization.
        controls: how many random plans of the same cost go with it.
    """
    means = mean_effects(table)
    best = means.iloc[0]
    index = statistics.cheapest_within_one_standard_error(
        means["mean_effect"], means["depth"], float(best["standard_error"])
    )
    chosen = means.iloc[index]
    plan = parse(chosen["plan"], n_layers)
    return {
        "model": model,
        "frozen": plan.text,
        "group": chosen["group"],
        "controls": [c.text for c in equal_cost_controls(plan, controls, seed)],
        "reference_quantization": quantization,
        "reason": (
            f"the cheapest of {len(means)} plans within one standard error "
            f"({best['standard_error']:.1f}) of the best mean change over the search tasks "
            f"({best['mean_effect']:+.1f} of plan {best['plan']}; its own is "
            f"{chosen['mean_effect']:+.1f}) on the select documents"
        ),
    }


def verdicts(table: pd.DataFrame, frozen: Mapping[str, str], rules: Rules) -> pd.DataFrame:
    """Verdicts on the confirm documents, corrected over all of them (Holm).

    Args:
        table: comparisons of the confirm stage, all models.
        frozen: model -> frozen plan; every other plan but the base is a control.
    """
    rows = table[(table["stage"] == "confirm") & (table["plan"] != BASE)].copy()
    rows["group"] = [
        "frozen" if frozen[model] == plan else "control"
        for model, plan in zip(rows["model"], rows["plan"], strict=True)
    ]
    rows["p_holm"] = statistics.holm(rows["p"])
    rows["margin"] = rules.margin
    records = rows.to_dict("records")
    rows["verdict"] = [
        statistics.verdict(
            *(r[name] for name in ("effect", "p_holm", "low90", "high90")),
            margin=rules.margin,
            alpha=rules.alpha,
        )
        for r in records
    ]
    rows["documents_needed"] = [
        statistics.documents_needed(
            r["effect"],
            r["standard_error"] * math.sqrt(r["n_clusters"]),
            kind=r["kind"],
            margin=rules.margin,
            alpha=rules.alpha / len(rows),
        )
        for r in records
    ]
    rows["documents_needed"] = rows["documents_needed"].astype("Int64")
    columns = (
        *("model", "quantization", "task", "role", "metric", "kind", "unit", "plan", "group"),
        *("depth", "relative_depth", "n", "value", "base_value", "effect", "low", "high"),
        *("low90", "high90", "up", "down", "p", "p_holm", "margin", "verdict", "documents_needed"),
        *("precision", "hardware", "mixed"),
    )
    return rows[list(columns)].reset_index(drop=True)


def pairs(
    scores: Mapping[tuple[str, str], pd.DataFrame], metric: str, task: str, stage: str, rules: Rules
) -> pd.DataFrame:
    """Plans against each other on the documents that both saw, within and across models.

    Within a model at one quantization, all pairs without the base (which `comparisons` has).
    Across them, pairs of one plan each side.

    Args:
        scores: (model, quantization) -> its scores; only plans in them are compared.
    """
    sides = [
        (model, quantization, plan, outcomes(frame, metric))
        for (model, quantization), frame in scores.items()
        for plan in frame["plan"].unique()
    ]
    rows = []
    for a, b in combinations(sides, 2):
        if a[:2] == b[:2] and BASE in (a[2], b[2]):
            continue
        rows.append(_pair(a, b, rules))
    kind = sides[0][3].kind if sides else "mean"
    common = {"stage": stage, "task": task, "metric": metric, "kind": kind, "unit": UNITS[kind]}
    return with_pair_hardware(pd.DataFrame([common | row for row in rows]), scores)


def _pair(a: tuple, b: tuple, rules: Rules) -> dict[str, Any]:
    (model_a, quantization_a, plan_a, left), (model_b, quantization_b, plan_b, right) = a, b
    both, in_left, in_right = np.intersect1d(left.documents, right.documents, return_indices=True)
    left, right = left.at(in_left), right.at(in_right)
    found = compare((left.row(plan_a) - right.row(plan_b))[None], left, rules)
    return {
        "model_a": model_a,
        "quantization_a": quantization_a,
        "plan_a": plan_a,
        "model_b": model_b,
        "quantization_b": quantization_b,
        "plan_b": plan_b,
        "n": len(both),
        "effect": found.effect[0],
        "low": found.low[0],
        "high": found.high[0],
        "p": found.p[0],
    }


def _base_row(measured: Outcomes, metric: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("effect", "low", "high", "low90", "high90", "standard_error"), 0.0)
    nothing |= {"up": None, "down": None, "p": 1.0, "q": 1.0}
    return {"plan": BASE, **_values(measured.row(BASE), measured, metric), **nothing}


def _values(scores: np.ndarray, measured: Outcomes, metric: str) -> dict[str, float]:
    """Value and standard error in the metric's own unit (for a perplexity by the delta method)."""
    value = metric_value(scores, measured, metric)
    summed = statistics.by_cluster(scores[None], measured.clusters)
    weights = statistics.by_cluster(measured.weights, measured.clusters)
    error = float(statistics.standard_error(summed, weights)[0])
    if measured.kind == "perplexity":
        error = error / math.log(2) if metric.startswith("bits") else error * value
    return {"value": value, "value_stderr": error}


def concatenated(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other; empty ones are skipped."""
    kept: Sequence[pd.DataFrame] = [table for table in tables if len(table)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()
