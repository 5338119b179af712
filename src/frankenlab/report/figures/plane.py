"""Quality against cost of all that was confirmed: plans, bitrates and the next larger model."""

from typing import Any

import altair as alt
import pandas as pd

from frankenlab.analyse.plane import FRONTS, LARGER, on_front
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE
from frankenlab.report.figures.bitrates import APART, BYTE_UNITS, LABEL, names, round_ticks
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PLOT,
    RED,
    STAR,
    blank,
    change_text,
    cut_axis,
    effect_title,
    finish,
    interval_rules,
    panel_title,
    point_data,
    tooltip,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    INTERVAL,
    layers_of,
    listed,
    plan_words,
    plural,
    quantization_name,
    quantization_words,
    share,
)

# Group of a point -> colour, shape and words.
GROUPS = {
    "base": ("black", STAR, "base, at each bitrate"),
    LARGER: (RED, STAR, "next larger model"),
    "frozen": (BLUE, "circle", "frozen plan"),
    "random": (ORANGE, "triangle-down", "random block"),
    "spread": ("#9a6a43", "cross", "spread over the depth"),
    "repeated": ("#7a7a7a", "square", "repeated, undamped"),
    "damped": ("#b0699b", "M-1,-0.6H1V0.6H-1Z", "damped"),
    "skipped": (GREEN, "triangle-left", "layers left out"),
    "reordered": ("#5b4aa0", "M-1,-1L0,0L-1,1ZM1,-1L0,0L1,1Z", "in another order"),
}
COUNTS = (("billions", 1e9), ("millions", 1e6), ("thousands", 1e3))
# From this share of the resamples on, a point is said to be on the front: of plans that change
# nothing, the best often has half of them by luck.
SURE = 0.95


def plane(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the change against the base over what each token costs, of all that was confirmed.

    Two panels for the mean of the search tasks of one unit, or for a task that is the only one of
    its unit: over the bytes of weights that are read, and over the multiplications by weights. A
    mark is as full as it is probable that the point is on the Pareto front.
    """
    views = _views(rows_of(tables.get("plane"), **where))
    if not views:
        return blank(f"{where['model']}: nothing was confirmed.")
    panels = [_panel(view, cost) for view in views for cost in FRONTS]
    found = set(pd.concat(views)["group"])
    items: list[KeyItem] = [("point", *look) for group, look in GROUPS.items() if group in found]
    items += [
        ("hollow", GREY, "circle", "never on the Pareto front; the fuller, the more probably"),
        ("thin", INK, "", INTERVAL),
        ("thin", GREY, "", "the Pareto front as measured"),
    ]
    finding = plane_finding(tables, levels, **where)
    chart = alt.vconcat(*panels, key(items))
    return finish(chart, "What the same cost buys", where, finding, ["confirm documents"])


def _views(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows to show: of each unit the mean of its tasks, or else its one task."""
    if rows.empty:
        return []
    return [part[part["tasks"] == part["tasks"].max()] for _, part in rows.groupby("unit")]


def _unit(column: str, least: float) -> tuple[str, float]:
    """Return the unit of a cost's axis, and its size."""
    units = BYTE_UNITS if column == "read_bytes" else COUNTS
    return next((unit for unit in units if least >= unit[1]), units[-1])


def _panel(rows: pd.DataFrame, column: str) -> Any:
    """Draw the points over one cost."""
    first = rows.iloc[0]
    unit, size = _unit(column, rows[column].min())
    what = "weights read" if column == "read_bytes" else "multiplications by weights"
    rows = rows.assign(cost=rows[column] / size, chance=rows[FRONTS[column]])
    least, most = float(rows["cost"].min()), float(rows["cost"].max())
    room = max((most / least) ** 0.05, 1.01)
    domain = (least / room, most * room**2)
    # What costs the same stands side by side.
    aside = rows.groupby("cost").cumcount() * APART / PLOT
    rows = rows.assign(at=rows["cost"] * (domain[1] / domain[0]) ** aside)
    data = point_data(rows, "at", "cost", "chance", "point_model", "group", "n").assign(
        at=rows["at"].round(5),
        cost=rows["cost"].round(4),
        chance=rows["chance"].round(3),
        weights=rows["point_quantization"].map(quantization_name),
        color=[GROUPS[group][0] for group in rows["group"]],
        shape=[GROUPS[group][1] for group in rows["group"]],
    )
    cut = cut_axis(data)
    x = alt.X(
        "at:Q",
        scale=alt.Scale(type="log", domain=list(domain), nice=False),
        axis=alt.Axis(
            title=f"{what} for each token, {unit} (logarithmic)",
            values=round_ticks(*domain, LABEL / PLOT),
            grid=False,
            format="~g",
        ),
    )
    scale = alt.Scale(domain=cut.domain, nice=False, zero=False)
    axis = value_axis(effect_title(first["unit"]))
    y = alt.Y("shown:Q", scale=scale, axis=axis)
    inside = alt.Chart(cut.data[~cut.data["below"]]).encode(x=x)
    color = alt.Color("color:N", scale=None)
    points = inside.mark_point(size=70, strokeWidth=1.3, opacity=1).encode(
        y=y,
        stroke=alt.Stroke("color:N", scale=None),
        fill=alt.Fill("color:N", scale=None),
        fillOpacity=alt.FillOpacity(
            "chance:Q", scale=alt.Scale(domain=[0, 1], range=[0, 1]), legend=None
        ),
        shape=alt.Shape("shape:N", scale=None),
        tooltip=tooltip(
            alt.Tooltip("point_model:N", title="model"),
            alt.Tooltip("weights:N", title="weights"),
            alt.Tooltip("cost:Q", title=unit, format=",.4~g"),
            alt.Tooltip("chance:Q", title="on the front", format=".0%"),
            alt.Tooltip("n:Q", title="documents"),
        ),
    )
    bars = interval_rules(inside, alt.Y("shown_low:Q", scale=scale, axis=axis), "shown_high")
    drawn = [zero_rule(), _stairs(rows, domain[1], x, scale, axis), bars.encode(color=color)]
    whole = rows[rows["plan"] == BASE].sort_values("at")
    whole = whole.assign(name=[_weights(row) for _, row in whole.iterrows()])
    drawn += [points, names(whole, "at", domain, PLOT, x)]
    if cut.note:
        drawn.append(cut.arrows(x))
    title = f"{first['task']}, n = {first['n']:,}"
    titled = panel_title(title, cut.note)
    titled.offset = 16
    return alt.layer(*drawn).properties(width=PLOT, height=190, title=titled)


def _stairs(
    rows: pd.DataFrame, end: float, x: alt.X, scale: alt.Scale, axis: alt.Axis
) -> alt.Chart:
    """Draw the Pareto front as it was measured."""
    front = rows[on_front(rows["cost"].to_numpy(), rows["effect"].to_numpy())]
    line = front.sort_values("cost")[["cost", "effect"]].round(4).rename(columns={"cost": "at"})
    last = pd.DataFrame({"at": [end], "effect": [line["effect"].iloc[-1]]})
    chart = alt.Chart(pd.concat([line, last])).mark_line(
        interpolate="step-after", color=GREY, strokeWidth=1.8, clip=True
    )
    return chart.encode(x=x, y=alt.Y("effect:Q", scale=scale, axis=axis))


def plane_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say what is probably on the Pareto front, and whether the frozen plan is."""
    return " ".join(_said(view) for view in _views(rows_of(tables.get("plane"), **where)))


def _said(rows: pd.DataFrame) -> str:
    cheapest = rows.loc[rows["read_bytes"].idxmin()]
    others = rows.drop(cheapest.name).sort_values("on_front", ascending=False)
    on = f"{'the ' * bool(rows['tasks'].iloc[0] > 1)}{rows['task'].iloc[0]}"
    first = (
        f"Of {plural(len(rows), 'combination')} of a plan with weights, compared on {on}, "
        f"{_named(cheapest)} reads the fewest bytes for each token"
    )
    if others.empty:
        return f"{first}."
    sure = others[others["on_front"] >= SURE]
    resamples = "the resamples of the documents"
    if sure.empty:
        best = others.iloc[0]
        said = [
            f"{first}; no other is on the Pareto front in {share(SURE)} of {resamples} (most often "
            f"{_named(best)}, in {share(best['on_front'])})."
        ]
    else:
        verb = "is" if len(sure) == 1 else "are"
        each = listed([_named(row) for _, row in sure.iterrows()])
        said = [
            f"{first}; in at least {share(SURE)} of {resamples} {each} {verb} on the Pareto front "
            "too."
        ]
    own = rows[(rows["group"] == "frozen") & (rows["point_quantization"] == rows["quantization"])]
    return " ".join([*said, *(_frozen(row, rows) for _, row in own.iterrows())])


def _frozen(own: pd.Series, rows: pd.DataFrame) -> str:
    """Say whether the frozen plan is on the front, and what else its cost buys."""
    as_cheap = rows[rows["read_bytes"] <= own["read_bytes"]].drop(own.name)
    said = (
        f"The frozen plan, {_plan(own)}, is on it in {share(own['on_front'])} of them, and on that "
        f"of quality against multiplications in {share(own['on_front_compute'])}"
    )
    unit = f" {own['unit']}"
    mine = change_text(own, unit=unit)
    if as_cheap.empty:
        return f"{said}; nothing else reads as few bytes. Its own change is {mine}."
    best = as_cheap.loc[as_cheap["effect"].idxmax()]
    # What all changes are measured against has none.
    change = "the base of all comparisons" if _is_home(best) else change_text(best, unit=unit)
    return f"{said}; the best that reads no more is {_named(best)} ({change}; the plan: {mine})."


def _is_home(row: pd.Series) -> bool:
    """Tell whether a point is the base with which all are compared."""
    return bool(row["group"] == "base" and row["point_quantization"] == row["quantization"])


def _plan(row: pd.Series) -> str:
    words = plan_words(row["plan"], layers_of(row))
    return f"the model {words}" if words.startswith("without") else words


def _weights(row: pd.Series) -> str:
    """Return the short name of weights: "unquantized", or "m-360m unquantized" of a larger
    model."""
    name = quantization_name(row["point_quantization"])
    return f"{row['point_model']} {name}" if row["group"] == LARGER else name


def _named(row: pd.Series) -> str:
    """Return "the base at exl2-4.0", "the next larger model m-360m unquantized", "the frozen plan"
    or "layer 4 twice"."""
    weights = quantization_words(row["point_quantization"])
    if row["group"] == LARGER:
        return f"the next larger model {row['point_model']} {weights}"
    named = {"base": "the base", "frozen": "the frozen plan"}
    whole = named.get(row["group"]) or _plan(row)
    if row["group"] == "base" or row["point_quantization"] != row["quantization"]:
        return f"{whole} {weights}"
    return whole
