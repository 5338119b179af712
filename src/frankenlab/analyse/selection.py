"""Which plans go from search to select, and which one is frozen for confirm."""

from typing import Any

import numpy as np
import pandas as pd
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.models.franken import CONTROL
from frankenlab.plans.generators import equal_cost_controls
from frankenlab.plans.plan import BASE, parse

PlanGroups = list[tuple[str, str]]


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


def freeze(
    table: pd.DataFrame, model: str, n_layers: int, quantization: str, controls: int, seed: int
) -> Frozen:
    """Return the franken of a model: the cheapest plan within one standard error of the best
    (Breiman et al. 1984). Of equally deep plans it is the one with the higher effect.

    Args:
        table: comparisons of the select stage at the reference quantization.
        controls: how many random plans of the same cost go with it.
    """
    means = mean_effects(table)
    best = means.iloc[0]
    if pd.isna(best["mean_effect"]):
        raise ValueError("no plan has an effect")
    error = 0.0 if pd.isna(best["standard_error"]) else best["standard_error"]
    near = means[means["mean_effect"] >= best["mean_effect"] - error]
    chosen = near.sort_values(["depth", "mean_effect"], ascending=[True, False]).iloc[0]
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


def select_plans(record: Shortlist) -> PlanGroups:
    """Return (plan, group) of what the select stage runs, in the order of the shortlist."""
    return [(BASE, "base"), *((item["plan"], item["group"]) for item in record["plans"])]


def confirm_plans(record: Frozen, with_controls: bool) -> PlanGroups:
    """Return (plan, group) of what the confirm stage runs, the frozen plan before its controls."""
    controls = [(plan, CONTROL) for plan in record["controls"] if with_controls]
    return [(BASE, "base"), (record["frozen"], record["group"]), *controls]
