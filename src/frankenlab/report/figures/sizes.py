"""Draw how the effects of the same designs change with the size of the model."""

import json
import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.sizes import FROZEN, TRANSFERRED
from frankenlab.plans.designs import LINE, SINGLE
from frankenlab.report.figures.effects import FAINT
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PART_COLORS,
    PLOT,
    RED,
    blank,
    cut_axis,
    effect_title,
    finish,
    interval_rules,
    number_axis,
    panel_title,
    short_unit,
    tooltip,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    INTERVAL,
    change_text,
    have,
    interval,
    listed,
    parameters_text,
    plural,
    quantization_words,
    shorten,
)

# The width of each of two panels side by side.
COLUMN = (PLOT - 72) // 2
# CircuitProbe (arXiv 2604.00716): repeating layers helps below so many parameters, and hurts from
# "7B" on; models that are called so have 6.6 billion or more.
HELPS_BELOW, HURTS_FROM = 3e9, 6.5e9
# How each design is drawn; of several lines of a config, or models, each has a colour and a shape
# of its own.
LOOKS = {FROZEN: (BLUE,), LINE: (PART_COLORS["block"], "#9a6a43", "#7a7a7a"), SINGLE: (FAINT,)}
LOOKS |= {TRANSFERRED: (ORANGE, GREEN, "#b0699b")}
SHAPES: dict[str, tuple[str, ...]] = {FROZEN: ("circle",), SINGLE: ("circle",)}
SHAPES |= {LINE: ("square", "triangle-up", "cross"), TRANSFERRED: ("diamond", "triangle-down")}
ORDER = (SINGLE, LINE, TRANSFERRED, FROZEN)
MOST_NAMED = 3


def size_effect(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the effects of each design against the number of parameters, a panel a task."""
    rows = rows_of(tables.get("sizes"), **where)
    if rows.empty:
        return blank("There is one model only, and so no sizes to compare.")
    looks = _looks(rows)
    each = [part for _, part in rows.groupby("task", sort=False)]
    width = COLUMN if len(each) > 1 else PLOT
    panels = [_panel(part, rows["parameters"], looks, width) for part in each]
    items: list[KeyItem] = [
        ("point", color, shape, shorten(label, 70)) for label, (color, shape) in looks.items()
    ]
    if SINGLE in set(rows["design"]):
        items.append(("point", FAINT, "circle", "the same plan at the same share of the depth"))
    if len(rows[["model", "quantization"]].drop_duplicates()) > rows["model"].nunique():
        items.append(("hollow", BLUE, "circle", "at a bitrate that chose nothing"))
    items += [("thin", GREY, "", INTERVAL)]
    items += [("line", RED, "", "3 B: CircuitProbe claims that repeating helps models left of it")]
    if rows["parameters"].max() >= HELPS_BELOW:
        items += [("line", GREY, "", "7B models: and that it hurts them and larger ones")]
    chart = alt.vconcat(alt.concat(*panels, columns=2, spacing=14), key(items))
    finding = size_effect_finding(tables, levels, **where)
    models = rows.drop_duplicates("model").sort_values("parameters")
    named = [f"{row.model} ({parameters_text(row.parameters)})" for row in models.itertuples()]
    return finish(chart, "Effect against the size of the model", where, finding, [", ".join(named)])


def _looks(rows: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return the colour and the shape of each design that is named, by its label."""
    found = {}
    for kind in reversed(ORDER[1:]):
        labels = rows.loc[rows["design"] == kind, "label"].unique()
        colors, shapes = LOOKS[kind], SHAPES[kind]
        for number, label in enumerate(labels):
            turn, color = divmod(number, len(colors))
            found[label] = (colors[color], shapes[turn % len(shapes)])
    return found


def _panel(
    rows: pd.DataFrame, parameters: pd.Series, looks: dict[str, tuple[str, str]], width: int
) -> Any:
    """Draw one task. Designs stand beside each other at the size of their model."""
    unit = rows["unit"].iloc[0]
    ends = np.log10([parameters.min() / 1.6, max(parameters.max() * 1.6, 1.5 * HELPS_BELOW)])
    step = 0.016 * (ends[1] - ends[0])
    references = rows.groupby("model", sort=False)["quantization"].transform("first")
    labels = [*looks]
    shift = [
        labels.index(label) - (len(labels) - 1) / 2 if label in looks else 0
        for label in rows["label"]
    ]
    single = rows["design"] == SINGLE
    data = rows[["model", "task", "design"]].assign(
        plan=rows["plan"].fillna(""),
        words=rows["label"],
        group=rows["label"],
        size=[parameters_text(value) for value in rows["parameters"]],
        bitrate=[quantization_words(value) for value in rows["quantization"]],
        effect=rows["effect"].astype(float).round(3),
        low=rows["low"].where(~single, rows["effect"]).astype(float).round(3),
        high=rows["high"].where(~single, rows["effect"]).astype(float).round(3),
        effect_text=[interval(row, unit=short_unit(unit)) for row in rows.to_dict("records")],
        place=(np.log10(rows["parameters"].astype(float)) + step * np.array(shift)).round(4),
        color=[looks.get(label, (FAINT, ""))[0] for label in rows["label"]],
        shape=[looks.get(label, ("", "circle"))[1] for label in rows["label"]],
        reference=rows["quantization"] == references,
    )
    cut = cut_axis(data)
    scale = alt.Scale(domain=cut.domain, nice=False, zero=False)
    axis = value_axis(effect_title(unit))
    ticks = _ticks(*ends)
    names = json.dumps({f"{t:.3f}": parameters_text(10**t) for t in ticks})
    x = alt.X(
        "place:Q",
        scale=alt.Scale(domain=ends.round(3).tolist(), nice=False, zero=False),
        axis=number_axis(
            "parameters (logarithmic)",
            values=[round(t, 3) for t in ticks],
            labelExpr=f"({names})[format(datum.value, '.3f')]",
            grid=False,
        ),
    )
    y = alt.Y("shown:Q", scale=scale, axis=axis)
    limits = [HELPS_BELOW, *([HURTS_FROM] if 10 ** ends[1] > HURTS_FROM else [])]
    drawn = [zero_rule()]
    for limit, color in zip(limits, (RED, GREY), strict=False):
        mark = alt.Chart(alt.InlineData(values=[{"place": round(math.log10(limit), 4)}]))
        drawn.append(mark.mark_rule(color=color, strokeDash=[4, 3], strokeWidth=1.4).encode(x=x))
    # What lies on top is drawn last.
    for kind in ORDER:
        own = cut.data[cut.data["design"] == kind]
        if own.empty:
            continue
        chart = alt.Chart(own).encode(x=x, color=alt.Color("color:N", scale=None))
        faint = kind == SINGLE
        at_reference = chart.transform_filter("datum.reference")
        others = chart.transform_filter("!datum.reference")
        drawn.append(
            at_reference.mark_line(
                strokeWidth=0.7 if faint else 1.3, opacity=0.4 if faint else 0.8
            ).encode(y=y, detail="group:N")
        )
        if not faint:
            low = alt.Y("shown_low:Q", scale=scale, axis=axis)
            drawn.append(interval_rules(chart, low, "shown_high"))
        tips = tooltip("model:N", "size:N", "bitrate:N")
        for filled, some in ((True, at_reference), (False, others)):
            look: dict[str, Any] = {} if filled else {"fill": "white"}
            point = some.mark_point(filled=filled, size=18 if faint else 55, opacity=1, **look)
            drawn.append(point.encode(y=y, shape=alt.Shape("shape:N", scale=None), tooltip=tips))
    if cut.note:
        drawn.append(cut.arrows(x))
    first = rows.iloc[0]
    title = panel_title(f"{shorten(first['task'])} ({first['role']} task)", cut.note)
    return alt.layer(*drawn).properties(width=width, height=190, title=title)


def _ticks(low: float, high: float) -> list[float]:
    """Return logarithms of round sizes between two logarithms."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    every = [decade + math.log10(digit) for decade in decades for digit in (1, 3)]
    return [tick for tick in every if low <= tick <= high]


def size_effect_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say how the frozen plans and the designs differ between the models, and what the claim of a
    threshold at 3 billion parameters would have them do."""
    rows = rows_of(tables.get("sizes"), **where)
    if rows.empty:
        return ""
    said = [_differences(rows)]
    small = rows[rows["parameters"] < HELPS_BELOW]
    large = rows[rows["parameters"] >= HURTS_FROM]
    for own, claim in (
        (small, "below 3 billion parameters, where CircuitProbe claims a gain"),
        (large, "of 7B or more, where CircuitProbe claims a loss"),
    ):
        frozen = rows_of(own, design=FROZEN, role="search")
        if len(frozen):
            said.append(_against_claim(frozen, claim))
    return " ".join(filter(None, said))


def _differences(rows: pd.DataFrame) -> str:
    """Say where a frozen plan does better or worse than on the smallest model."""
    frozen = rows_of(rows, design=FROZEN)
    compared = frozen[frozen["p"].notna()]
    if compared.empty:
        return ""
    smallest = compared["against"].iloc[0]
    sure = compared[compared["significant"].astype(bool)]
    if sure.empty:
        return (
            "There is no evidence that the frozen plans change more or less in larger models than "
            f"in {smallest}, the smallest ({plural(len(compared), 'comparison')} on the same "
            "documents)."
        )
    each = [
        f"{'better' if row['difference'] > 0 else 'worse'} on {row['task']} in {row['model']} "
        f"{quantization_words(row['quantization'])} ({_text(row)})"
        for row in sure.head(MOST_NAMED).to_dict("records")
    ]
    more = len(sure) - MOST_NAMED
    each += [f"different in {plural(more, 'more comparison')}"] if more > 0 else []
    return (
        f"Compared with {smallest}, the smallest model, the frozen plans do significantly "
        f"{listed(each)}: {len(sure)} of {plural(len(compared), 'comparison')} on the same "
        "documents, corrected for their number."
    )


def _text(row: dict[str, Any]) -> str:
    effect, low, high = (row[f"difference{end}"] for end in ("", "_low", "_high"))
    return change_text(effect, low, high, row["unit"])


def _against_claim(rows: pd.DataFrame, claim: str) -> str:
    models = plural(rows["model"].nunique(), "model")
    above, below = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    return (
        f"{models[0].upper()}{models[1:]} {'is' if models.startswith('1 ') else 'are'} {claim}: of "
        f"their {plural(len(rows), 'effect')} of frozen plans on search tasks, "
        f"{have(above)} a {INTERVAL} above 0 and {have(below)} one below 0."
    )
