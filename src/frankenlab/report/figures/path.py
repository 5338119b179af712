"""The frozen plan through the stages: what the documents that chose it promised, and what held."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    PLOT,
    RUNNER_UP,
    Look,
    blank,
    change_text,
    effect_title,
    finish,
    interval_rules,
    model_layers,
    plan_looks,
    short_unit,
    tooltip,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import INTERVAL, interval, listed, plan_words

STAGES = ("search", "select", "confirm")
# Pixels between a measured effect and its shrunken estimate.
APART = 16


def _steps(tables: Tables, **where: str) -> pd.DataFrame:
    """Return the rows of `path` in the order of the stages; none without a frozen plan."""
    rows = rows_of(tables.get("path"), **where)
    if rows.empty or not (rows["group"] == "frozen").any():
        return rows.head(0)
    place = rows["stage"].map({stage: number for number, stage in enumerate(STAGES)})
    return rows.assign(place=place).sort_values("place", kind="stable")


def _unit(tables: Tables, **where: str) -> str:
    """Return the unit of the mean over the search tasks: theirs, "" where they have several."""
    rows = rows_of(tables.get("comparisons"), role="search", **where)
    units = rows["unit"].unique() if len(rows) else []
    return str(units[0]) if len(units) == 1 else ""


def path(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the frozen plan's mean effect on the search tasks at each stage, with intervals.

    Runners-up of the shortlist are light. Beside the two stages that chose the plan stands the
    shrunken estimate: what is left of the effect once the luck of the best is taken off.
    """
    rows = _steps(tables, **where)
    if rows.empty:
        return blank(f"{where['model']}: no plan is frozen yet.")
    unit = _unit(tables, **where)
    looks = plan_looks(tables, where["model"])
    own = rows[rows["group"] == "frozen"]
    look = looks[own["plan"].iloc[0]]
    data = _data(rows, model_layers(tables, where["model"]), unit)
    limits = ["effect", "low", "high", "shrunken_low", "shrunken_high"]
    mine = data["group"] == "frozen"
    values = np.concatenate([data.loc[mine, limits].to_numpy(float).ravel(), data["effect"], [0.0]])
    low, high = np.nanmin(values), np.nanmax(values)
    room = 0.06 * (high - low) or 1.0
    # Above the highest interval stand its numbers.
    domain = [round(low - room, 3), round(high + 2 * room, 3)]
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    title = effect_title(unit) if unit else "change, mean of the search tasks"
    y = alt.Y("effect:Q", scale=scale, axis=value_axis(title))
    others = data[~mine]
    drawn = [zero_rule(), *_others(others, y), *_frozen(data[mine], look, scale, y)]
    panel = alt.layer(*drawn).properties(width=PLOT, height=230)
    items: list[KeyItem] = [("point", look.color, look.shape, look.label)]
    items.append(("thin", look.color, "", INTERVAL))
    if data.loc[mine, "shrunken"].notna().any():
        items.append(("hollow", look.color, "diamond", "shrunken estimate"))
    if len(others):
        plans = others["plan"].unique()
        one = looks[plans[0]].label if len(plans) == 1 else f"{len(plans)} runners-up"
        items.append(("point", *RUNNER_UP, one))
    finding = path_finding(tables, levels, **where)
    heading = "The frozen plan from search to confirm"
    chart = alt.vconcat(panel, key(items))
    return finish(chart, heading, where, finding, ["mean change on the search tasks"])


def _data(rows: pd.DataFrame, layers: int, unit: str) -> pd.DataFrame:
    """Return the data of the points, with the shrunken estimate in words."""
    records = rows.to_dict("records")
    numbers = ["effect", "low", "high", "shrunken", "shrunken_low", "shrunken_high"]
    shrunken = [
        "" if pd.isna(row["shrunken"]) else interval(row, "shrunken", short_unit(unit))
        for row in records
    ]
    data = rows[["plan", "group", "stage", "place", "n"]].assign(
        **{column: rows[column].astype(float).round(3) for column in numbers},
        words=[plan_words(plan, layers) for plan in rows["plan"]],
        task="mean of the search tasks",
        effect_text=[interval(row, unit=short_unit(unit)) for row in records],
        shrunken_text=shrunken,
        label=[interval(row) for row in records],
    )
    return data


def _x(rows: pd.DataFrame) -> alt.X:
    """Return the axis of the stages, which says how many documents each had."""
    said = {row["place"]: f"{row['stage']}, n = {row['n']:,}" for row in rows.to_dict("records")}
    words = " : ".join(f"datum.value == {place} ? '{text}'" for place, text in said.items())
    return alt.X(
        "place:Q",
        scale=alt.Scale(domain=[-0.3, len(STAGES) - 0.7], nice=False),
        axis=alt.Axis(title="", values=list(said), labelExpr=f"{words} : ''", grid=False),
    )


def _tips() -> list[Any]:
    return tooltip(
        alt.Tooltip("stage:N", title="stage"),
        alt.Tooltip("shrunken_text:N", title="shrunken"),
        alt.Tooltip("n:Q", title="documents"),
    )


def _others(rows: pd.DataFrame, y: alt.Y) -> list[alt.Chart]:
    """Draw the runners-up as light lines."""
    if rows.empty:
        return []
    color, shape = RUNNER_UP
    x = alt.X("place:Q", scale=alt.Scale(domain=[-0.3, len(STAGES) - 0.7], nice=False))
    chart = alt.Chart(rows).encode(x=x, y=y)
    look: dict[str, Any] = {"color": color, "opacity": 0.4}
    points = chart.mark_point(shape=shape, filled=True, size=50, **look).encode(tooltip=_tips())
    return [chart.mark_line(strokeWidth=1.2, **look).encode(detail="plan:N"), points]


def _frozen(rows: pd.DataFrame, look: Look, scale: alt.Scale, y: alt.Y) -> list[alt.Chart]:
    """Draw the frozen plan: line, intervals, markers with their values, shrunken estimates."""
    chart = alt.Chart(rows).encode(x=_x(rows))
    kept = chart.transform_filter("isValid(datum.shrunken)")
    axis = y["axis"]
    marker: dict[str, Any] = {"color": look.color, "opacity": 1}
    aside: dict[str, Any] = {"xOffset": APART, "color": look.color}
    return [
        chart.mark_line(strokeWidth=1.4, color=look.color).encode(y=y),
        interval_rules(chart, alt.Y("low:Q", scale=scale, axis=axis), "high", color=look.color),
        interval_rules(
            kept,
            alt.Y("shrunken_low:Q", scale=scale, axis=axis),
            "shrunken_high",
            strokeDash=[2, 2],
            **aside,
        ),
        kept.mark_point(shape="diamond", fill="white", size=60, opacity=1, **aside).encode(
            y=alt.Y("shrunken:Q", scale=scale, axis=axis), tooltip=_tips()
        ),
        chart.mark_point(shape=look.shape, filled=True, size=75, **marker).encode(
            y=y, tooltip=_tips()
        ),
        chart.mark_text(baseline="bottom", dy=-5, color=look.color).encode(
            y=alt.Y("high:Q", scale=scale, axis=axis), text="label:N"
        ),
    ]


def path_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say what the frozen plan's effect was at each stage, and how much of it did not last."""
    rows = _steps(tables, **where)
    if rows.empty:
        return ""
    own = rows[rows["group"] == "frozen"]
    unit = _unit(tables, **where)
    said = plan_words(own["plan"].iloc[0], model_layers(tables, where["model"]))
    stages = {row["stage"]: row for row in own.to_dict("records")}
    where_seen = {
        "search": "in the search",
        "select": "in select",
        "confirm": "on the fresh documents of confirm",
    }
    measured = [
        f"{change_text(row | {'unit': unit}, unit='' if number else f' {unit}'.rstrip())} "
        f"{where_seen[stage]}"
        for number, (stage, row) in enumerate(stages.items())
    ]
    text = f"Running {said} changed the mean of the search tasks by {listed(measured)}."
    chosen = [row for stage, row in stages.items() if stage != "confirm"]
    if not chosen:
        return text
    last = chosen[-1]
    if pd.notna(last["shrunken"]):
        ends = {"effect": last["shrunken"], "unit": unit}
        kept = change_text(last | ends, "shrunken_low", "shrunken_high")
        text += f" Once the luck of the choice is taken off, {kept} was to be expected."
    if "confirm" not in stages:
        return f"{text} It is not confirmed on fresh documents yet."
    end = stages["confirm"]
    if not end["low"] <= last["effect"] <= end["high"]:
        lost = last["effect"] - end["effect"]
        turn = "overstated" if lost > 0 else "understated"
        size = f"{abs(lost):.1f} {short_unit(unit)}".rstrip()
        text += f" {last['stage'].capitalize()} {turn} it by {size}."
    return text
