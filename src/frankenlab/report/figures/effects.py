"""What repeating does: layer by layer, and with the number of repetitions."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.quality import mean_over_tasks
from frankenlab.report.figures.style import (
    GREY,
    INK,
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
    short_unit,
    survivors,
    tooltip,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import INTERVAL, interval, layers_of, listed, plural, shorten

# Of the numbers of times that a layer runs: darker for more.
COUNTS = (("#938bc9", "circle"), ("#5b4aa0", "square"), ("#2b1b60", "triangle-up"))
# Layers between the marks of two counts of one layer.
APART = 0.3
TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}
FAINT = "#bcc3cc"
# The width of each of two panels side by side.
COLUMN = (PLOT - 72) // 2


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
            f"Running {high} layer {_times(count)} measures best: "
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
    return rows[rows["task"] == tasks[0]], f"on {tasks[0]}{_measure(rows['unit'].iloc[0])}"


def repetition_effect(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw how the effect changes with the number of times that a block runs.

    One panel a task: the mean over all blocks that ran with every count, in bold, over the single
    blocks. All lines start at the base, which runs each block once.
    """
    means = rows_of(tables.get("repetitions"), **where)
    if means.empty:
        return blank(f"{where['model']}: no block of the search ran with several counts.")
    rows = loops(tables.get("comparisons"), **where)
    width = COLUMN if means["task"].nunique() > 1 else PLOT
    panels = [
        _repetition_panel(task, part, rows[rows["task"] == task], width)
        for task, part in means.groupby("task", sort=False)
    ]
    blocks = plural(int(means["blocks"].max()), "block")
    items = [
        ("point", INK, "circle", f"mean over all {blocks} that ran with every count shown"),
        ("thick", INK, "", INTERVAL),
        ("point", FAINT, "circle", "the single blocks"),
    ]
    chart = alt.vconcat(alt.concat(*panels, columns=2, spacing=14), key(items))
    finding = repetition_effect_finding(tables, levels, **where)
    return finish(
        chart, "More repetitions of the same blocks", where, finding, ["search documents"]
    )


def _repetition_panel(task: str, means: pd.DataFrame, rows: pd.DataFrame, width: int) -> Any:
    """Draw one task: the mean in bold over the blocks that it is the mean of."""
    counts = sorted(means["times"].astype(int))
    rows = rows[rows["times"].isin(counts)]
    blocks = rows.groupby(["start", "length"])["times"].transform("nunique")
    rows = rows[blocks == len(counts)]
    single = point_data(rows, "times", "n", "start", "length") if len(rows) else pd.DataFrame()
    unit = means["unit"].iloc[0]
    mean = means[["times", "blocks", "n", "effect", "low", "high"]].assign(
        task=task,
        effect_text=[interval(row, unit=short_unit(unit)) for row in means.to_dict("records")],
    )
    once = {"times": 1, "effect": 0.0, "low": 0.0, "high": 0.0}
    mean = pd.concat([pd.DataFrame([once]), mean], ignore_index=True)
    both = [
        frame[["effect", "low", "high"]]
        for frame in (mean, single.assign(**_flat(single)))
        if len(frame)
    ]
    cut = cut_axis(pd.concat(both))
    scale = alt.Scale(domain=cut.domain, nice=False, zero=False)
    ticks = [1, *counts]
    x = alt.X(
        "times:Q",
        scale=alt.Scale(domain=[0.85, counts[-1] + 0.15], nice=False),
        axis=alt.Axis(
            title="times that the block runs",
            values=ticks,
            grid=False,
            labelExpr="datum.value == 1 ? '1 (base)' : format(datum.value, 'd')",
        ),
    )
    axis = value_axis(effect_title(unit))
    y = alt.Y("effect:Q", scale=scale, axis=axis)
    drawn = [zero_rule()]
    if len(single):
        drawn += _single_lines(single, x, y)
    chart = alt.Chart(mean).encode(x=x)
    bars = chart.transform_filter("datum.times > 1")
    drawn += [
        chart.mark_line(color=INK, strokeWidth=2.2).encode(y=y),
        interval_rules(
            bars, alt.Y("low:Q", scale=scale, axis=axis), "high", color=INK, strokeWidth=2
        ),
        bars.mark_point(color=INK, filled=True, size=60, opacity=1).encode(
            y=y,
            tooltip=[
                alt.Tooltip("task:N", title="task"),
                alt.Tooltip("times:Q", title="times"),
                alt.Tooltip("effect_text:N", title="mean change"),
                alt.Tooltip("blocks:Q", title="blocks"),
                alt.Tooltip("n:Q", title="documents"),
            ],
        ),
    ]
    title = panel_title(f"{shorten(task)}, n = {int(means['n'].max()):,}", cut.note)
    return alt.layer(*drawn).properties(width=width, height=190, title=title)


def _flat(rows: pd.DataFrame) -> dict[str, Any]:
    """Return intervals of no width: those of single blocks are not drawn."""
    return {"low": rows["effect"], "high": rows["effect"]} if len(rows) else {}


def _single_lines(rows: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Draw a light line for each block, from the base, and points for its plans."""
    block = rows["start"].astype(str) + "+" + rows["length"].astype(str)
    rows = rows.drop(columns=["start", "length"]).assign(block=block)
    once = pd.DataFrame({"block": block.unique(), "times": 1, "effect": 0.0})
    once = once.assign(plan=BASE, words="the unmodified model", task=rows["task"].iloc[0])
    strength = float(np.clip(12 / len(once), 0.15, 0.9))
    look: dict[str, Any] = {"color": FAINT, "clip": True, "opacity": strength}
    chart = alt.Chart(pd.concat([once, rows], ignore_index=True)).encode(x=x, y=y)
    points = chart.transform_filter("datum.times > 1").encode(
        tooltip=tooltip(alt.Tooltip("n:Q", title="documents"))
    )
    return [
        chart.mark_line(strokeWidth=1, **look).encode(detail="block:N"),
        points.mark_point(filled=True, size=22, **look),
    ]


def repetition_effect_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say what more repetitions do, on the mean over the blocks that ran with every count."""
    means = rows_of(tables.get("repetitions"), **where)
    if means.empty:
        return ""
    said, turns, overlap = [], set(), []
    for task, rows in means.groupby("task", sort=False):
        rows = rows.sort_values("times")
        first, last = rows.iloc[0], rows.iloc[-1]
        turns.add(int(np.sign(last["effect"] - first["effect"])))
        if first["low"] <= last["high"] and last["low"] <= first["high"]:
            overlap.append(str(task))
        said.append(
            f"{task}{_measure(first['unit'])} changes by "
            f"{change_text(first, unit=' ' + first['unit'])} {_run(first['times'])} "
            f"and by {change_text(last)} {_run(last['times'])}"
        )
    opening = "More repetitions do not measure alike on all tasks"
    if len(turns) == 1:
        word = {-1: "measure worse", 0: "change nothing", 1: "measure better"}[turns.pop()]
        opening = f"More repetitions {word}"
    if len(overlap) == len(said):
        opening += ", but the intervals overlap"
    elif overlap:
        opening += f", but the intervals overlap on {listed(overlap)}"
    blocks = int(means["blocks"].max())
    return f"{opening}: on average over {plural(blocks, 'block')}, {'; '.join(said)}."


def _measure(unit: str) -> str:
    """Return what changes, where it is not the share of right answers."""
    return " (perplexity)" if unit == "log-percent" else ""


def _run(times: float) -> str:
    return f"run {_times(int(times))}"
