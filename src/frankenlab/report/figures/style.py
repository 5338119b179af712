"""What the figures share: theme, colours of plans, points' data, axes, layers and saving.

Every figure is one Vega-Lite chart of `WIDTH` pixels. Vega-Lite cannot fit a chart of several
panels into a width, so each panel sets its own width and its axes' `minExtent` and `maxExtent`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from frankenlab.io.files import atomic_path
from frankenlab.models.franken import FINALIST
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    interval,
    layers_of,
    metric_value,
    plan_words,
    quantization_name,
    shorten,
    signed,
    unit_name,
)

WIDTH = 680
# Of a panel beside a `value_axis` with a title of one line, so that the whole is WIDTH.
PLOT = 618
FONT = "Arial, Helvetica, Liberation Sans, sans-serif"
TEXT, SMALL = 12, 11
INK, GREY, LIGHT, BAND = "#222222", "#5f5f5f", "#e3e3e3", "#eef1f4"
BLUE, ORANGE, GREEN, RED = "#0173b2", "#de8f05", "#029e73", "#d55e00"
# Of what a plan runs again, in every figure.
PART_COLORS = {"block": "#5b4aa0", "attn": GREEN, "mlp": RED}
# Of the controls in their order; of the runner-up after them.
CONTROLS = (
    (ORANGE, "diamond"),
    ("#7a7a7a", "square"),
    ("#b0699b", "triangle-up"),
    ("#9a6a43", "triangle-down"),
)
RUNNER_UP = (GREEN, "cross")
STAR = "M0,-1.2L0.28,-0.39L1.14,-0.37L0.46,0.15L0.71,0.97L0,0.48L-0.71,0.97L-0.46,0.15L-1.14,-0.37L-0.28,-0.39Z"  # fmt: skip  # noqa: E501
SCHEMA = "6.4"

CONFIG: dict[str, Any] = {
    # The SVG as a whole carries the description; a label on each of its marks would be noise.
    "aria": False,
    "background": "white",
    "font": FONT,
    "padding": 4,
    "axis": {
        "domainColor": "#888888",
        "gridColor": LIGHT,
        "labelColor": INK,
        "labelFontSize": SMALL,
        "labelOverlap": "greedy",
        "tickColor": "#888888",
        "tickSize": 4,
        "titleColor": INK,
        "titleFontSize": TEXT,
        "titleFontWeight": "normal",
        "titlePadding": 6,
    },
    "concat": {"spacing": 12},
    "header": {"labelFontSize": TEXT, "title": None},
    "legend": {
        "labelColor": INK,
        "labelFontSize": SMALL,
        "labelLimit": 420,
        "orient": "bottom",
        "titleColor": INK,
        "titleFontSize": SMALL,
        "titleFontWeight": "normal",
    },
    "text": {"color": INK, "fontSize": SMALL},
    "title": {
        "anchor": "start",
        "color": INK,
        "fontSize": TEXT,
        "fontWeight": "bold",
        "offset": 8,
        "subtitleColor": GREY,
        "subtitleFontSize": SMALL,
    },
    "view": {"stroke": None},
}


@dataclass(frozen=True)
class Look:
    """How a plan is drawn in every figure: its colour, its marker, its name in a legend."""

    group: str
    color: str
    shape: str
    label: str


def model_layers(tables: Tables, model: str) -> int:
    """Return how many layers a model has; 0 when no table says it."""
    for name in ("comparisons", "verdicts", "costs"):
        rows = rows_of(tables.get(name), model=model)
        if len(rows) and "relative_depth" in rows:
            return round(rows["depth"].iloc[0] / rows["relative_depth"].iloc[0])
    return 0


def plan_looks(tables: Tables, model: str) -> dict[str, Look]:
    """Return the look of the base, the frozen plan, its controls and the runner-up of a model.

    A plan has the same look in all figures: the order of the controls is that of `verdicts`.
    """
    layers = model_layers(tables, model)
    looks = {"base": Look("base", "black", STAR, "base")}
    named = [
        rows_of(tables.get(name), model=model) for name in ("verdicts", "costs", "path", "tradeoff")
    ]
    plans = pd.concat([rows[["plan", "group"]] for rows in named if len(rows)] or [_NO_PLANS])
    plans = plans.drop_duplicates("plan")
    controls = iter(CONTROLS * (1 + len(plans) // len(CONTROLS)))
    for plan, group in plans.itertuples(index=False):
        said = shorten(plan_words(plan, layers) if layers else plan, 52)
        if plan in looks:
            continue
        if group == "control":
            looks[plan] = Look("control", *next(controls), f"control: {said}")
        elif group in ("runner-up", FINALIST):
            looks[plan] = Look("runner-up", *RUNNER_UP, f"runner-up: {said}")
        else:
            looks[plan] = Look("frozen", BLUE, "circle", f"frozen plan: {said}")
    return looks


_NO_PLANS = pd.DataFrame({"plan": [], "group": []})


def look_channels(
    looks: Mapping[str, Look], plans: Sequence[str], columns: int = 1
) -> tuple[alt.Color, alt.Shape]:
    """Return the channels `color` and `shape` of these plans, with one legend under the chart."""
    shown = [plan for plan in looks if plan in set(plans)]
    labels = json.dumps({plan: looks[plan].label for plan in shown}, ensure_ascii=False)
    legend = alt.Legend(
        title=None, orient="bottom", columns=columns, labelExpr=f"({labels})[datum.label]"
    )
    color = alt.Color(
        "plan:N",
        scale=alt.Scale(domain=shown, range=[looks[plan].color for plan in shown]),
        legend=legend,
    )
    shapes = alt.Scale(domain=shown, range=[looks[plan].shape for plan in shown])
    return color, alt.Shape("plan:N", scale=shapes, legend=legend)


def point_data(rows: pd.DataFrame, *more: str) -> pd.DataFrame:
    """Return the data of points: what their place, their tooltip and the page's script need.

    Takes rows with plan, depth, relative_depth, task, unit, effect, low and high; `more` names
    further columns to keep. Numbers are rounded, as every datum stands in the page.

    Returns:
        Columns plan, words, task, effect, low, high, effect_text and `more`.
    """
    records = rows.to_dict("records")
    data = pd.DataFrame(
        {
            "plan": rows["plan"],
            "words": [plan_words(row["plan"], layers_of(row)) for row in records],
            "task": rows["task"],
            **{column: rows[column].astype(float).round(3) for column in ("effect", "low", "high")},
            "effect_text": [interval(row, unit=short_unit(row["unit"])) for row in records],
        },
        index=rows.index,
    )
    return data.join(rows[list(more)]) if more else data


def tooltip(*more: str | alt.Tooltip) -> list[Any]:
    """Return the tooltip of a point of `point_data`, with further fields."""
    named = {"words": "plan", "plan": "as text", "task": "task", "effect_text": "change"}
    return [*(alt.Tooltip(f"{field}:N", title=title) for field, title in named.items()), *more]


def short_unit(unit: str) -> str:
    """Return a unit as it stands after a number: "+1.2 points"."""
    return {"log-percent": "log-%"}.get(unit, unit)


def shown_effect(value: float, unit: str) -> float:
    """Return an effect as it is drawn: of a perplexity, its change in per cent."""
    # A perplexity may end up beyond all bounds, and beyond what a number holds.
    return 100 * math.expm1(min(-value / 100, 30)) if unit == "log-percent" else value


def change_text(
    row: Mapping[str, Any], low: str = "low", high: str = "high", unit: str = ""
) -> str:
    """Return the change with the interval between two columns: "+4.1 [−0.4, +8.6]"."""
    drawn = [shown_effect(row[end], row["unit"]) for end in ("effect", low, high)]
    value, *ends = (signed(each, 0 if abs(each) >= 99.5 else 1) for each in drawn)
    percent = row["unit"] == "log-percent"
    ends = ends[::-1] if percent else ends
    return f"{value}{' %' if percent else unit} [{', '.join(ends)}]"


def effect_said(value: float, unit: str) -> str:
    """Return a change without its interval: "−2.1 points", or of a perplexity "+8.0 %"."""
    shown = shown_effect(value, unit)
    sign = signed(shown, 0 if abs(shown) >= 99.5 and unit == "log-percent" else 1)
    return f"{sign} {'%' if unit == 'log-percent' else unit}".rstrip()


def effect_title(unit: str) -> str:
    """Return the title of an axis of effects."""
    return f"change, {unit_name(unit)}"


def value_axis(title: str, **options: Any) -> alt.Axis:
    """Return a vertical axis of fixed width, so that panels above each other are aligned."""
    fixed: dict[str, Any] = {"minExtent": 34, "maxExtent": 34, "tickCount": 5} | options
    return number_axis(title, **fixed)


def number_axis(title: str, **options: Any) -> alt.Axis:
    """Return an axis whose numbers have a true minus and no needless digits."""
    minus = "replace(format(datum.value, '~g'), '-', '−')"
    labelled: dict[str, Any] = {"labelExpr": minus} | options
    return alt.Axis(title=title, **labelled)


def zero_rule(horizontal: bool = True) -> alt.Chart:
    """Return the line of no change, the base; drawn once, however many rows a chart has."""
    rule = alt.Chart(alt.InlineData(values=[{}])).mark_rule(color="#444444", strokeWidth=1)
    return rule.encode(y=alt.datum(0)) if horizontal else rule.encode(x=alt.datum(0))


def interval_rules(chart: alt.Chart, value: alt.Y | alt.X, ends: str, **look: Any) -> alt.Chart:
    """Return the bars of intervals: from the channel `value` to the column `ends`."""
    options: dict[str, Any] = {"strokeWidth": 1.2} | look
    rules = chart.mark_rule(**options)
    if isinstance(value, alt.Y):
        return rules.encode(y=value, y2=alt.Y2(ends))
    return rules.encode(x=value, x2=alt.X2(ends))


def floor_of(rows: pd.DataFrame) -> float | None:
    """Return where to cut the effect axis below, or None when nothing need be cut.

    A few plans ruin the model (repeating the first layer, say), and an axis that reaches them
    flattens all others. Keeps at least nine in ten plans and three interval half-widths.
    """
    effect, low = rows["effect"].to_numpy(float), rows["low"].to_numpy(float)
    half = (rows["high"].to_numpy(float) - low) / 2
    ordinary = min(np.quantile(effect, 0.1), -3 * np.quantile(half, 0.75), -effect.max())
    floor = low[effect >= 2 * ordinary].min()
    return float(floor) if effect.min() < floor else None


@dataclass(frozen=True)
class Cut:
    """An effect axis that a few ruinous plans would stretch.

    Attributes:
        data: the rows with columns `shown` (the effect, at least the floor), `shown_low`,
            `shown_high` and `below` (whether the effect lies under the axis).
        domain: of the axis.
        note: says how many lie below and how low; "" where nothing is cut.
    """

    data: pd.DataFrame
    domain: tuple[float, float]
    note: str

    def arrows(self, x: alt.X, **look: Any) -> alt.Chart:
        """Return a ▼ on the axis' lower end for each row that lies below it."""
        scale = alt.Scale(domain=self.domain, nice=False, zero=False)
        options: dict[str, Any] = {"size": 40, "color": GREY, "opacity": 1, "yOffset": -5} | look
        below = alt.Chart(self.data[self.data["below"]]).mark_point(
            shape="triangle-down", filled=True, **options
        )
        return below.encode(x=x, y=alt.Y("shown:Q", scale=scale), tooltip=tooltip())


def cut_axis(data: pd.DataFrame) -> Cut:
    """Cut the effect axis at `floor_of`; takes columns effect, low and high."""
    low, top = float(data["low"].min()), max(float(data["high"].max()), 0.0)
    floor = floor_of(data)
    bottom = min(low, 0.0) if floor is None else floor
    below = data["effect"] < bottom
    room = 0.04 * (top - bottom) or 1.0
    clipped = {
        f"shown{suffix}": data[column].clip(lower=bottom)
        for suffix, column in (("", "effect"), ("_low", "low"), ("_high", "high"))
    }
    worst = f"▼ {int(below.sum())} below the axis, worst {signed(data['effect'].min())}"
    domain = (round(bottom - room * (floor is None), 3), round(top + room, 3))
    return Cut(data.assign(**clipped, below=below), domain, worst if below.any() else "")


def base_text(rows: pd.DataFrame) -> str:
    """Return what the base reaches on a task's rows, and the documents of the comparisons.

    "base acc 0.520, n = 100", or "n = 25 to 100" after a race.
    """
    whole = rows.loc[rows["n"].idxmax()]
    least = rows["n"].min()
    span = f"{least} to {whole['n']}" if least < whole["n"] else f"{least}"
    return f"base {whole['metric']} {metric_value(whole['base_value'], whole['kind'])}, n = {span}"


def survivors(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are of plans that saw every document, as no race dropped them."""
    return rows["dropped"].isna()


def panel_title(text: str, note: str = "") -> alt.TitleParams:
    """Return the title of a panel, with a grey line below it; what is too long is cut."""
    subtitle: dict[str, Any] = {"subtitle": note} if note else {}
    return alt.TitleParams(text, limit=WIDTH - 80, frame="group", **subtitle)


def finish(
    chart: Any, title: str, where: Mapping[str, str], finding: str, notes: Sequence[str] = ()
) -> Any:
    """Return the whole figure: title, model and quantization, description and theme.

    `notes` follow the model on its line, and further lines where they contain a line feed.
    """
    quantization = where.get("quantization")
    of = [where.get("model", ""), quantization_name(quantization) if quantization else "", *notes]
    lines = " · ".join(filter(None, of)).split("\n")
    heading = alt.TitleParams(
        title,
        subtitle=[shorten(line, 118) for line in lines],
        fontSize=14,
        subtitlePadding=5,
        subtitleFontSize=SMALL,
        offset=12,
        frame="bounds",
        limit=WIDTH,
    )
    return chart.properties(title=heading, description=finding).configure(**CONFIG)


def blank(message: str) -> Any:
    """Return a small figure that only says why there is nothing to draw."""
    text = alt.Chart(alt.InlineData(values=[{}])).mark_text(
        text=message, align="left", color=GREY, fontSize=TEXT, limit=WIDTH - 20
    )
    chart = text.encode(x=alt.value(0)).properties(width=WIDTH - 10, height=40)
    return chart.properties(description=message).configure(**CONFIG)


def spec_of(chart: Any) -> dict[str, Any]:
    """Return the Vega-Lite specification of a chart, free of the caller's theme and row limits."""
    with alt.theme.enable("none"), alt.data_transformers.enable("default", max_rows=None):
        spec: dict[str, Any] = chart.to_dict()
    return spec


def svg_of(spec: Mapping[str, Any]) -> str:
    """Return a specification as SVG with real text, named by its description."""
    svg = vl_convert.vegalite_to_svg(dict(spec), vl_version=SCHEMA)
    label = escape(str(spec.get("description", "")), quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def save(chart: Any, stem: str | Path) -> None:
    """Write `<stem>.json` (the specification), `.svg` and `.png` (twice the pixels).

    Each is written whole or not at all, and the same chart gives the same bytes. `stem` may hold
    dots. Nothing is loaded from the network.
    """
    spec = spec_of(chart)
    svg = svg_of(spec)
    files = {
        "json": json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode(),
        "svg": svg.encode(),
        "png": vl_convert.svg_to_png(svg, scale=2),
    }
    for suffix, content in files.items():
        with atomic_path(f"{stem}.{suffix}") as path:
            path.write_bytes(content)
