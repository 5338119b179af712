"""What repeating a single layer does, layer by layer."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.quality import mean_over_tasks
from frankenlab.report.figures.style import (
    GREY,
    PLOT,
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
from frankenlab.report.text import INTERVAL, layers_of, listed, plural, shorten

# How each number of times that a layer runs is drawn: darker for more.
COUNTS = (
    *(("#938bc9", "circle"), ("#5b4aa0", "square"), ("#2b1b60", "triangle-up")),
    *(("#7a6fb5", "diamond"), ("#46358c", "triangle-down"), ("#1c1145", "cross")),
)
# Layers between the marks of two counts of one layer.
APART = 0.3
TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}
FAINT = "#bcc3cc"


def _times(count: int) -> str:
    return TIMES.get(count, f"{count} times")


def loops(comparisons: pd.DataFrame | None, **where: str) -> pd.DataFrame:
    """Return the plans that loop one contiguous block, one row a task, with the block's length."""
    rows = rows_of(comparisons, stage="search", part="block", scale=1.0, in_place=False, **where)
    if rows.empty:
        return rows.assign(length=[])
    rows = rows[rows["times"] > 1]
    rows = rows.assign(
        start=rows["start"].astype(int),
        times=rows["times"].astype(int),
        length=(rows["stop"] - rows["start"]).astype(int),
    )
    return rows.drop_duplicates(["task", "start", "length", "times"])


def _single(tables: Tables, **where: str) -> pd.DataFrame:
    rows = loops(tables.get("comparisons"), **where)
    return rows[rows["length"] == 1]


def layer_effects(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the effect of repeating each single layer, by how many times it runs.

    One panel a task. The lowest count stands exactly at its layer, the others beside it.
    """
    rows = _single(tables, **where)
    if rows.empty:
        return blank(f"{where['model']}: no plan of the search repeats a single layer.")
    counts = sorted(rows["times"].unique())
    series = {f"run {_times(n)}": COUNTS[i % len(COUNTS)] for i, n in enumerate(counts)}
    rows = rows.assign(
        place=rows["start"] + rows["times"].map(counts.index) * APART,
        series=rows["times"].map(dict(zip(counts, series, strict=True))),
    )
    looks = plan_looks(tables, where["model"])
    own = rows["plan"].map(lambda plan: plan in looks and looks[plan].group == "frozen")
    if own.any():
        look = looks[rows.loc[own, "plan"].iloc[0]]
        rows["series"] = rows["series"].mask(own, look.label)
        series[look.label] = (look.color, look.shape)
    right = rows["start"].max() + 0.7 + APART * (len(counts) - 1)
    parts = [part for _, part in rows.groupby("task", sort=False)]
    panels = [_layer_panel(part, series, right, part is parts[-1], levels) for part in parts]
    finding = layer_effects_finding(tables, levels, **where)
    chart = alt.vconcat(*panels, key(_layer_key(series, rows, levels)))
    return finish(chart, "Each single layer, repeated", where, finding, ["search documents"])


def _layer_key(
    series: Mapping[str, tuple[str, str]], rows: pd.DataFrame, levels: Statistics
) -> list[KeyItem]:
    """Return what the marks of `layer_effects` mean."""
    items = [("hollow", color, shape, name) for name, (color, shape) in series.items()]
    items += [
        ("point", GREY, "circle", f"filled: significant (q < {levels.fdr:g})"),
        ("hollow", GREY, "circle", "hollow: not significant"),
        ("thin", GREY, "", INTERVAL),
    ]
    if not survivors(rows).all():
        light = "light: dropped in the race, on fewer documents and without a test"
        items.append(("hollow", FAINT, "circle", light))
    return items


def _layer_panel(
    rows: pd.DataFrame,
    series: dict[str, tuple[str, str]],
    right: float,
    lowest: bool,
    levels: Statistics,
) -> Any:
    """Draw one task: bars and markers over the layers, and ▼ for what lies below the axis."""
    color = rows["series"].map({name: look[0] for name, look in series.items()})
    found = np.where(rows["significant"].astype(bool), f"q < {levels.fdr:g}", "not significant")
    rows = rows.assign(
        layer=rows["start"],
        fill=color.where(rows["significant"].astype(bool), "white"),
        strength=np.where(survivors(rows), 1, 0.4),
        test=np.where(survivors(rows), found, "dropped in the race"),
    )
    kept = ("layer", "place", "series", "fill", "strength", "test", "n")
    cut = cut_axis(point_data(rows, *kept))
    layers = int(rows["layer"].max())
    ticks = list(range(0, layers + 1, int(np.ceil((layers + 1) / 18))))
    x = alt.X(
        "place:Q",
        scale=alt.Scale(domain=[-0.7, right], nice=False),
        axis=number_axis(
            "layer that is repeated" if lowest else "", values=ticks, grid=False, format="d"
        ),
    )
    scale = alt.Scale(domain=cut.domain, nice=False, zero=False)
    names: dict[str, Any] = {"domain": list(series)}
    colors = alt.Scale(**names, range=[look[0] for look in series.values()])
    shapes = alt.Scale(**names, range=[look[1] for look in series.values()])
    chart = alt.Chart(cut.data).encode(
        x=x,
        color=alt.Color("series:N", scale=colors, legend=None),
        opacity=alt.Opacity("strength:Q", scale=None, legend=None),
    )
    axis = value_axis(effect_title(rows["unit"].iloc[0]))
    bars = interval_rules(
        chart, alt.Y("shown_low:Q", scale=scale, axis=axis), "shown_high", strokeWidth=1.2
    )
    size = 34 if layers < 50 else 16
    points = chart.transform_filter("!datum.below").mark_point(size=size, strokeWidth=1.4)
    points = points.encode(
        y=alt.Y("shown:Q", scale=scale, axis=axis),
        fill=alt.Fill("fill:N", scale=None),
        shape=alt.Shape("series:N", scale=shapes, legend=None),
        tooltip=tooltip(alt.Tooltip("test:N", title="test"), alt.Tooltip("n:Q", title="documents")),
    )
    drawn = [zero_rule(), bars, points, *([cut.arrows(x)] if cut.note else [])]
    title = panel_title(f"{shorten(rows['task'].iloc[0])}: {base_text(rows)}", cut.note)
    return alt.layer(*drawn).properties(width=PLOT, height=150, title=title)


def layer_effects_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say which part of the model bears a repetition best, and how the best layer did."""
    rows = _single(tables, **where)
    if rows.empty:
        return ""
    count = int(rows["times"].min())
    rows = rows[rows["times"] == count]
    shown, over = _over_tasks(rows)
    n_layers = layers_of(rows.iloc[0])
    layer = rows.drop_duplicates("plan").set_index("plan")["start"]
    shown = shown.assign(start=shown["plan"].map(layer))
    unit = shown["unit"].iloc[0]
    thirds = pd.cut(
        shown["start"],
        np.array([0, 1, 2, 3]) * n_layers / 3,
        right=False,
        labels=["an early", "a middle", "a late"],
    )
    means = shown.groupby(thirds, observed=True)["effect"].mean()
    best, worst = shown.loc[shown["effect"].idxmax()], shown.loc[shown["effect"].idxmin()]
    first = ""
    if len(means) > 1:
        low, high = means.idxmin(), means.idxmax()
        first = (
            f"Running {high} layer {_times(count)} "
            f"{'measures best' if means[high] > 0 else 'costs least'}: "
            f"{effect_said(means[high], unit)} on "
            f"average {over}, against {effect_said(means[low], unit)} for {low} one. "
        )
    found = rows[rows["significant"].astype(bool)].drop_duplicates("plan")
    better = found[found["effect"] > 0]
    number = rows["plan"].nunique()
    text = f"Layer {best['start']} measures best ({change_text(best, unit=f' {unit}')}), "
    text += f"layer {worst['start']} worst ({effect_said(worst['effect'], unit)}); "
    at = f"(q < {levels.fdr:g}, exploration)"
    if better.empty:
        return f"{first}{text}none of the {number} is significantly better than the base {at}."
    named = listed([f"layer {start}" for start in better["start"].astype(int)[:3]])
    more = f" and {len(better) - 3} more" if len(better) > 3 else ""
    verb = "is" if len(better) == 1 else "are"
    return (
        f"{first}{text}{named}{more} {verb} significantly better than the base on some task {at}."
    )


def _over_tasks(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return one row a plan, and over which tasks: the mean, or the first where units differ."""
    tasks = rows["task"].unique()
    if len(tasks) > 1 and rows["unit"].nunique() == 1:
        means = mean_over_tasks(rows)
        if len(means):
            return means, f"over {plural(len(tasks), 'task')}"
    return rows[rows["task"] == tasks[0]], f"on {tasks[0]}{measure(rows['unit'].iloc[0])}"


def measure(unit: str) -> str:
    """Return what changes, where it is not the share of right answers."""
    return " (perplexity)" if unit == "log-percent" else ""
