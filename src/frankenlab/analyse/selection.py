"""Which plans go from search to select, and which one is frozen for confirm."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.analyse.gains import bootstrap, gains, mean_gains
from frankenlab.analyse.outcomes import Task
from frankenlab.models.franken import CONTROL, FINALIST, TRANSFERRED
from frankenlab.plans.controls import equal_cost_controls
from frankenlab.plans.kinds import Kind, kind_of
from frankenlab.plans.plan import BASE, parse

PlanGroups = list[tuple[str, str]]

# Resamples that say how stable a choice is: to within 2 points.
STABILITY_RESAMPLES = 2000


class Shortlisted(TypedDict):
    """What readers use of a plan on the shortlist."""

    plan: str
    group: str


class Shortlist(TypedDict):
    """The file that holds a model's shortlist; `best_of` are the search's best plans of the kinds
    that are to be confirmed."""

    plans: list[Shortlisted]
    best_of: list[str]


class Frozen(TypedDict):
    """The file that holds a model's frozen plan: what `freeze` returns.

    `finalists` are the best other plans of the shortlist, best first, and then the best of some
    kinds of plans in the search. `as_good` are the plans within one standard error of the best,
    best first. `same_plan` is the share of resamples of the documents in which the same rule
    freezes the same plan of the same shortlist.
    """

    model: str
    frozen: str
    group: str
    controls: list[str]
    finalists: list[str]
    reference_quantization: str
    as_good: list[str]
    same_plan: float
    reason: str


def mean_effects(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean effect over the search tasks of each plan but the base, best first.

    Tasks do not share documents, so their errors are independent.

    Returns:
        Columns plan, group, mean_effect, standard_error (of the mean over tasks), depth.
    """
    rows = table[(table["role"] == "search") & (table["plan"] != BASE)]
    grouped = rows.groupby("plan", sort=False, observed=True)
    means = grouped.agg(
        group=("group", "first"),
        mean_effect=("effect", "mean"),
        standard_error=("standard_error", lambda e: float(np.sqrt((e**2).sum()) / len(e))),
        depth=("depth", "first"),
    ).reset_index()
    order = ["mean_effect", "depth", "plan"]
    return means.sort_values(order, ascending=[False, True, True], ignore_index=True)


def shortlist(table: pd.DataFrame, count: int) -> list[dict[str, Any]]:
    """Return the plans with the highest mean effect on the search documents, without dropped
    ones."""
    return mean_effects(table[table["dropped"].isna()]).head(count).to_dict("records")


def best_of(table: pd.DataFrame, kinds: Sequence[Kind], n_layers: int) -> list[str]:
    """Return the plan of each kind that has the highest mean effect on the search documents, of the
    plans that a race let see the most of them; nothing for a kind that was not searched."""
    means = mean_effects(table)
    rounds = table.drop_duplicates("plan").set_index("plan")["dropped"]
    seen = means["plan"].map(rounds).astype(float).fillna(np.inf)
    means = means.assign(
        kind=[
            kind_of(parse(plan, n_layers), group)
            for plan, group in zip(means["plan"], means["group"], strict=True)
        ]
    )
    # A stable sort keeps the best first.
    longest = means.loc[(-seen).sort_values(kind="stable").index].drop_duplicates("kind")
    found = longest.set_index("kind")["plan"]
    return [found[kind] for kind in kinds if kind in found]


def freeze(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    shortlisted: Sequence[Shortlisted],
    model: str,
    n_layers: int,
    quantization: str,
    controls: int,
    seed: int,
    finalists: int = 0,
    more: Sequence[str] = (),
) -> Frozen:
    """Return the franken of a model: the cheapest plan within one standard error of the best
    (Breiman et al. 1984), on the documents of search and select together.

    Args:
        scores: of the shortlist and the base on the search tasks, in the stages search and select,
            at the reference quantization.
        controls: how many random plans of the same cost go with it.
        seed: of the controls, and of the resamples that say how stable the choice is.
        finalists: how many other plans of the shortlist are confirmed beside it.
        more: plans that are confirmed too, where they are none of these.
    """
    scores = scores.drop_duplicates(["task", "plan", "document"])
    groups = {item["plan"]: item["group"] for item in shortlisted}
    # Of equally good plans the first is chosen: the cheapest, then by its text.
    depths = {plan: parse(plan, n_layers).depth for plan in groups}
    plans = sorted(groups, key=lambda plan: (depths[plan], plan))
    by_task = [
        (tasks[str(name)].metric, rows)
        for name, rows in scores.groupby("task", sort=False, observed=True)
    ]
    both = [gains(rows, metric, plans) for metric, rows in by_task]
    effects, errors = mean_gains(both)
    if not np.isfinite(effects).any():
        raise ValueError("no plan has an effect")
    cost = np.array([depths[plan] for plan in plans])
    chosen = int(choose(effects, errors, cost))
    order = np.argsort(-effects, kind="stable")
    near = as_good(effects, errors)
    random = np.random.default_rng([seed, 3])
    drawn = [bootstrap(task)(random, STABILITY_RESAMPLES) for task in both]
    # Resampled effects are centred at the observed ones.
    shifts, variances = (np.sum(part, axis=0) for part in zip(*drawn, strict=True))
    moved = effects + 100 * shifts / len(both)
    again = choose(moved, 100 * np.sqrt(variances) / len(both), cost)
    frozen = parse(plans[chosen], n_layers)
    random_plans = [c.text for c in equal_cost_controls(frozen, controls, seed)]
    others = [plans[i] for i in order if i != chosen and np.isfinite(effects[i])]
    # A control by chance is a control.
    others = [plan for plan in others if plan not in random_plans][:finalists]
    taken = {frozen.text, *random_plans, *others}
    others += [plan for plan in dict.fromkeys(more) if plan not in taken]
    record: Frozen = {
        "model": model,
        "frozen": frozen.text,
        "group": groups[plans[chosen]],
        "controls": random_plans,
        "finalists": others,
        "reference_quantization": quantization,
        "as_good": [plans[i] for i in order if near[i]],
        "same_plan": round(float((again == chosen).mean()), 3),
        "reason": "",
    }
    record["reason"] = _reason(
        record,
        f"{effects[chosen]:+.1f}",
        f"plan {plans[order[0]]} ({effects[order[0]]:+.1f}, standard error {errors[order[0]]:.1f})",
    )
    return record


def as_good(effects: ArrayLike, errors: ArrayLike) -> NDArray[np.bool_]:
    """Tell which plans are within one standard error of the best, from mean effects and their
    standard errors [..., plans]; a plan whose effect is NaN is not."""
    effects = np.asarray(effects, float)
    known = np.where(np.isfinite(effects), effects, -np.inf)
    best = np.argmax(known, axis=-1, keepdims=True)
    error = np.nan_to_num(np.take_along_axis(np.asarray(errors, float), best, axis=-1))
    # Means that differ by rounding are the same.
    return known >= np.take_along_axis(known, best, axis=-1) - error - 1e-9


def choose(effects: ArrayLike, errors: ArrayLike, depths: ArrayLike) -> NDArray[np.intp]:
    """Return the number [...] of the cheapest plan that is as good as the best; of equally deep
    plans the one with the higher effect, and of those the first.

    Args:
        effects: [..., plans] mean effects; not all NaN.
        errors: [..., plans] their standard errors.
        depths: [plans].
    """
    near = as_good(effects, errors)
    cost = np.where(near, depths, np.inf)
    cheapest = near & (cost == cost.min(axis=-1, keepdims=True))
    return np.argmax(np.where(cheapest, effects, -np.inf), axis=-1)


def _reason(record: Frozen, own: str, best: str) -> str:
    """Return why a plan was frozen, in whole sentences."""
    near, stable = record["as_good"], f"{100 * record['same_plan']:.0f} %"
    others = (
        "No other plan is within one standard error of it."
        if len(near) == 1
        else f"{len(near)} plans are within one standard error of it, and so as good: "
        f"{'; '.join(near)}. The cheapest of them is frozen; its own mean change is {own}."
    )
    return (
        "The highest mean change over the search tasks, on the documents of search and select "
        f"together, is that of {best}. {others} With the same shortlist, {stable} of resamples of "
        "these documents freeze the same plan."
    )


def select_plans(record: Shortlist) -> PlanGroups:
    """Return (plan, group) of what the select stage runs, in the order of the shortlist."""
    return [(BASE, "base"), *((item["plan"], item["group"]) for item in record["plans"])]


def confirm_plans(
    record: Frozen, at_reference: bool, transferred: Iterable[str] = ()
) -> PlanGroups:
    """Return (plan, group) of what the confirm stage runs, the frozen plan before all others, which
    run at the reference quantization only.

    Args:
        transferred: the frozen plans of other models, of which some may run already.
    """
    others = [(plan, FINALIST) for plan in record["finalists"]]
    others += [(plan, CONTROL) for plan in record["controls"]]
    there = {record["frozen"], *(plan for plan, _ in others)}
    others += [(plan, TRANSFERRED) for plan in dict.fromkeys(transferred) if plan not in there]
    return [(BASE, "base"), (record["frozen"], record["group"]), *(others if at_reference else [])]


def without_finalists(
    rows: pd.DataFrame,
    frozen: Mapping[str, Frozen],
    transferred: Mapping[str, Collection[str]] | None = None,
) -> pd.DataFrame:
    """Return scores or comparisons of the confirm stage without those of finalists and of plans
    from other models, of which nothing is claimed.

    Args:
        frozen: model -> what `freeze` made.
        transferred: model -> frozen plans of other models.
    """
    named = {(model, plan) for model, record in frozen.items() for plan in record["finalists"]}
    named |= {
        (model, plan)
        for model, plans in (transferred or {}).items()
        for plan in {*plans} - {frozen[model]["frozen"], *frozen[model]["controls"]}
    }
    plans = zip(rows["model"], rows["plan"], strict=True)
    return rows[[plan not in named for plan in plans]]
