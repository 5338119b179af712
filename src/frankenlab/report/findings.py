"""The sentences that open the page's sections: controls, cost, guard tasks, how it was chosen."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from frankenlab.analyse.verdicts import DOMINANT
from frankenlab.plans.plan import BASE, omissions, parse
from frankenlab.report.answer import MOST_NAMED, Frozen, changes, frozen_rows
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    change_text,
    effect_words,
    layers_of,
    listed,
    plan_words,
    plural,
    share,
)

COUNTED = ("improved", "equivalent", "inconclusive")


def references(rows: pd.DataFrame, frozen: Frozen) -> pd.DataFrame:
    """Return the rows at each model's reference quantization: its first, where none is recorded."""
    if rows.empty:
        return rows
    known = {freeze["model"]: freeze["reference_quantization"] for freeze in frozen}
    first = rows.groupby("model", sort=False)["quantization"].first().to_dict()
    wanted = [known.get(model, first[model]) for model in rows["model"]]
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
        f"({effect_words(row['effect'], row['unit'])})"
        for row in sure.head(MOST_NAMED).to_dict("records")
    ]
    if len(sure) > MOST_NAMED:
        said.append(f"so in {len(sure) - MOST_NAMED} more")
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
    worse, rest = rows[rows["verdict"] == "harmed"], rows[rows["verdict"] != "harmed"]
    said = "No guard task got worse significantly."
    if len(worse):
        said = f"Yes: {changes(worse, own)}."
    if rest.empty:
        return said
    return f"{said} {counted(rest['verdict'], 'guard tasks', others=len(worse) > 0)}."


def counted(verdicts: pd.Series, where: str = "", others: bool = False) -> str:
    """Return "Of the other 4 comparisons on guard tasks 1 is equivalent and 3 are inconclusive"."""
    what = "comparison" if len(verdicts) == 1 else plural(len(verdicts), "comparison")
    what = "the other " * others + what + f" on {where}" * bool(where)
    found = {word: int((verdicts == word).sum()) for word in COUNTED}
    found = {word: count for word, count in found.items() if count}
    if len(found) == 1:
        word = next(iter(found))
        verb = "" if word == "improved" else "is " if len(verdicts) == 1 else "are "
        first = "The" if others or len(verdicts) == 1 else "All"
        return f"{first} {what.removeprefix('the ')} {verb}{word}"
    parts = [
        f"{count} {'' if word == 'improved' else 'is ' if count == 1 else 'are '}{word}"
        for word, count in found.items()
    ]
    return f"Of {what} {listed(parts)}"


def cost_finding(tables: Tables, frozen: Frozen) -> str:
    """Return what the frozen plans cost by their arithmetic; the figure of speeds has the clock."""
    own = references(frozen_rows(tables, frozen), frozen)
    plans = own.drop_duplicates(["model", "plan"])
    said = []
    for row in plans.head(MOST_NAMED).to_dict("records"):
        key = {name: row[name] for name in ("model", "quantization")}
        mine = rows_of(tables.get("costs"), **key, plan=row["plan"])
        base = rows_of(tables.get("costs"), **key, plan=BASE)
        where = f"In {row['model']}, running" if len(plans) > 1 else "Running"
        text = (
            f"{where} {plan_words(row['plan'], layers_of(row))} takes {row['depth']:g} layers in "
            f"place of {layers_of(row)}"
        )
        if mine.empty or base.empty:
            said.append(f"{text}; it was not timed.")
            continue
        cost = mine.iloc[0]
        more = []
        if pd.notna(cost.get("arithmetic_ratio")):
            more.append(f"{_more(1 / cost['arithmetic_ratio'])} arithmetic")
        cache = cost["kv_bytes_per_token"] / base["kv_bytes_per_token"].iloc[0]
        more.append(f"{_more(cache)} KV cache")
        few = omissions(parse(row["plan"], layers_of(row))).startswith("never runs")
        weights = "no more weights" if few else "the same weights"
        said.append(f"{text}: {listed(more)}, with {weights}.")
    rest = len(plans) - MOST_NAMED
    return " ".join([*said, *(["The table has the other models."] if rest > 0 else [])])


def _more(ratio: float) -> str:
    """Return "2.6 % more", "as much" or "3.1 % less"."""
    change = 100 * (ratio - 1)
    if abs(change) < 0.05:
        return "as much"
    size = f"{abs(change):.2g}" if abs(change) < 10 else f"{abs(change):.0f}"
    return f"{size} % {'more' if change > 0 else 'less'}"


def search_finding(tables: Tables) -> str:
    """Return how the best plan of a search compares with luck, and the mean change of all plans."""
    rows = tables.get("search")
    if rows is None or rows.empty:
        return ""
    said = []
    for row in rows.head(MOST_NAMED).to_dict("records"):
        units = rows_of(tables.get("comparisons"), model=row["model"], role="search")
        units = list(units["unit"].unique()) if len(units) else []
        # A mean of points and of perplexities has no unit.
        effect, low, high = (row[f"mean_{name}"] for name in ("effect", "low", "high"))
        whose = f" of {row['model']}" if len(rows) > 1 else ""
        better = row["share_better"]
        above = f"{share(better)} of the plans are" if better else "none of the plans is"
        unit = units[0] if len(units) == 1 else ""
        best, luck = (effect_words(row[f"best_{name}"], unit) for name in ("effect", "by_luck"))
        grown = int(row.get("grown", 0))
        of = " of the grid" if grown else ""
        said.append(
            f"The best plan{of}{whose} measured {best} in the search; if none of the "
            f"{row['plans']:,} plans changed anything, the best would measure {luck} by luck."
        )
        if grown:
            said.append(_grown(row, grown, whose, unit))
        mean = change_text(effect, low, high, unit)
        where, there = " on the search tasks", ""
        if row["shared_documents"] < row["documents"]:
            where = f" on the {row['shared_documents']:,} search documents that all of them saw"
            there = " there"
        said.append(
            f"The mean change over all {row['plans'] - grown:,} plans{of}{whose}{where} is {mean}, "
            f"and {above} above the base{there}."
        )
    return " ".join(said)


def _grown(row: Mapping[str, Any], grown: int, whose: str, unit: str) -> str:
    """Return what the best of the plans that were grown measured, and what that is worth."""
    plans = f"{plural(grown, 'plan')}{whose} that were grown from the best"
    if not row["best_grown"]:
        return f"Of {plans} none was left at the end."
    best = effect_words(row["best_grown_effect"], unit)
    return (
        f"The best of {plans} measured {best}. They were grown by the same documents and share "
        "their luck, so that only fresh documents tell what they are worth."
    )


def choice_finding(tables: Tables, frozen: Frozen) -> str:
    """Return how sure the choice of each frozen plan is: which plans were as good, and how often
    the same one would be frozen."""
    named = [freeze for freeze in frozen if "as_good" in freeze]
    said = [_choice(freeze, tables, len(named) > 1) for freeze in named[:MOST_NAMED]]
    more = len(named) - MOST_NAMED
    others = ["How the others were chosen stands under their names below."] if more > 0 else []
    return " ".join([*said, *others])


def _choice(freeze: Mapping[str, Any], tables: Tables, several: bool) -> str:
    layers = _layers(tables, freeze["model"])
    others = [plan for plan in freeze["as_good"] if plan != freeze["frozen"]]
    where = "on the documents of search and select" + f" of {freeze['model']}" * several
    if others:
        each = [plan_words(plan, layers) if layers else plan for plan in others[:MOST_NAMED]]
        more = len(others) - MOST_NAMED
        each += [f"{more} more"] if more > 0 else []
        count = "One other plan was" if len(others) == 1 else f"{len(others)} other plans were"
        said = [f"{count} as good {where}, within one standard error: {listed(each)}."]
    else:
        said = [f"No other plan was as good {where}, within one standard error."]
    if (same := freeze.get("same_plan")) is not None:
        said.append(
            f"From the same shortlist, {share(same)} of resamples of these documents freeze the "
            "same plan; on other documents it would be fewer."
        )
    tested = rows_of(tables.get("search"), model=freeze["model"])
    if not tested.empty and "select_significant" in tested:
        found = "the best plan of the shortlist was significantly better than the base"
        if not tested["select_significant"].iloc[0]:
            found = "there is no evidence that any plan of the shortlist is better than the base"
        said.append(f"On the select documents {found}.")
    return " ".join(said)


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
        f"A single passage dominates some comparisons: {listed(each)} of the variance, so that "
        "their verdicts rest on few passages."
    )
