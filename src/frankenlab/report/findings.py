"""The sentences that open the page's sections: controls, cost, guard tasks, how it was chosen."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from frankenlab.analyse.verdicts import DOMINANT
from frankenlab.report.answer import MOST_NAMED, Frozen, frozen_rows
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    layers_of,
    listed,
    metric_name,
    plan_words,
    plural,
    quantization_words,
    share,
    signed,
    spoken_change,
    spoken_value,
)

WAYS = {"prefill": "it reads a prompt", "decode": "it writes"}


def references(rows: pd.DataFrame, frozen: Frozen) -> pd.DataFrame:
    """Return the rows at each model's reference quantization: its first, where none is recorded."""
    if rows.empty:
        return rows
    known = {freeze["model"]: freeze["reference_quantization"] for freeze in frozen}
    first = rows.groupby("model", sort=False)["quantization"].transform("first")
    wanted = rows["model"].map(known).fillna(first)
    return rows[rows["quantization"] == wanted]


def controls_finding(tables: Tables, frozen: Frozen) -> str:
    """Return whether the choice of layers matters: frozen plans against random ones of equal
    cost."""
    rows = tables.get("against_controls")
    if rows is None or rows.empty:
        return (
            "No random plans of the same cost ran, so there is no evidence on whether the choice "
            "of layers matters."
        )
    several = rows["model"].nunique() > 1
    sure = rows[rows["verdict"].isin(["better", "worse"])]
    open_ = rows[rows["verdict"] == "inconclusive"]
    counts = rows["controls"].str.count("; ") + 1
    controls = (
        f"{'the mean of ' * bool((counts > 1).all())}{plural(int(counts.max()), 'random plan')}"
    )
    against = f"against {controls} of the same cost"
    if sure.empty:
        where = _where(rows, several)
        return (
            f"There is no evidence that the choice of layers matters: {against} the frozen plan "
            f"is neither significantly better nor worse {where}."
        )
    said = [
        f"significantly {row['verdict']} on {_task(row, several)} "
        f"({signed(row['effect'])} {row['unit']})"
        for row in sure.head(MOST_NAMED).to_dict("records")
    ]
    if len(sure) > MOST_NAMED:
        said.append(f"{len(sure) - MOST_NAMED} more differences are significant")
    tail = f"; {_where(open_, several)} the difference is inconclusive" if len(open_) else ""
    return f"The choice of layers matters: {against} the frozen plan is {listed(said)}{tail}."


def _where(rows: pd.DataFrame, several: bool) -> str:
    """Return "on a and b", or in how many comparisons where they are too many to name."""
    if len(rows) > MOST_NAMED:
        return f"in {plural(len(rows), 'comparison')}"
    return f"on {listed([_task(row, several) for row in rows.to_dict('records')])}"


def _task(row: Mapping[str, Any], several: bool) -> str:
    """Return the task, with the model where there are several."""
    return f"{row['task']} of {row['model']}" if several else row["task"]


def guard_finding(tables: Tables, frozen: Frozen) -> str:
    """Return what the verdicts on the guard tasks say: what got worse, and what did not."""
    own = frozen_rows(tables, frozen)
    rows = rows_of(own, role="guard")
    if rows.empty:
        return "" if own.empty else "No guard task was confirmed, so losses elsewhere are unknown."
    several = own["model"].nunique() > 1
    worse, rest = rows[rows["verdict"] == "harmed"], rows[rows["verdict"] != "harmed"]
    said = "no guard task got worse significantly"
    if len(worse):
        named = [_named(row, own, several) for row in worse.head(MOST_NAMED).to_dict("records")]
        more = len(worse) - MOST_NAMED
        named += [plural(more, "more comparison")] if more > 0 else []
        said = f"{listed(named)} got worse"
    counted = []
    for verdict in ("improved", "equivalent", "inconclusive"):
        count = int((rest["verdict"] == verdict).sum())
        verb = "" if verdict == "improved" else "is " if count == 1 else "are "
        counted += [f"{count} {verb}{verdict}"] if count else []
    if counted:
        what = plural(len(rest), "other comparison" if len(worse) else "comparison")
        said += f"; of {what} on guard tasks {listed(counted)}"
    return f"{said[0].upper()}{said[1:]}."


def _named(row: Mapping[str, Any], own: pd.DataFrame, several: bool) -> str:
    """Return "perplexity on boolq_passages (from 75.6 to 98.6, +30 %)"."""
    before, after = (spoken_value(row[name], row["kind"]) for name in ("base_value", "value"))
    place = f" of {row['model']}" * several
    if rows_of(own, model=row["model"])["quantization"].nunique() > 1:
        place += f" {quantization_words(row['quantization'])}"
    return (
        f"{metric_name(row['metric'])} on {row['task']}{place} "
        f"(from {before} to {after}, {spoken_change(row)})"
    )


def cost_finding(tables: Tables, frozen: Frozen) -> str:
    """Return what the frozen plans cost: layers, arithmetic, and speed as far as the clock told."""
    own = references(frozen_rows(tables, frozen), frozen)
    plans = own.drop_duplicates(["model", "plan"])
    costs = tables.get("costs")
    said = []
    for row in plans.head(MOST_NAMED).to_dict("records"):
        key = {name: row[name] for name in ("model", "quantization", "plan")}
        mine = rows_of(costs, **key)
        where = f"In {row['model']}, running" if len(plans) > 1 else "Running"
        text = (
            f"{where} {plan_words(row['plan'], layers_of(row))} takes {row['depth']:g} layers in "
            f"place of {layers_of(row)}"
        )
        if mine.empty:
            said.append(f"{text}; it was not timed.")
            continue
        cost = mine.iloc[0]
        if "arithmetic_ratio" in cost and pd.notna(cost["arithmetic_ratio"]):
            text += f" and {100 * (1 / cost['arithmetic_ratio'] - 1):.2g} % more arithmetic"
        speeds = [_speed(cost, way, verb) for way, verb in WAYS.items() if f"{way}_ratio" in cost]
        said.append(f"{text}{': ' * bool(speeds)}{listed(speeds) if speeds else ''}.")
    more = len(plans) - MOST_NAMED
    return " ".join([*said, *([f"{more} more models are in the table."] if more > 0 else [])])


def _speed(cost: pd.Series, way: str, verb: str) -> str:
    """Return a speed relative to the base's, or that the clock cannot tell it."""
    ratio, low, high = (cost[f"{way}_ratio{end}"] for end in ("", "_low", "_high"))
    if pd.isna(ratio):
        return f"how fast {verb} was not measured"
    limits = "" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]"
    measured = f"{ratio:.2f} times the base's speed{limits}"
    if cost.get(f"{way}_clock") != "silent":
        return f"{verb} at {measured}"
    expected = cost["arithmetic_ratio"]
    return f"how fast {verb} the clock cannot tell ({measured}; {expected:.2f} by its arithmetic)"


def search_finding(tables: Tables) -> str:
    """Return the mean change over all plans of a search, and how many are above the base."""
    rows = tables.get("search")
    if rows is None or rows.empty:
        return ""
    said = []
    for row in rows.head(MOST_NAMED).to_dict("records"):
        units = rows_of(tables.get("comparisons"), model=row["model"], role="search")
        units = list(units["unit"].unique()) if len(units) else []
        unit = f" {units[0]}" if len(units) == 1 else ""
        whose = f" of {row['model']}" if len(rows) > 1 else ""
        said.append(
            f"The mean change over all {row['plans']:,} plans{whose} on the search tasks is "
            f"{signed(row['mean_effect'])}{unit} [{signed(row['mean_low'])}, "
            f"{signed(row['mean_high'])}], and {share(row['share_better'])} of the plans are above "
            "the base."
        )
    return " ".join(said)


def choice_finding(tables: Tables, frozen: Frozen) -> str:
    """Return how sure the choice of each frozen plan is: which plans were as good, and how often
    the same one would be frozen."""
    said = []
    named = [freeze for freeze in frozen if "as_good" in freeze]
    for freeze in named[:MOST_NAMED]:
        others = [plan for plan in freeze["as_good"] if plan != freeze["frozen"]]
        layers = _layers(tables, freeze["model"])
        whose = f" of {freeze['model']}" if len(named) > 1 else ""
        if others:
            each = [plan_words(plan, layers) if layers else plan for plan in others[:MOST_NAMED]]
            more = len(others) - MOST_NAMED
            each += [f"{more} more"] if more > 0 else []
            count = "One other plan was" if len(others) == 1 else f"{len(others)} other plans were"
            text = f"{count} as good on the select documents{whose}, within one standard error: "
            text += listed(each)
        else:
            text = f"No other plan was as good on the select documents{whose}"
        if freeze.get("same_plan") is not None:
            text += (
                f"; the same plan is frozen in {share(freeze['same_plan'])} of resamples of them"
            )
        if freeze.get("beats_base") is False:
            text += "; there is no evidence there that even the best plan beats the base"
        said.append(f"{text}.")
    more = len(named) - MOST_NAMED
    return " ".join([*said, *([f"{more} more models are not named."] if more > 0 else [])])


def _layers(tables: Tables, model: str) -> int | None:
    rows = rows_of(tables.get("comparisons"), model=model)
    return None if rows.empty else layers_of(rows.iloc[0])


def dominance_finding(tables: Tables, frozen: Frozen) -> str:
    """Return where one passage decides much of a verdict; nothing where none does."""
    own = frozen_rows(tables, frozen)
    if own.empty or "dominance" not in own:
        return ""
    rows = own[own["dominance"] >= DOMINANT]
    if rows.empty:
        return ""
    found = rows.groupby("task", sort=False)["dominance"].max()
    each = [f"on {task} one has {share(most)}" for task, most in found.items()]
    return (
        f"A single document (or passage) dominates some comparisons: {listed(each)} of the sum of "
        "squared deviations, so that their verdicts rest on few documents."
    )
