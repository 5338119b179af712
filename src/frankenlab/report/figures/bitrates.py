"""Quality against what weights cost: the base through its bitrates, frankens beside it."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import KeyItem, key, text_width
from frankenlab.report.figures.style import (
    GREY,
    LIGHT,
    PLOT,
    Look,
    blank,
    finish,
    interval_rules,
    panel_title,
    plan_looks,
    point_data,
    short_unit,
    tooltip,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    INTERVAL,
    layers_of,
    listed,
    metric_value,
    plan_words,
    plural,
    quantization_name,
    shorten,
)

COSTS = {
    "read_bytes": "weights read for each token",
    "materialized_bytes": "weights in memory, standalone",
}
BYTE_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
# From this ratio of its ends on, an axis has the numbers of a logarithmic one.
WIDE, MANTISSAS = 2.2, (1, 1.5, 2, 3, 4, 5, 6, 8)
MOST_TICKS = 12
# Pixels that a number on the axis of bytes takes.
LABEL = 42
# Pixels between marks at one cost: controls cost what the frozen plan does.
APART = 7


def compared_costs(rows: pd.DataFrame) -> list[str]:
    """Return the costs to draw: one where both compare every plan with the same base.

    A plan's rival is the base at the next quantization that costs as much; where reading and
    holding the weights lead to the same rivals, the two pictures would say one thing twice.
    """
    rivals = rows[["read_rival", "memory_rival"]].fillna("")
    same = (rivals["read_rival"] == rivals["memory_rival"]).all()
    return ["read_bytes"] if same else list(COSTS)


def _several(tables: Tables, **where: str) -> pd.DataFrame:
    """Return the rows of a model that was confirmed at several quantizations, or none."""
    rows = rows_of(tables.get("bits"), **where)
    return rows if len(rows) and rows["quantization"].nunique() > 1 else rows.head(0)


def bits(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the change against the base at the reference quantization, over bytes of weights.

    One row a task. Stars joined by a line are the base at its quantizations; a franken stands at
    its base's change plus its own. Bars of the base are intervals against the base at the
    reference, those of a franken against the base at the same quantization. Memory is drawn beside
    reading where it compares other bases (see `compared_costs`).
    """
    rows = _several(tables, **where)
    if rows.empty:
        return blank(f"{where['model']}: it was confirmed at one quantization only.")
    found = plan_looks({**tables, "verdicts": _grouped(rows, tables)}, where["model"])
    order = ("base", "frozen", "control", "runner-up")
    shown = sorted(set(rows["plan"]) & set(found), key=list(found).index)
    shown.sort(key=lambda plan: order.index(found[plan].group))
    looks = {plan: found[plan] for plan in shown}
    size = _byte_unit(rows)
    columns = compared_costs(rows)
    width = (PLOT - 20 * (len(columns) - 1)) // len(columns)
    tasks = [part for _, part in rows.groupby("task", sort=False)]
    lines = []
    for part in tasks:
        data = _data(part, size[1])
        place = (part is tasks[0], part is tasks[-1])
        panels = [
            _panel(data, column, looks, size, width, place, column == columns[0])
            for column in columns
        ]
        lines.append(
            alt.hconcat(*panels, spacing=20, bounds="flush").properties(title=_title(part))
        )
    items: list[KeyItem] = [
        ("point" if look.group != "control" else "hollow", look.color, look.shape, look.label)
        for look in looks.values()
    ]
    items += [
        ("thin", GREY, "", INTERVAL),
        ("line", GREY, "", "from a base to its frankens at the same quantization"),
    ]
    finding = bits_finding(tables, levels, **where)
    chart = alt.vconcat(*lines, key(items))
    return finish(
        chart, "Quality against the bytes of weights", where, finding, ["confirm documents"]
    )


def _grouped(rows: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Return `verdicts`, or the table `bits` in its place where it was not made."""
    verdicts = rows_of(tables.get("verdicts"), model=rows["model"].iloc[0])
    return verdicts if len(verdicts) else rows[rows["plan"] != "base"]


def _title(rows: pd.DataFrame) -> alt.TitleParams:
    """Return the title of a task: what the base reaches at the reference, and on how much."""
    first = rows[(rows["plan"] == "base") & (rows["quantization"] == rows["reference"])].iloc[0]
    base = f"{first['metric']} {metric_value(first['value'], first['kind'])}"
    reference = quantization_name(first["reference"])
    task = f"{shorten(first['task'])} ({first['role']})"
    return panel_title(f"{task}: {reference} base {base}, n = {first['n']:,}")


def _data(rows: pd.DataFrame, size: float) -> pd.DataFrame:
    """Return each plan's place: its costs in units of `size` bytes and its change with limits."""
    base = rows["plan"] == "base"
    own = {"effect": "shift", "low": "shift_low", "high": "shift_high"}
    rows = rows.assign(
        **{
            column: rows[column].where(~base, rows[other].fillna(0))
            for column, other in own.items()
        }
    )
    level = rows[base].set_index("quantization")["effect"]
    rows = rows.assign(level=rows["quantization"].map(level).where(~base, 0.0))
    data = point_data(rows, "quantization", "unit", "level", "n", *COSTS)
    costs = {column: (data[column] / size).round(4) for column in COSTS}
    start = {
        f"{column}_base": data["quantization"].map(
            data[base].set_index("quantization")[column] / size
        )
        for column in COSTS
    }
    ends = {f"at_{end}": data[end] + data["level"] for end in ("effect", "low", "high")}
    return data.assign(**costs, **start, **ends)


def _byte_unit(rows: pd.DataFrame) -> tuple[str, float]:
    """Return the unit of all costs, with its size in bytes."""
    least = rows[list(COSTS)].min().min()
    return next((unit for unit in BYTE_UNITS if least >= unit[1]), BYTE_UNITS[-1])


def round_ticks(low: float, high: float, apart: float) -> list[float]:
    """Return round numbers on a logarithmic axis, each `apart` of its length from the next."""
    if high / low > WIDE:
        decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)))
        numbers = np.outer(decades, MANTISSAS).ravel()
    else:
        step = 10 ** np.floor(np.log10(high - low))
        steps = (0.1, 0.2, 0.25, 0.5, 1.0, 2.0)
        finest = next(part for part in steps if (high - low) / (part * step) <= MOST_TICKS) * step
        numbers = np.arange(np.ceil(low / finest), high / finest) * finest
    numbers = numbers[(numbers >= low) & (numbers <= high)]
    kept: list[float] = []
    for number in numbers:
        if not kept or np.log(number / kept[-1]) > apart * np.log(high / low):
            kept.append(round(float(number), 6))
    return kept


def _panel(
    data: pd.DataFrame,
    column: str,
    looks: Mapping[str, Look],
    unit: tuple[str, float],
    width: int,
    place: tuple[bool, bool],
    left: bool,
) -> Any:
    """Draw one task against one cost; `place` says whether it is in the highest, lowest line."""
    highest, lowest = place
    least, most = float(data[column].min()), float(data[column].max())
    room, aside = (most / least) ** 0.05, APART * (len(looks) - 1) / width
    domain = (least / room, most * room * (most / least) ** aside)
    ends = data[["at_low", "at_high"]].to_numpy(float)
    low, high = min(ends.min(), 0.0), max(ends.max(), 0.0)
    pad = 0.06 * (high - low) or 1.0
    along = alt.Scale(type="log", domain=list(domain), nice=False)
    below = alt.Axis(
        title=f"{COSTS[column]}, {unit[0]} (logarithmic)" if lowest else "",
        values=round_ticks(*domain, LABEL / width),
        labels=lowest,
        grid=False,
        format="~g",
    )
    scale = alt.Scale(domain=[low - pad, high + pad], nice=False, zero=False)
    axis = value_axis(f"change, {short_unit(data['unit'].iloc[0])}", tickCount=4)
    if not left:
        axis = value_axis("", labels=False, tickCount=4, minExtent=0, maxExtent=0)
    x = alt.X(f"{column}:Q", scale=along, axis=below)
    y = alt.Y("at_effect:Q", scale=scale, axis=axis)
    tips = tooltip(
        alt.Tooltip("quantization:N", title="quantization"),
        alt.Tooltip(f"{column}:Q", title=unit[0], format=",.4~g"),
        alt.Tooltip("n:Q", title="documents"),
    )
    bases = data[data["plan"] == "base"].sort_values(column)
    of_base = alt.Chart(bases).encode(x=x)
    drawn = [
        of_base.mark_rule(color=LIGHT, strokeDash=[3, 3]),
        zero_rule(),
        of_base.mark_line(color="black", strokeWidth=1.1).encode(y=y),
        interval_rules(of_base, alt.Y("at_low:Q", scale=scale, axis=axis), "at_high"),
    ]
    if highest:
        named = bases.assign(name=bases["quantization"].map(quantization_name))
        drawn.append(names(named, column, domain, width, x))
    for number, (plan, look) in enumerate((p, k) for p, k in looks.items() if k.group != "base"):
        part = data[data["plan"] == plan]
        if len(part):
            drawn += _franken(part, column, look, APART * number, x, y, tips)
    star = looks["base"]
    points = of_base.mark_point(shape=star.shape, color="black", filled=True, size=62, opacity=1)
    drawn.append(points.encode(y=y, tooltip=tips))
    return alt.layer(*drawn).properties(width=width, height=105)


def _franken(
    rows: pd.DataFrame, column: str, look: Look, aside: int, x: alt.X, y: alt.Y, tips: list[Any]
) -> list[alt.Chart]:
    """Draw one plan at its quantizations: a dashed line from its base, interval and marker."""
    control = look.group == "control"
    chart = alt.Chart(rows).encode(x=x)
    start = alt.X(f"{column}_base:Q", scale=x["scale"], axis=x["axis"])
    from_base = chart.mark_rule(
        color=look.color, strokeDash=[4, 3], strokeWidth=1, x2Offset=aside, opacity=0.8
    ).encode(
        x=start,
        x2=f"{column}:Q",
        y=alt.Y("level:Q", scale=y["scale"], axis=y["axis"]),
        y2="at_effect:Q",
    )
    ends = alt.Y("at_low:Q", scale=y["scale"], axis=y["axis"])
    bars = interval_rules(chart, ends, "at_high", color=look.color, xOffset=aside)
    points = chart.mark_point(
        shape=look.shape,
        color=look.color,
        fill="white" if control else look.color,
        size=42 if control else 58,
        opacity=1,
        xOffset=aside,
    )
    return [from_base, bars, points.encode(y=y, tooltip=tips)]


def names(
    points: pd.DataFrame, column: str, domain: tuple[float, float], width: int, x: alt.X
) -> alt.Chart:
    """Write the names of points over a panel, in their order; those that would collide are left
    out."""
    kept, end = [], -np.inf
    span = np.log(domain[1] / domain[0])
    for row in points.to_dict("records"):
        half = text_width(row["name"]) / 2 + 3
        # No name reaches past the panel's right end.
        at = min(width * np.log(row[column] / domain[0]) / span, width - half)
        if at - half >= end:
            end = at + half
            place = domain[0] * np.exp(span * at / width)
            kept.append({column: round(float(place), 5), "name": row["name"]})
    text = alt.Chart(alt.InlineData(values=kept)).mark_text(baseline="bottom", color=GREY)
    return text.encode(x=x, y=alt.value(-3), text="name:N")


def bits_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say how the frozen plan compares with bases of equal cost, and with itself at more bits."""
    rows = _several(tables, **where)
    own = rows_of(rows, group="frozen")
    if own.empty:
        return ""
    said = plan_words(own["plan"].iloc[0], layers_of(own.iloc[0]))
    against = own[own["read_verdict"].notna()]
    parts = []
    if len(against):
        parts.append(
            f"Against the base that reads as many bytes, running {said} is "
            f"{_counts(against['read_verdict'])} of {plural(len(against), 'comparison')}."
        )
    differs = own[own["interaction_verdict"].notna()]
    if len(differs):
        words = {"improved": "smaller", "harmed": "larger"}
        harm = _counts(differs["interaction_verdict"], words)
        parts.append(
            f"Compared with {quantization_name(own['reference'].iloc[0])}, its cost at other bits "
            f"is {harm} of {plural(len(differs), 'comparison')}."
        )
    return " ".join(parts)


def _counts(verdicts: pd.Series, words: Mapping[str, str] | None = None) -> str:
    """Return "better in 1, inconclusive in 4"."""
    words = words or {"improved": "better", "harmed": "worse"}
    counts = verdicts.value_counts()
    order = [v for v in ("improved", "harmed", "equivalent", "inconclusive") if v in counts]
    return listed([f"{words.get(verdict, verdict)} in {counts[verdict]}" for verdict in order])
