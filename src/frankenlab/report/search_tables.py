"""The page's tables about a search: its best plans, its rounds, and what its shape is worth."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from frankenlab.analyse.prediction import NAMES
from frankenlab.analyse.repetitions import KIND
from frankenlab.plans.plan import BASE
from frankenlab.report.elements import Columns, Html, Row, cells, plan_cell, table
from frankenlab.report.results import Results, rows_of
from frankenlab.report.tables import count, places
from frankenlab.report.text import (
    PART_WORDS,
    change_text,
    correlation_text,
    number,
    p_value,
    plural,
    repeated,
    signed,
    spoken_value,
)

MOST_PLANS = 10


def dose_table(results: Results) -> str:
    """Return what more repetitions of the same places change."""
    rows = results.table("dose_response")
    if rows.empty:
        return ""
    columns: Columns = {
        **places(rows),
        "task": "{task}",
        "repeated": lambda row: repeated(
            plural(row["blocks"], "layer" if row["longest"] == 1 else "block"),
            *(row[name] for name in KIND),
        ),
        "times": "{counts}",
        "documents": lambda row: count(row["n"]),
        "each further time [interval]": lambda row: change_text(
            row["slope"], row["slope_low"], row["slope_high"], row["unit"]
        ),
        "p": lambda row: p_value(row["p"]),
        "q": lambda row: p_value(row["q"]),
        "isotonic fit": "{fit}",
        "best [interval]": "{best} [{best_low}, {best_high}]",
        "worse from": lambda row: number(row["worse_from"]),
    }
    caption = "More repetitions of the same blocks, where 1 is the base"
    return table(cells(rows, columns), caption, csv="dose_response")


def top_plans(results: Results) -> pd.DataFrame:
    """Return the best plans of each search by mean change over the search tasks, a row each.

    Plans that a race dropped are left out. Where a plan went on to the select stage, its mean
    change there stands beside.
    """
    rows = results.table("comparisons")
    if rows.empty:
        return rows
    rows = rows[(rows["role"] == "search") & (rows["plan"] != BASE)]
    records = []
    several = rows["model"].nunique() > 1
    for model, mine in rows.groupby("model", sort=False):
        search = mine[(mine["stage"] == "search") & mine["dropped"].isna()]
        means = search.groupby("plan")["effect"].mean().sort_values(ascending=False, kind="stable")
        later = rows_of(mine, stage="select").groupby("plan")["effect"].mean()
        for plan in means.index[:MOST_PLANS]:
            found = rows_of(search, plan=plan).to_dict("records")
            record: dict[str, Any] = {"plan": plan_cell(plan, results.n_layers(model))}
            if several:
                record["model"] = model
            record |= {
                "layers": f"{found[0]['depth']:g}",
                "mean at search": signed(means[plan]),
                "mean at select": signed(later[plan]) if plan in later.index else "–",
            }
            record |= {
                row["task"]: change_text(row["effect"], row["low"], row["high"], row["unit"])
                + " *" * bool(row["significant"])
                for row in found
            }
            records.append(record)
    return pd.DataFrame(records).fillna("–")


def top_plans_table(results: Results) -> str:
    """Return `top_plans` of every model that was searched."""
    caption = "The search's best plans, which look better than they are"
    return table(top_plans(results), caption, csv="comparisons", first="plan")


def reliability_table(results: Results) -> str:
    """Return the mean of each profile, its reliability, and how alike two of them are."""
    rows = results.table("reliability")
    if rows.empty:
        return ""

    def estimate(row: Row) -> str:
        if row["measure"] == "mean":
            return change_text(row["estimate"], row["low"], row["high"], row["unit"])
        digits = "–" if pd.isna(row["estimate"]) else f"{row['estimate']:.2f}"
        limits = f"[{row['low']:.2f}, {row['high']:.2f}]" * (digits != "–")
        return f"{digits} {limits}".strip().replace("-", "−")

    columns: Columns = {
        "part": lambda row: PART_WORDS[row["part"]],
        "against": lambda row: PART_WORDS.get(row["against"], row["against"]),
        **places(rows),
        "task": "{task}",
        "measure": lambda row: f"{row['measure']}: {row['other']}".removesuffix(": "),
        "places": lambda row: count(row["places"]),
        "documents": lambda row: count(row["n"]),
        "estimate [95 % interval]": estimate,
    }
    caption = "What the shapes of the profiles are worth"
    return table(cells(rows, columns), caption, csv="reliability", first="part")


def race_table(results: Results) -> str:
    """Return the rounds of a race; nothing where the search was none."""
    rows = results.table("race")
    if rows.empty:
        return ""
    columns: Columns = {
        "round": "{round}",
        **places(rows),
        "documents": "{documents:,}",
        "plans that ran": "{plans:,}",
        "dropped after it": "{dropped:,}",
        **({"grown after it": "{grown:,}"} if rows.get("grown", pd.Series([0])).any() else {}),
        "leader": lambda row: plan_cell(row["leader"], results.n_layers(row["model"])),
        "layer passes": lambda row: f"{row['passes']:,.0f} ({row['share']:.0%})",
    }
    return table(cells(rows, columns), "The rounds of the search", csv="race")


def beam_table(results: Results) -> str:
    """Return the plans that the search grew; nothing where it had the grid's alone."""
    rows = results.table("beam")
    if rows.empty:
        return ""

    def change(name: str) -> Callable[[Row], str]:
        return lambda row: change_text(row[name], row[f"{name}_low"], row[f"{name}_high"], "")

    def plan(name: str) -> Callable[[Row], Html | str]:
        def cell(row: Row) -> Html | str:
            return plan_cell(row[name], results.n_layers(row["model"])) if row[name] else "–"

        return cell

    rows = rows.rename(columns={"low": "effect_low", "high": "effect_high"})
    columns: Columns = {
        "plan": plan("plan"),
        **places(rows),
        "grown from": plan("parent"),
        "joined with": plan("other"),
        "after round": "{round}",
        "dropped after": lambda row: number(row["dropped"]),
        "documents": "{n:,}",
        "mean change [95 % interval]": change("effect"),
        "over its parent [95 % interval]": change("over_parent"),
    }
    return table(cells(rows, columns), "Plans that were grown from the best", csv="beam")


def oracle_table(results: Results) -> str:
    """Return what an oracle gains from plans, and from other prompts of the base."""
    rows = results.table("oracle")
    if rows.empty:
        return ""

    def beyond(row: Row) -> str:
        if pd.isna(row["more"]):
            return "–"
        return change_text(row["more"], row["more_low"], row["more_high"], row["unit"])

    columns: Columns = {
        "task": "{task}",
        **places(rows),
        "stage": "{stage}",
        "picks from": lambda row: f"{row['k']:,} of {plural(row['options'], row['set'][:-1])}",
        "documents": lambda row: count(row["n"]),
        "base": lambda row: spoken_value(row["base_value"], row["kind"]),
        "best single one": lambda row: spoken_value(row["best_value"], row["kind"]),
        "oracle": lambda row: spoken_value(row["oracle_value"], row["kind"]),
        "gain [interval]": lambda row: change_text(
            row["gain"], row["low"], row["high"], row["unit"]
        ),
        "beyond as many prompts": beyond,
    }
    caption = "What an oracle would gain that picks the best for each document"
    return table(cells(rows, columns), caption, csv="oracle")


def predictor_table(results: Results) -> str:
    """Return the rank correlations of what may predict the effects; nothing without a probe."""
    rows = results.table("predictors")
    if rows.empty:
        return ""
    columns: Columns = {
        "predictor": lambda row: NAMES[row["predictor"]],
        **places(rows),
        "effects on": "{task}",
        "of": lambda row: f"{row['plans']} {row['scope']}",
        "documents": "{n:,}",
        "rank correlation": correlation_text,
        "chosen": lambda row: NAMES.get(row["chosen"], "–"),
        "reliability": "{reliability:.2f}",
    }
    return table(cells(rows, columns), "What predicts the effects", csv="predictors")
