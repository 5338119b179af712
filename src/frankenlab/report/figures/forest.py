"""The verdicts as a forest plot: the frozen plan on every task, its controls as light marks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.verdicts import DOMINANT
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    BAND,
    BLUE,
    GREY,
    INK,
    TEXT,
    WIDTH,
    Look,
    blank,
    change_text,
    finish,
    plan_looks,
    shown_effect,
    tooltip,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    layers_of,
    listed,
    metric_name,
    metric_value,
    plan_words,
    shorten,
    unit_name,
)

# Of the panel, in pixels: where the plot begins and ends, the two columns of words at its right.
# A column leaves room for fonts that are wider than Arial, where a browser has none of `FONT`.
INNER, LEFT, RIGHT, CHANGE, VERDICT = WIDTH - 10, 192, 416, 428, 574
LINE, GAP = 15, 3
SAID = {"improved": "improved", "harmed": "got worse"}
# Green and red as in `style`, but dark enough for letters.
COLORS = {"improved": "#00734f", "harmed": "#b04a00", "equivalent": BLUE, "inconclusive": GREY}
ENDS = ("low", "high", "verdict_low", "verdict_high", "equivalence_low", "equivalence_high")


def _reasons(row: Mapping[str, Any]) -> list[str]:
    """Return the lines under a verdict that say what it does not say by itself."""
    lines = []
    if row["verdict"] == "inconclusive" and not row["low"] <= 0 <= row["high"]:
        lines += ["95 % interval excludes 0,", "the corrected one does not"]
    if row["dominance"] >= DOMINANT:
        lines.append(f"one passage makes up {100 * row['dominance']:.0f} % of the variance")
    return lines


def _own_text(row: Mapping[str, Any], y: float) -> list[dict[str, Any]]:
    """Return the words beside the frozen plan's mark on one task."""
    value, base = (metric_value(row[name], row["kind"]) for name in ("value", "base_value"))
    texts = [
        _text(0, y, shorten(row["task"], 27), "bold"),
        _text(0, y + LINE, f"{row['role']} task, n = {row['n']:,}", "small"),
        _text(CHANGE, y, change_text(row, "verdict_low", "verdict_high"), "normal"),
        _verdict_text(row, y),
        _text(CHANGE, y + LINE, f"{row['metric']} {base} → {value}", "note"),
    ]
    for number, line in enumerate(_reasons(row), 2):
        texts.append(_text(CHANGE, y + number * LINE, line, "note"))
    return texts


def _verdict_text(row: Mapping[str, Any], y: float) -> dict[str, Any]:
    kind = "open" if row["verdict"] == "inconclusive" else "verdict"
    said = _text(VERDICT, y, SAID.get(row["verdict"], row["verdict"]), kind)
    return said | {"color": COLORS[row["verdict"]]}


def _control_text(row: Mapping[str, Any], y: float) -> list[dict[str, Any]]:
    said = plan_words(row["plan"], layers_of(row))
    return [_text(14, y, said, "small"), _text(CHANGE, y, change_text(row), "note")]


def _text(x: float, y: float, words: str, kind: str) -> dict[str, Any]:
    return {"x": x, "y": y, "text": words, "kind": kind, "color": INK}


def _mark(row: Mapping[str, Any], y: float) -> dict[str, Any]:
    """Return the datum of a plan's mark: its place, its tooltip and what the script needs."""
    ends = {end: round(shown_effect(row[end], row["unit"]), 3) for end in ("effect", *ENDS)}
    own = row["group"] == "frozen"
    more = {"verdict": SAID.get(row["verdict"], row["verdict"])} if own else {}
    return more | {
        **ends,
        "y": y,
        "plan": row["plan"],
        "words": plan_words(row["plan"], layers_of(row)),
        "task": row["task"],
        "effect_text": f"{change_text(row)}, 95 % interval",
        "n": row["n"],
    }


def _place(rows: pd.DataFrame) -> tuple[list[dict], list[dict], list[dict], float]:
    """Place a panel's rows; return its marks of frozen plans, of controls, its texts, its height.

    Each task begins with the frozen plan; its controls follow below.
    """
    own, controls, texts, y = [], [], [], 0.0
    for _, part in rows.groupby("task", sort=False):
        for row in part.to_dict("records"):
            if row["group"] == "frozen":
                y += LINE
                own.append(_mark(row, y))
                texts += _own_text(row, y)
                y += LINE * (2 + len(_reasons(row)))
            else:
                y += 2
                controls.append(_mark(row, y))
                texts += _control_text(row, y)
                y += LINE
        y += GAP
    return own, controls, texts, y - GAP


def _axis(unit: str, low: float, high: float) -> alt.Axis:
    """Return the axis of a unit from `low` to `high`, with few enough round numbers to stand."""
    percent = unit == "log-percent"
    minus = "replace(format(datum.value, '+~g'), '-', '−')"
    label = f"datum.value == 0 ? '0' : {minus} + '{' %' * percent}'"
    what = "change of perplexity" if percent else f"change in {unit_name(unit)}"
    # Plain spaces in a row become one in an SVG.
    space = 4 * "\N{NO-BREAK SPACE}"
    steps = (digit * 10.0**power for power in range(-4, 16) for digit in (1, 2, 5))
    step = next(step for step in steps if high // step + -low // step < (5 if percent else 7))
    ticks = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return alt.Axis(
        title=f"← worse{space}{what}{space}better →",
        labelExpr=label,
        labelFlush=False,
        labelOverlap=False,
        values=ticks,
    )


def _panel(rows: pd.DataFrame, looks: Mapping[str, Look]) -> Any:
    """Draw the tasks of one unit over an axis of their own, with words at both sides."""
    unit, margin = rows["unit"].iloc[0], rows["margin"].iloc[0]
    own, controls, texts, height = _place(rows)
    ends = [mark[end] for mark in own for end in ENDS]
    ends += [mark[end] for mark in controls for end in ("low", "high")]
    band = sorted(shown_effect(side, unit) for side in (-margin, margin))
    low, high = min(*ends, band[0]), max(*ends, band[1])
    room = 0.03 * (high - low)
    domain = [low - room, high + room]
    axis = _axis(unit, *domain)
    # A falling perplexity is better.
    sides = domain[::-1] if unit == "log-percent" else domain
    scale = alt.Scale(domain=sides, range=[LEFT, RIGHT], nice=False, zero=False)
    down = alt.Y("y:Q", scale=alt.Scale(domain=[height, 0]), axis=None)

    def across(end: str) -> alt.X:
        return alt.X(f"{end}:Q", scale=scale, axis=axis)

    def bars(marks: Sequence[Mapping[str, Any]], kind: str, **look: Any) -> alt.Chart:
        chart = alt.Chart(alt.InlineData(values=list(marks))).mark_rule(**look)
        return chart.encode(across(f"{kind}low"), alt.X2(f"{kind}high"), down)

    shade = alt.Chart(alt.InlineData(values=[{"from": band[0], "to": band[1]}])).mark_rect(
        color=BAND
    )
    zero = alt.Chart(alt.InlineData(values=[{}])).mark_rule(color=GREY)
    layers = [
        shade.encode(across("from"), alt.X2("to"), y=alt.value(0), y2=alt.value(height)),
        zero.encode(x=alt.datum(0), y=alt.value(0), y2=alt.value(height)),
        bars(own, "verdict_", color=BLUE, strokeWidth=1.5),
        bars(own, "equivalence_", color=BLUE, strokeWidth=5),
        *_points(own, down, across, size=85, fill=BLUE, stroke="white", strokeWidth=1),
    ]
    for plan in dict.fromkeys(mark["plan"] for mark in controls):
        same = [mark for mark in controls if mark["plan"] == plan]
        look = looks[plan]
        layers.append(bars(same, "", color=look.color, strokeWidth=1.2, opacity=0.6))
        hollow: dict[str, Any] = {"size": 42, "fill": "white", "stroke": look.color}
        layers += _points(same, down, across, look.shape, **hollow)
        beside = alt.Chart(alt.InlineData(values=same)).mark_point(
            shape=look.shape, opacity=1, **hollow
        )
        layers.append(beside.encode(x=alt.value(6), y=down))
    layers += _words(texts, down)
    return alt.layer(*layers).properties(width=INNER, height=height)


def _points(
    marks: Sequence[Mapping[str, Any]], down: alt.Y, across: Any, shape: str = "circle", **look: Any
) -> list[alt.Chart]:
    if not marks:
        return []
    chart = alt.Chart(alt.InlineData(values=list(marks))).mark_point(shape=shape, opacity=1, **look)
    more = [alt.Tooltip("verdict:N")] if "verdict" in marks[0] else []
    return [chart.encode(across("effect"), down, tooltip=tooltip(*more, alt.Tooltip("n:Q")))]


def _words(texts: Sequence[Mapping[str, Any]], down: alt.Y) -> list[alt.Chart]:
    """Return the layers of words; each column is cut where the next one begins."""
    across = alt.X("x:Q", scale=None)
    kinds: dict[str, dict[str, Any]] = {
        "bold": {"fontWeight": "bold", "fontSize": TEXT, "limit": LEFT - 8},
        "normal": {"fontSize": TEXT, "limit": VERDICT - CHANGE - 4},
        "verdict": {"fontSize": TEXT, "fontWeight": "bold", "limit": INNER - VERDICT},
        "open": {"fontSize": TEXT, "limit": INNER - VERDICT},
        "small": {"color": GREY, "limit": LEFT - 22},
        "note": {"color": GREY, "limit": INNER - CHANGE},
    }
    layers = []
    for kind, look in kinds.items():
        chosen = [text for text in texts if text["kind"] == kind]
        if chosen:
            chart = alt.Chart(alt.InlineData(values=chosen)).mark_text(
                align="left", baseline="middle", **look
            )
            chart = chart.encode(across, down, text="text:N")
            if kind in ("verdict", "open"):
                chart = chart.encode(color=alt.Color("color:N", scale=None))
            layers.append(chart)
    return layers


def _ordered(verdicts: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of a model, search tasks first and of each the frozen plan first."""
    rows = rows_of(verdicts, **where)
    if rows.empty:
        return rows
    first = {"role": "search", "group": "frozen"}
    return rows.sort_values(["role", "group"], key=lambda c: c != first[str(c.name)], kind="stable")


def confirm_forest(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the frozen plan on every task with its verdicts, and its controls where they ran.

    Thin bars are the intervals at the level of the verdicts, thick ones those of the equivalence
    test at that level: a verdict is significant where the thin bar excludes 0, and equivalent
    where the thick one lies in the shaded margin. Controls have 95 % intervals and no verdict.
    Tasks with different units are drawn over axes of their own; perplexities in per cent.
    """
    rows = _ordered(tables["verdicts"], where)
    own = rows_of(rows, group="frozen")
    if own.empty:
        return blank(f"{', '.join(where.values())}: nothing was confirmed.")
    looks = plan_looks(tables, where["model"])
    panels = [_panel(part, looks) for _, part in rows.groupby("unit", sort=False)]
    level = own["level"].iloc[0]
    items: list[KeyItem] = [
        ("thin", BLUE, "", f"{_percent(1 - level)} interval: significant if it excludes 0"),
        ("thick", BLUE, "", f"{_percent(1 - 2 * level)} interval: equivalent if within the margin"),
        ("band", BAND, "", "equivalence margin"),
    ]
    if len(rows) > len(own):
        items.append(
            (
                "hollow",
                looks[rows.loc[rows["group"] != "frozen", "plan"].iloc[0]].color,
                "diamond",
                "controls: plans of equal cost, 95 % intervals",
            )
        )
    said = plan_words(own["plan"].iloc[0], layers_of(own.iloc[0]))
    title = f"Verdicts on fresh documents: {shorten(said, 60)}"
    whole = alt.vconcat(*panels, key(items, INNER), spacing=18)
    finding = confirm_forest_finding(tables, levels, **where)
    return finish(whole, title, where, finding, [shorten(own["plan"].iloc[0], 60), "confirm stage"])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def confirm_forest_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Return what the frozen plan changed, by task: what is significant first."""
    own = rows_of(_ordered(tables["verdicts"], where), group="frozen")
    if own.empty:
        return ""
    records = own.to_dict("records")
    parts = []
    for verdict in ("improved", "harmed"):
        found = [
            f"{row['task']} {SAID[verdict]} ({metric_name(row['metric'])} "
            f"{change_text(row, 'verdict_low', 'verdict_high', ' ' + row['unit'])})"
            for row in records
            if row["verdict"] == verdict
        ]
        parts += [listed(found)] if found else []
    if not parts:
        parts = ["no task changed significantly"]
    for verdict, words in (
        ("equivalent", f"equivalent within the margin of ±{own['margin'].iloc[0]:g}"),
        ("inconclusive", "inconclusive"),
    ):
        tasks = [row["task"] for row in records if row["verdict"] == verdict]
        if tasks:
            parts.append(f"{listed(tasks)} {'are' if len(tasks) > 1 else 'is'} {words}")
    said = plan_words(own["plan"].iloc[0], layers_of(own.iloc[0]))
    said = f"W{said[1:]}" if said.startswith("without") else f"With {said}"
    return f"{said}, {'; '.join(parts)}."
