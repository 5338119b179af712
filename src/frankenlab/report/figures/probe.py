"""What each layer does to the hidden state: how far it moves it, and how alike the states are."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import key
from frankenlab.report.figures.style import (
    BLUE,
    ORANGE,
    PLOT,
    blank,
    finish,
    number_axis,
    panel_title,
    value_axis,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import PART_WORDS, cosine_text, listed, plural

PASSES = {"first": (BLUE, "circle", "first pass"), "second": (ORANGE, "square", "second pass")}
# The widths of three panels side by side.
COLUMN = (PLOT - 96) // 3
SIDE = 400


def _mean(tables: Tables, name: str, keys: list[str], **where: str) -> pd.DataFrame:
    """Return a table of a probe as a mean over its tasks."""
    rows = rows_of(tables.get(name), **where)
    return rows.groupby(keys, as_index=False).mean(numeric_only=True) if len(rows) else rows


def _read(tables: Tables, name: str, **where: str) -> str:
    """Return which prompts a probe read, as a note of its picture."""
    tasks = list(rows_of(tables.get(name), **where)["task"].unique())
    return f"prompts of {listed(tasks)}"


def layer_updates(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw how far each layer and its parts move the state, on a first and on a second pass."""
    rows = _mean(tables, "probe", ["layer"], **where)
    if rows.empty:
        return blank(f"{where['model']}: its layers were not probed.")
    data = pd.concat(
        pd.DataFrame(
            {
                "layer": rows["layer"],
                "part": part,
                "pass": name,
                "update": rows[f"{name}_{part}"].astype(float).round(5),
            }
        )
        for part in PART_WORDS
        for name in PASSES
    )
    data = data[data["update"] > 0]
    domain = [float(data["update"].min()) / 1.2, float(data["update"].max()) * 1.2]
    panels = [_updates_panel(data, part, domain, len(rows)) for part in PART_WORDS]
    items = [("point", *look) for look in PASSES.values()]
    chart = alt.vconcat(alt.hconcat(*panels, spacing=12), key(items))
    finding = layer_updates_finding(tables, levels, **where)
    title = "How far each layer moves the hidden state"
    return finish(chart, title, where, finding, [_read(tables, "probe", **where)])


def _updates_panel(data: pd.DataFrame, part: str, domain: list[float], layers: int) -> Any:
    own = data[data["part"] == part]
    names: dict[str, Any] = {"domain": list(PASSES)}
    colors = alt.Scale(**names, range=[look[0] for look in PASSES.values()])
    shapes = alt.Scale(**names, range=[look[1] for look in PASSES.values()])
    ticks = list(range(0, layers, int(np.ceil(layers / 6))))
    first = part == next(iter(PART_WORDS))
    steps = [step * 10.0**power for power in range(-6, 6) for step in (1, 2, 5)]
    values = [step for step in steps if domain[0] <= step <= domain[1]]
    axis = value_axis("size of the update / of the state" if first else "", values=values)
    chart = alt.Chart(own).encode(
        x=alt.X("layer:Q", axis=number_axis("layer", values=ticks, grid=False, format="d")),
        y=alt.Y("update:Q", scale=alt.Scale(type="log", domain=domain, nice=False), axis=axis),
        color=alt.Color("pass:N", scale=colors, legend=None),
    )
    points = chart.mark_point(filled=True, size=22, opacity=1).encode(
        shape=alt.Shape("pass:N", scale=shapes, legend=None),
        tooltip=[
            alt.Tooltip("layer:Q", title="layer"),
            alt.Tooltip("pass:N", title="pass"),
            alt.Tooltip("update:Q", title="size"),
        ],
    )
    lines = chart.mark_line(strokeWidth=1.2)
    return alt.layer(lines, points).properties(
        width=COLUMN, height=180, title=panel_title(PART_WORDS[part])
    )


def layer_updates_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say how large the layers' updates are on both passes, and whether they point one way."""
    rows = _mean(tables, "probe", ["layer"], **where)
    if rows.empty:
        return ""
    first, second = (float(rows[f"{name}_block"].median()) for name in PASSES)
    more = int((rows["second_block"] > rows["first_block"]).sum())
    turn = float(rows["turn_block"].median())
    way = "much the same way" if turn > 0.7 else "partly the same way" if turn > 0.3 else ""
    way = way or ("about unrelated ways" if turn > -0.3 else "opposite ways")
    return (
        f"In the median a layer's update is {first:.2g} times the size of the hidden state on its "
        f"first pass and {second:.2g} times on a second; {more} of {plural(len(rows), 'layer')} "
        f"add more on the second. The two updates point {way} (median cosine {cosine_text(turn)})."
    )


def state_similarity(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the mean cosine between the hidden states before, between and after the layers."""
    rows = _mean(tables, "similarity", ["first", "second"], **where)
    if rows.empty:
        return blank(f"{where['model']}: its layers were not probed.")
    data = rows[["first", "second", "cosine", "angle"]].round(3)
    other = data.rename(columns={"first": "second", "second": "first"})
    states = sorted({*rows["first"], *rows["second"]})
    own = pd.DataFrame({"first": states, "second": states, "cosine": 1.0, "angle": 0.0})
    ticks = states[:: max(1, int(np.ceil(len(states) / 16)))]
    axis: dict[str, Any] = {"values": ticks, "labelAngle": 0, "grid": False, "domain": False}
    band = alt.Scale(paddingInner=0, paddingOuter=0)
    title = "state after so many layers"
    legend = alt.Legend(title="mean cosine", orient="right", gradientLength=160)
    low = float(min(0.0, data["cosine"].min()))
    chart = (
        alt.Chart(pd.concat([data, other, own]))
        .mark_rect()
        .encode(
            x=alt.X("second:O", sort=states, scale=band, axis=alt.Axis(title=title, **axis)),
            y=alt.Y("first:O", sort=states, scale=band, axis=alt.Axis(title=title, **axis)),
            color=alt.Color(
                "cosine:Q",
                scale=alt.Scale(scheme="viridis", domain=[round(low, 2), 1]),
                legend=legend,
            ),
            tooltip=[
                alt.Tooltip("first:O", title="state after layers"),
                alt.Tooltip("second:O", title="and after"),
                alt.Tooltip("cosine:Q", title="mean cosine"),
                alt.Tooltip("angle:Q", title="angular distance, last token"),
            ],
        )
        .properties(width=SIDE, height=SIDE)
    )
    finding = state_similarity_finding(tables, levels, **where)
    heading = "How alike the hidden states are"
    return finish(chart, heading, where, finding, [_read(tables, "similarity", **where)])


def state_similarity_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say how alike neighbouring states are, and which layers change the state most and least."""
    rows = _mean(tables, "similarity", ["first", "second"], **where)
    if rows.empty:
        return ""
    near = rows[rows["second"] == rows["first"] + 1].set_index("first")["cosine"]
    return (
        "The hidden state before and after a layer has a cosine of "
        f"{cosine_text(near.median())} in the median over the layers; layer {near.idxmin()} turns "
        f"it most ({cosine_text(near.min())}) and layer {near.idxmax()} least "
        f"({cosine_text(near.max())})."
    )
