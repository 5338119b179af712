"""Quality against cost: the depth that every plan pays, and the speed that was measured."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    BLUE,
    GREY,
    INK,
    PLOT,
    STAR,
    Look,
    base_text,
    blank,
    cut_axis,
    effect_title,
    finish,
    interval_rules,
    number_axis,
    panel_title,
    plan_looks,
    plan_words,
    point_data,
    short_unit,
    survivors,
    tooltip,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import INTERVAL, interval, listed, plural, shorten, signed

# Group of a plan -> shape and words. Colours are those of the plans that were frozen or controls.
GROUPS = {
    "layer": ("circle", "single layer"),
    "block": ("square", "block"),
    "rys": ("diamond", "RYS (i, j)"),
    "depth_up_scaling": ("triangle-up", "depth up-scaling"),
    "explicit": ("cross", "named by hand"),
    "random_block": ("triangle-down", "random"),
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


def pareto_front(cost: np.ndarray, effect: np.ndarray) -> np.ndarray:
    """Return the points, by rising cost, that no cheaper or equal one matches or beats."""
    order = np.lexsort((-effect, cost))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], effect[order][:-1]]))
    return order[effect[order] > best]


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


def _groups(rows: pd.DataFrame) -> pd.Series:
    """Return the words for each plan's group."""
    known = rows["group"].where(rows["group"].isin(GROUPS), "other")
    return known.map({group: words for group, (_, words) in GROUPS.items()})


def _cloud(
    title: str, rows: pd.DataFrame, frozen: str, domain: tuple[float, float], lowest: bool
) -> alt.LayerChart:
    """Draw all plans against depth: grey, the front joined and ringed, the frozen plan in blue.

    Intervals are drawn for these only; the others' would cover each other.
    """
    whole = np.flatnonzero(survivors(rows))
    # A dropped plan's effect is on fewer documents, and lower for what dropped it.
    cost, effect = rows["relative_depth"].to_numpy(float), rows["effect"].to_numpy(float)
    front = whole[pareto_front(cost[whole], effect[whole])]
    role = np.where(survivors(rows), "plan", "dropped").astype(object)
    role[front] = "front"
    role[(rows["plan"] == frozen).to_numpy()] = "frozen"
    role[(rows["plan"] == "base").to_numpy()] = "base"
    rows = rows.assign(cost=rows["relative_depth"].round(4), role=role, of=_groups(rows))
    cut = cut_axis(point_data(rows, "cost", "role", "of", "n"))
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
            look = {"filled": True, "size": size, "color": color, "opacity": strength}
            points = alt.Chart(part).mark_point(**look)
            drawn.append(points.encode(x=x, y=y, shape=shape, tooltip=tips))
    line = rows.iloc[front].sort_values("cost")[["cost", "effect"]]
    end = pd.DataFrame({"cost": [domain[1]], "effect": [line["effect"].iloc[-1]]})
    stairs = alt.Chart(pd.concat([line, end])).mark_line(
        interpolate="step-after", color=INK, strokeWidth=1.1, clip=True
    )
    drawn.append(stairs.encode(x=x, y=alt.Y("effect:Q", scale=scale, axis=axis)))
    for kind, look in (
        ("front", {"color": INK, "size": 55, "fill": "white", "strokeWidth": 1.3}),
        ("frozen", {"color": BLUE, "size": 75, "filled": True}),
        ("base", {"color": "black", "shape": STAR, "size": 75, "filled": True}),
    ):
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
    title = panel_title(title, " · ".join(notes))
    return alt.layer(*drawn).properties(width=PLOT, height=190, title=title)


def quality_cost_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say how good the best plan of the search was, and what deeper plans lose."""
    rows = _searched(tables, **where)
    if rows.empty:
        return ""
    _, shown = _panels(rows)[0]
    several = "task" in shown and shown["task"].iloc[0] not in set(rows["task"])
    over = f"on the mean of {plural(rows['task'].nunique(), 'task')}"
    over = over if several else f"on {shown['task'].iloc[0]}"
    unit = short_unit(shown["unit"].iloc[0])
    plans = shown[shown["plan"] != "base"]
    whole = plans[survivors(plans)] if survivors(plans).any() else plans
    best = whole.loc[whole["effect"].idxmax()]
    said = plan_words(best["plan"], round(best["depth"] / best["relative_depth"]))
    better = int((whole["effect"] > 0).sum())
    first = (
        f"Of {plural(len(plans), 'plan')}, the best {over} is {said} with "
        f"{interval(best, unit=unit)} at {best['relative_depth']:.2f} times the layers; "
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
        f"The median plan of at most {limit:.2f} times the layers changes by "
        f"{signed(medians[0])} {unit}, that of deeper ones by {signed(medians[1])}."
    )
    return f"{first} {second}"


WAYS = {"prefill": "reading a prompt", "decode": "writing"}


def _timed(tables: Tables, **where: str) -> pd.DataFrame:
    """Return the confirmed plans' effects beside their speed relative to the base."""
    rows = rows_of(tables.get("comparisons"), stage="confirm", **where)
    costs = rows_of(tables.get("costs"), **where)
    if rows.empty or costs.empty:
        return pd.DataFrame()
    ratios = [column for column in costs.columns if "_ratio" in column]
    rows = rows.merge(costs.drop_duplicates("plan")[["plan", *ratios]], on="plan")
    return rows if (rows["plan"] != "base").any() else rows.head(0)


def quality_speed(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the effect against the measured speed, of the plans whose cost was measured.

    One row a task, columns for reading a prompt (prefill) and for writing (decode). Both bars are
    intervals; dashes stand where the arithmetic alone would put a plan.
    """
    rows = _timed(tables, **where)
    if rows.empty:
        return blank(f"{where['model']}: no cost was measured for plans that were confirmed.")
    looks = plan_looks(tables, where["model"])
    shown = {plan: look for plan, look in looks.items() if plan in set(rows["plan"])}
    domains = {}
    for way in WAYS:
        columns = [f"{way}_ratio_low", f"{way}_ratio_high", "arithmetic_ratio"]
        values = rows[columns].to_numpy(float)
        low, high = min(np.nanmin(values), 1.0), max(np.nanmax(values), 1.0)
        room = 0.06 * (high - low) or 0.02
        domains[way] = (round(low - room, 4), round(high + room, 4))
    tasks = [part for _, part in rows.groupby("task", sort=False)]
    lines = []
    for part in tasks:
        cut = cut_axis(point_data(part, *[c for c in part if "_ratio" in c]))
        panels = [
            _speed_panel(cut, part, way, domains[way], shown, part is tasks[-1]) for way in WAYS
        ]
        first = part.iloc[0]
        title = panel_title(f"{shorten(first['task'])} ({first['role']}): {base_text(part)}")
        lines.append(alt.hconcat(*panels, spacing=14).properties(title=title))
    items: list[KeyItem] = [("point", look.color, look.shape, look.label) for look in shown.values()]
    items += [
        ("thin", GREY, "", f"{INTERVAL}s of change and of speed"),
        ("line", GREY, "", "speed by arithmetic alone"),
    ]
    finding = quality_speed_finding(tables, levels, **where)
    chart = alt.vconcat(*lines, key(items))
    return finish(chart, "Quality against measured speed", where, finding, ["confirm documents"])


def _speed_panel(
    cut: Any,
    rows: pd.DataFrame,
    way: str,
    domain: tuple[float, float],
    looks: Mapping[str, Look],
    lowest: bool,
) -> alt.LayerChart:
    """Draw one task's plans against one of the two speeds."""
    left = way == next(iter(WAYS))
    axis = value_axis("change, " + short_unit(rows["unit"].iloc[0]) if left else "", tickCount=4)
    scale = alt.Scale(domain=cut.domain, nice=False, zero=False)
    along = alt.Scale(domain=domain, nice=False, zero=False)
    below = number_axis(
        f"speed of {WAYS[way]}, base = 1" if lowest else "", tickCount=5, grid=False
    )
    x = alt.X(f"{way}_ratio:Q", scale=along, axis=below)
    domain_of = {"domain": list(looks)}
    color = alt.Color(
        "plan:N",
        scale=alt.Scale(**domain_of, range=[look.color for look in looks.values()]),
        legend=None,
    )
    shape = alt.Shape(
        "plan:N",
        scale=alt.Scale(**domain_of, range=[look.shape for look in looks.values()]),
        legend=None,
    )
    chart = alt.Chart(cut.data).encode(x=x, color=color)
    y = alt.Y("shown:Q", scale=scale, axis=axis)
    plans = chart.transform_filter("datum.plan != 'base'")
    ratio = {"format": ".2f"}
    tips = tooltip(
        alt.Tooltip(f"{way}_ratio:Q", title="speed, base = 1", **ratio),
        alt.Tooltip(f"{way}_ratio_low:Q", title="at least", **ratio),
        alt.Tooltip(f"{way}_ratio_high:Q", title="at most", **ratio),
        alt.Tooltip("arithmetic_ratio:Q", title="by arithmetic", **ratio),
    )
    across = plans.mark_rule(strokeWidth=1.2).encode(
        x=alt.X(f"{way}_ratio_low:Q", scale=along, axis=below), x2=f"{way}_ratio_high:Q", y=y
    )
    ends = alt.Y("shown_low:Q", scale=scale, axis=axis)
    expected = rows.loc[rows["plan"] != "base", ["arithmetic_ratio"]].round(4).drop_duplicates()
    dashes = alt.Chart(expected).mark_rule(color=GREY, strokeDash=[4, 3]).encode(
        x=alt.X("arithmetic_ratio:Q", scale=along, axis=below)
    )
    points = chart.mark_point(filled=True, size=62, opacity=1)
    return alt.layer(
        zero_rule(),
        zero_rule(horizontal=False).encode(x=alt.datum(1)),
        dashes,
        interval_rules(plans, ends, "shown_high"),
        across,
        points.encode(y=y, shape=shape, tooltip=tips),
    ).properties(width=(PLOT - 52) // 2, height=88)


def quality_speed_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say how fast the frozen plan is relative to its base, by the clock and by arithmetic."""
    rows = _timed(tables, **where)
    if rows.empty:
        return ""
    looks = plan_looks(tables, where["model"])
    plans = rows[rows["plan"] != "base"].drop_duplicates("plan")
    own = plans[plans["plan"].map(lambda p: p in looks and looks[p].group == "frozen")]
    row = (own if len(own) else plans).iloc[0]
    said = plan_words(row["plan"], round(row["depth"] / row["relative_depth"]))
    speeds = []
    for way, words in WAYS.items():
        low, high = row[f"{way}_ratio_low"], row[f"{way}_ratio_high"]
        speeds.append(f"{words} at {row[f'{way}_ratio']:.2f} times [{low:.2f}, {high:.2f}]")
    first = f"{said[0].upper()}{said[1:]} is measured {listed(speeds)} the base's speed"
    first += f"; arithmetic alone says {row['arithmetic_ratio']:.2f}."
    silent = [
        words
        for way, words in WAYS.items()
        if row[f"{way}_ratio_low"] <= 1 <= row[f"{way}_ratio_high"]
    ]
    if silent:
        first += f" For {listed(silent)} the clock shows no difference from the base."
    return first
