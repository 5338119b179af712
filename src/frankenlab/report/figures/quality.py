"""Quality against cost: the depth that every plan of the search pays."""

from dataclasses import replace
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from frankenlab.analyse.plane import on_front
from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    BLUE,
    INK,
    PLOT,
    STAR,
    Cut,
    base_text,
    blank,
    change_text,
    cut_axis,
    effect_said,
    effect_title,
    finish,
    interval_rules,
    number_axis,
    panel_title,
    plan_looks,
    point_data,
    survivors,
    tooltip,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    INTERVAL,
    layers_of,
    plan_words,
    plural,
    shorten,
)

# Group of a plan -> shape and words. Colours are those of the plans that were frozen or controls.
GROUPS = {
    "layer": ("circle", "single layer"),
    "block": ("square", "block"),
    "rys": ("diamond", "RYS (i, j)"),
    "depth_up_scaling": ("triangle-up", "depth up-scaling"),
    "explicit": ("cross", "named by hand"),
    "random_block": ("triangle-down", "random"),
    "multi_block": ("M-1,-1H-0.4V1H-1ZM0.4,-1H1V1H0.4Z", "several blocks"),
    "spread": ("stroke", "spread over the depth"),
    "skip": ("triangle-left", "left out"),
    "swap": ("M-1,-1L0,0L-1,1ZM1,-1L0,0L1,1Z", "swapped"),
    "reverse": ("M-1,-1H1L0,0ZM-1,1H1L0,0Z", "in reverse order"),
    "window": ("M-1,-0.6H1V0.6H-1Z", "damped window"),
    "other": ("triangle-right", "other"),
}
PLAN, DROPPED = "#66717f", "#c3c9d1"


def _distances(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return how far the interval reaches below and above the effect, 0 at least."""
    below, above = rows["effect"] - rows["low"], rows["high"] - rows["effect"]
    return below.clip(lower=0), above.clip(lower=0)


def mean_over_tasks(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean effect of each plan over its tasks, for plans that have them all.

    Interval limits are combined as the square root of the summed squares of their distances
    (MOVER; Zou & Donner, Statistics in Medicine 27, 2008): tasks have different documents, so
    their errors are independent.
    """
    tasks = rows["task"].nunique()
    below, above = _distances(rows)
    table = rows.assign(below=below**2, above=above**2).groupby("plan", sort=False)
    mean = table.agg(
        group=("group", "first"),
        unit=("unit", "first"),
        depth=("depth", "first"),
        relative_depth=("relative_depth", "first"),
        effect=("effect", "mean"),
        below=("below", "sum"),
        above=("above", "sum"),
        n=("n", "sum"),
        tasks=("task", "nunique"),
        dropped=("dropped", "first"),
    ).reset_index()
    mean = mean[mean["tasks"] == tasks]
    return mean.assign(
        low=mean["effect"] - np.sqrt(mean["below"]) / tasks,
        high=mean["effect"] + np.sqrt(mean["above"]) / tasks,
    )


def _searched(tables: Tables, **where: str) -> pd.DataFrame:
    """Return the search's rows on its tasks; none where there is no plan beside the base."""
    rows = rows_of(tables.get("comparisons"), stage="search", role="search", **where)
    return rows if len(rows) and (rows["plan"] != "base").any() else rows.head(0)


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return title and rows of each panel: the mean where units agree, then each task."""
    panels = [
        (f"{shorten(task)}: {base_text(part)}", part)
        for task, part in rows.groupby("task", sort=False)
    ]
    if len(panels) > 1 and rows["unit"].nunique() == 1:
        mean = mean_over_tasks(rows)
        title = f"Mean of the {len(panels)} tasks, n = {mean['n'].max():,} in all"
        panels.insert(0, (title, mean.assign(task=f"mean of {len(panels)} tasks")))
    return panels


def quality_cost(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the effect against relative depth (layers run, relative to the base), with the front.

    One panel for the mean of the search tasks, where their units agree, and one for each.
    """
    rows = _searched(tables, **where)
    if rows.empty:
        return blank(f"{where['model']}: the search has no plans beside the base.")
    looks = plan_looks(tables, where["model"])
    frozen = next((plan for plan, look in looks.items() if look.group == "frozen"), "")
    cost = rows["relative_depth"]
    room = 0.02 * (cost.max() - cost.min())
    domain = (round(cost.min() - room, 4), round(cost.max() + room, 4))
    panels = _panels(rows)
    charts = [
        _cloud(title, part, frozen, domain, number == len(panels) - 1)
        for number, (title, part) in enumerate(panels)
    ]
    groups = set(_groups(rows[rows["plan"] != "base"]))
    items: list[KeyItem] = [("point", "black", STAR, "base")]
    if frozen in set(rows["plan"]):
        items.append(("point", BLUE, "circle", looks[frozen].label))
    items += [("point", PLAN, shape, words) for shape, words in GROUPS.values() if words in groups]
    items += [
        ("hollow", INK, "circle", "on the Pareto front"),
        ("thin", INK, "", INTERVAL),
    ]
    if not survivors(rows).all():
        items.append(("point", DROPPED, "circle", "dropped in the race, on fewer documents"))
    finding = quality_cost_finding(tables, levels, **where)
    chart = alt.vconcat(*charts, key(items))
    return finish(chart, "Quality against cost", where, finding, ["search documents"])


def _around_marks(cut: Cut) -> Cut:
    """Fit an uncut axis to what is drawn: all effects, but few of the intervals."""
    drawn = cut.data["role"].isin(("front", "frozen"))
    ends = [cut.data["effect"], cut.data.loc[drawn, "low"], cut.data.loc[drawn, "high"]]
    low, high = min(0.0, *map(min, filter(len, ends))), max(0.0, *map(max, filter(len, ends)))
    room = 0.06 * (high - low) or 1.0
    bottom = cut.domain[0] if cut.note else round(low - room, 3)
    return replace(cut, domain=(bottom, round(high + room, 3)))


def _groups(rows: pd.DataFrame) -> pd.Series:
    """Return the words for each plan's group."""
    known = rows["group"].where(rows["group"].isin(GROUPS), "other")
    return known.map({group: words for group, (_, words) in GROUPS.items()})


def _cloud(
    title: str, rows: pd.DataFrame, frozen: str, domain: tuple[float, float], lowest: bool
) -> Any:
    """Draw all plans against depth: grey, the front joined and ringed, the frozen plan in blue.

    Intervals are drawn for these only; the others' would cover each other.
    """
    whole = np.flatnonzero(survivors(rows))
    # A dropped plan's effect is on fewer documents, and lower for what dropped it.
    cost, effect = rows["relative_depth"].to_numpy(float), rows["effect"].to_numpy(float)
    front = whole[on_front(cost[whole], effect[whole])]
    role = np.where(survivors(rows), "plan", "dropped").astype(object)
    role[front] = "front"
    role[(rows["plan"] == frozen).to_numpy()] = "frozen"
    role[(rows["plan"] == "base").to_numpy()] = "base"
    rows = rows.assign(cost=rows["relative_depth"].round(4), role=role, of=_groups(rows))
    cut = _around_marks(cut_axis(point_data(rows, "cost", "role", "of", "n")))
    others = rows["plan"] != "base"
    half = ((rows["high"] - rows["low"]) / 2)[others].median()
    scale = alt.Scale(domain=cut.domain, nice=False, zero=False)
    x = alt.X(
        "cost:Q",
        scale=alt.Scale(domain=domain, nice=False, zero=False),
        axis=number_axis(
            "layers run, relative to the base" if lowest else "", grid=False, tickCount=8
        ),
    )
    axis = value_axis(effect_title(rows["unit"].iloc[0]))
    y = alt.Y("shown:Q", scale=scale, axis=axis)
    tips = tooltip(
        alt.Tooltip("cost:Q", title="layers, relative", format=".2f"),
        alt.Tooltip("n:Q", title="documents"),
    )
    size = 30 if len(rows) < 200 else 16
    kept = ["plan", "words", "task", "effect_text", "cost", "of", "n", "shown"]
    inside = cut.data[~cut.data["below"]]
    shape = alt.Shape(
        "of:N",
        scale=alt.Scale(
            domain=[words for _, words in GROUPS.values()],
            range=[shape for shape, _ in GROUPS.values()],
        ),
        legend=None,
    )
    drawn: list[alt.Chart] = [zero_rule()]
    for kind, color, strength in (("dropped", DROPPED, 0.7), ("plan", PLAN, 0.75)):
        part = inside[inside["role"] == kind][kept]
        if len(part):
            points = alt.Chart(part).mark_point(
                filled=True, size=size, color=color, opacity=strength
            )
            drawn.append(points.encode(x=x, y=y, shape=shape, tooltip=tips))
    line = rows.iloc[front].sort_values("cost")[["cost", "effect"]]
    end = pd.DataFrame({"cost": [domain[1]], "effect": [line["effect"].iloc[-1]]})
    stairs = alt.Chart(pd.concat([line, end])).mark_line(
        interpolate="step-after", color=INK, strokeWidth=1.1, clip=True
    )
    drawn.append(stairs.encode(x=x, y=alt.Y("effect:Q", scale=scale, axis=axis)))
    looks: dict[str, dict[str, Any]] = {
        "front": {"color": INK, "size": 55, "fill": "white", "strokeWidth": 1.3},
        "frozen": {"color": BLUE, "size": 75, "filled": True},
        "base": {"color": "black", "shape": STAR, "size": 75, "filled": True},
    }
    for kind, look in looks.items():
        part = inside[inside["role"] == kind]
        if part.empty:
            continue
        chart = alt.Chart(part[[*kept, "shown_low", "shown_high"]]).encode(x=x)
        if kind != "base":
            ends = alt.Y("shown_low:Q", scale=scale, axis=axis)
            drawn.append(interval_rules(chart, ends, "shown_high", color=look["color"]))
        drawn.append(chart.mark_point(opacity=1, **look).encode(y=y, tooltip=tips))
    if cut.note:
        drawn.append(cut.arrows(x))
    notes = filter(None, [f"typical {INTERVAL}: ±{half:.1f}", cut.note])
    named = panel_title(title, " · ".join(notes))
    return alt.layer(*drawn).properties(width=PLOT, height=190, title=named)


def quality_cost_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say how good the best plan of the search was, and what deeper plans lose."""
    rows = _searched(tables, **where)
    if rows.empty:
        return ""
    _, shown = _panels(rows)[0]
    unit = shown["unit"].iloc[0]
    several = "task" in shown and shown["task"].iloc[0] not in set(rows["task"])
    over = f"on the mean of {plural(rows['task'].nunique(), 'task')}"
    if not several:
        perplexity = " (perplexity)" if unit == "log-percent" else ""
        over = f"on {shown['task'].iloc[0]}{perplexity}"
    plans = shown[shown["plan"] != "base"]
    whole = plans[survivors(plans)] if survivors(plans).any() else plans
    best = whole.loc[whole["effect"].idxmax()]
    said = plan_words(best["plan"], layers_of(best))
    better = int((whole["effect"] > 0).sum())
    first = (
        f"Of {plural(len(plans), 'plan')}, the best {over} is to run {said}, with "
        f"{change_text(best, unit=f' {unit}')} at {best['relative_depth']:.2f} times the layers; "
    )
    first += f"{better or 'none'} measured better than the base"
    raced = len(plans) - len(whole)
    first += f" among the {len(whole)} that the race kept." if raced else "."
    deeper = plans["relative_depth"] > plans["relative_depth"].median()
    if not deeper.any():
        return first
    medians = [plans.loc[mask, "effect"].median() for mask in (~deeper, deeper)]
    limit = plans["relative_depth"].median()
    second = (
        f"Among plans of up to {limit:.2f} times the layers the median change is "
        f"{effect_said(medians[0], unit)}, among deeper ones {effect_said(medians[1], unit)}."
    )
    return f"{first} {second}"
