"""Quality against the speed that was measured, of the plans that were confirmed."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    GREY,
    INK,
    PLOT,
    Look,
    base_text,
    blank,
    cut_axis,
    finish,
    interval_rules,
    number_axis,
    panel_title,
    plan_looks,
    point_data,
    short_unit,
    tooltip,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import INTERVAL, layers_of, listed, plan_words, shorten

# The height of a task's panels of speed, in pixels.
LINE = 92
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
    intervals; ticks on the axis stand where the arithmetic alone would put a plan.
    """
    rows = _timed(tables, **where)
    if rows.empty:
        return blank(f"{where['model']}: no cost was measured for plans that were confirmed.")
    looks = plan_looks(tables, where["model"])
    shown = {plan: look for plan, look in looks.items() if plan in set(rows["plan"])}
    domains = {}
    for way in WAYS:
        # One repeat has no interval.
        columns = [f"{way}_ratio{end}" for end in ("", "_low", "_high")] + ["arithmetic_ratio"]
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
        lines.append(alt.hconcat(*panels, spacing=20, bounds="flush").properties(title=title))
    items: list[KeyItem] = [
        ("point", look.color, look.shape, look.label) for look in shown.values()
    ]
    items += [
        ("thin", GREY, "", f"{INTERVAL}s of change and of speed"),
        ("❙", INK, "", "speed by arithmetic alone"),
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
) -> Any:
    """Draw one task's plans against one of the two speeds."""
    axis = value_axis("change, " + short_unit(rows["unit"].iloc[0]), tickCount=4)
    if way != next(iter(WAYS)):
        axis = value_axis("", labels=False, tickCount=4, minExtent=0, maxExtent=0)
    scale = alt.Scale(domain=cut.domain, nice=False, zero=False)
    along = alt.Scale(domain=domain, nice=False, zero=False)
    below = number_axis(
        f"speed of {WAYS[way]}, base = 1" if lowest else "",
        labels=lowest,
        tickCount=5,
        grid=False,
    )
    x = alt.X(f"{way}_ratio:Q", scale=along, axis=below)
    domain_of: dict[str, Any] = {"domain": list(looks)}
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
    ratio: dict[str, Any] = {"format": ".2f"}
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
    ticks = (
        alt.Chart(expected)
        .mark_tick(color=INK, thickness=2.5, size=12)
        .encode(
            x=alt.X("arithmetic_ratio:Q", scale=along, axis=below),
            y=alt.value(LINE - 6),
            tooltip=alt.Tooltip("arithmetic_ratio:Q", title="speed by arithmetic", **ratio),
        )
    )
    points = chart.mark_point(filled=True, size=62, opacity=1)
    return alt.layer(
        zero_rule(),
        zero_rule(horizontal=False).encode(x=alt.datum(1)),
        interval_rules(plans, ends, "shown_high"),
        across,
        points.encode(y=y, shape=shape, tooltip=tips),
        ticks,
    ).properties(width=(PLOT - 20) // 2, height=LINE)


def quality_speed_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say how fast the frozen plan is relative to its base, by the clock and by arithmetic."""
    rows = _timed(tables, **where)
    if rows.empty:
        return ""
    looks = plan_looks(tables, where["model"])
    plans = rows[rows["plan"] != "base"].drop_duplicates("plan")
    own = plans[plans["plan"].map(lambda p: p in looks and looks[p].group == "frozen")]
    row = (own if len(own) else plans).iloc[0]
    said = plan_words(row["plan"], layers_of(row))
    speeds = []
    for way, words in WAYS.items():
        low, high = row[f"{way}_ratio_low"], row[f"{way}_ratio_high"]
        # Fewer repeats than six have no interval.
        ends = f" [{low:.2f}, {high:.2f}]" if pd.notna(low) else ""
        speeds.append(f"{words} at {row[f'{way}_ratio']:.2f} times{ends}")
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
