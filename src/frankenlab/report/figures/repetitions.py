"""How an effect depends on the number of times that the same places run."""

import itertools
from collections.abc import Callable
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from frankenlab.analyse.repetitions import KIND
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE
from frankenlab.report.figures.effects import FAINT, TIMES, measure
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    INK,
    ORANGE,
    PART_COLORS,
    PLOT,
    blank,
    change_text,
    cut_axis,
    effect_title,
    finish,
    interval_rules,
    panel_title,
    point_data,
    short_unit,
    tooltip,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import INTERVAL, interval, listed, plural, repeated, shorten

# Of a part where it comes first; then of the same at other scales, or in place.
MORE = (ORANGE, "#9a6a43", "#b0699b", "#7a7a7a")
# The width of each of two panels side by side.
COLUMN = (PLOT - 72) // 2
# A part, its scale, and whether it repeats in place.
Kind = tuple[str, float, bool]
# Between the marks of two kinds at one count.
APART = 0.07


def repetition_effect(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw how the effect changes with the number of times that the same places run.

    One panel a task: the mean over all places that ran with every count, and a line that is its
    isotonic fit. A grid of one kind of place has the single places behind it, one of several kinds
    has a line for each. All lines start at the base, which runs each place once.
    """
    means = rows_of(tables.get("repetitions"), **where)
    if means.empty:
        return blank(f"{where['model']}: no block of the search ran with several counts.")
    kinds = list(dict.fromkeys(_kinds(means)))
    looks = _colors(kinds)
    rows = rows_of(tables.get("comparisons"), stage="search", **where)
    width = COLUMN if means["task"].nunique() > 1 else PLOT
    panels = [
        _panel(task, part, rows[rows["task"] == task], looks, width)
        for task, part in means.groupby("task", sort=False)
    ]
    items: list[KeyItem] = []
    for kind, color in looks.items():
        own = rows_of(means, **dict(zip(KIND, kind, strict=True))).iloc[0]
        items.append(("point", color, "circle", f"mean over {_places(own)}"))
    items += [
        ("thick", INK, "", INTERVAL),
        ("thin", INK, "", "isotonic fit: it only falls, or only rises"),
    ]
    if len(kinds) == 1:
        items.append(("point", FAINT, "circle", "the single blocks"))
    chart = alt.vconcat(alt.concat(*panels, columns=2, spacing=14), key(items))
    finding = repetition_effect_finding(tables, levels, **where)
    return finish(
        chart, "More repetitions of the same blocks", where, finding, ["search documents"]
    )


def _kinds(rows: pd.DataFrame) -> list[Kind]:
    """Return the kind of place of each row."""
    return list(zip(*(rows[name] for name in KIND), strict=True))


def _colors(kinds: list[Kind]) -> dict[Kind, str]:
    """Return the colour of each kind of place."""
    more, free = itertools.cycle(MORE), dict(PART_COLORS)
    return {kind: free.pop(kind[0], "") or next(more) for kind in kinds}


def _places(row: pd.Series, these: str = "") -> str:
    """Return what a row is the mean of: "15 layers", "the attention of these 3 blocks"."""
    of = plural(int(row["blocks"]), "layer" if row["longest"] == 1 else "block")
    return repeated(these + of, *(row[name] for name in KIND))


def _panel(
    task: str,
    means: pd.DataFrame,
    rows: pd.DataFrame,
    looks: dict[Kind, str],
    width: int,
) -> Any:
    """Draw one task: the means and their fit, over the places that they are means of."""
    counts = sorted(means["times"].astype(int).unique())
    unit = means["unit"].iloc[0]
    single = _single(rows, means) if len(looks) == 1 else pd.DataFrame()
    mean = means[["times", *KIND, "blocks", "n"]].assign(
        task=task,
        effect_text=[interval(row, unit=short_unit(unit)) for row in means.to_dict("records")],
        **{name: means[name].round(3) for name in ("effect", "low", "high", "fitted")},
    )
    kinds = list(looks)
    places = [kinds.index(kind) for kind in _kinds(mean)]
    mean = mean.assign(place=mean["times"] + (np.array(places) - (len(kinds) - 1) / 2) * APART)
    cut = cut_axis(pd.concat([mean, single.assign(**_flat(single))]) if len(single) else mean)
    scale = alt.Scale(domain=cut.domain, nice=False, zero=False)
    x = alt.X(
        "place:Q",
        scale=alt.Scale(domain=[0.85, counts[-1] + 0.25], nice=False),
        axis=alt.Axis(
            title="times that each runs",
            values=[1, *counts],
            grid=False,
            labelExpr="datum.value == 1 ? '1 (base)' : format(datum.value, 'd')",
        ),
    )
    axis = value_axis(effect_title(unit))
    y = alt.Y("effect:Q", scale=scale, axis=axis)
    drawn = [zero_rule()]
    if len(single):
        drawn += _single_lines(single, x, y)
    for kind, color in looks.items():
        own = rows_of(mean, **dict(zip(KIND, kind, strict=True)))
        once = {"times": 1, "place": 1, "effect": 0.0, "fitted": 0.0}
        chart = alt.Chart(pd.concat([pd.DataFrame([once]), own], ignore_index=True)).encode(x=x)
        bars = chart.transform_filter("datum.times > 1")
        fit = alt.Y("fitted:Q", scale=scale, axis=axis)
        low = alt.Y("low:Q", scale=scale, axis=axis)
        drawn += [
            chart.mark_line(color=color, strokeWidth=1.8).encode(y=fit),
            interval_rules(bars, low, "high", color=color, strokeWidth=2),
            bars.mark_point(color=color, filled=True, size=60, opacity=1).encode(
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


def _single(rows: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """Return the data of the single places that the means are over."""
    rows = rows_of(rows, **means[list(KIND)].iloc[0])
    rows = rows[rows["times"].isin(means["times"])] if len(rows) else rows
    if rows.empty:
        return rows
    counts = rows.groupby(["start", "stop"])["times"].transform("nunique")
    rows = rows[counts == means["times"].nunique()]
    rows = rows.assign(place=rows["times"].astype(int))
    return point_data(rows, "place", "n", "start", "stop") if len(rows) else rows


def _flat(rows: pd.DataFrame) -> dict[str, Any]:
    """Return intervals of no width: those of single places are not drawn."""
    return {"low": rows["effect"], "high": rows["effect"]}


def _single_lines(rows: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Draw a light line for each place, from the base, and points for its plans."""
    block = rows["start"].astype(str) + ":" + rows["stop"].astype(str)
    rows = rows.drop(columns=["start", "stop"]).assign(block=block)
    once = pd.DataFrame({"block": block.unique(), "place": 1, "effect": 0.0})
    once = once.assign(plan=BASE, words="the unmodified model", task=rows["task"].iloc[0])
    strength = float(np.clip(12 / len(once), 0.15, 0.9))
    look: dict[str, Any] = {"color": FAINT, "clip": True, "opacity": strength}
    chart = alt.Chart(pd.concat([once, rows], ignore_index=True)).encode(x=x, y=y)
    points = chart.transform_filter("datum.place > 1").encode(
        tooltip=tooltip(alt.Tooltip("n:Q", title="documents"))
    )
    return [
        chart.mark_line(strokeWidth=1, **look).encode(detail="block:N"),
        points.mark_point(filled=True, size=22, **look),
    ]


def repetition_effect_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say what each further repetition changes, which number of times is best, and from which on
    more is significantly worse."""
    rows = rows_of(tables.get("dose_response"), **where)
    said = []
    for _, own in rows.groupby(list(KIND), sort=False) if len(rows) else ():
        records = own.to_dict("records")
        sure, best = _by_words(_trend, [row for row in records if row["significant"]]), []
        unsure = listed([_no_trend(row) for row in records if not row["significant"]] or [""])
        places = _places(own.iloc[0], "these ")
        if sure:
            none = f"; no evidence of a trend on {unsure}" if unsure else ""
            verbs = [f"{verb} {listed(tasks)}" for verb, tasks in sure.items()]
            said.append(f"Each further repetition of {places} {listed(verbs)}{none}.")
        else:
            said.append(
                f"There is no evidence that further repetitions of {places} change {unsure}."
            )
        for (times, more), tasks in _by_words(_best, records).items():
            best.append(f"{times} on {listed(tasks)}{more}")
        text = "; ".join(best)
        said.append(f"{text[0].upper()}{text[1:]}.")
    return " ".join(said)


def _by_words(
    say: Callable[[dict[str, Any]], tuple[Any, str]], rows: list[dict[str, Any]]
) -> dict[Any, list[str]]:
    """Return the words that rows share -> what each of them adds."""
    found: dict[Any, list[str]] = {}
    for row in rows:
        shared, own = say(row)
        found.setdefault(shared, []).append(own)
    return found


def _slope(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its slope in the place of its effect."""
    return row | {"effect": row["slope"], "low": row["slope_low"], "high": row["slope_high"]}


def _trend(row: dict[str, Any]) -> tuple[str, str]:
    """Return "costs" and "2.1 points [1.0, 3.3] on arc_easy"."""
    if row["unit"] == "log-percent":
        return "changes the perplexity of", f"{row['task']} by {change_text(_slope(row))}"
    sign = np.sign(row["slope"])
    low, high = sorted((sign * row["slope_low"], sign * row["slope_high"]))
    numbers = f"{abs(row['slope']):.1f} {row['unit']} [{low:.1f}, {high:.1f}]"
    return "costs" if sign < 0 else "adds", f"{numbers} on {row['task']}".replace("-", "−")


def _no_trend(row: dict[str, Any]) -> str:
    """Return "sst2 (−0.3 points each [−1.0, +0.4])"."""
    each = change_text(_slope(row), unit=f" {row['unit']} each")
    return f"{row['task']}{measure(row['unit'])} ({each})"


def _times(count: int) -> str:
    return {1: "once", **TIMES}.get(count, f"{count} times")


def _best(row: dict[str, Any]) -> tuple[tuple[str, str], str]:
    """Return "once is best" with what follows on the tasks, and the task."""
    best, low, high = (int(row[name]) for name in ("best", "best_low", "best_high"))
    said, more = f"{_times(best)} is best", ""
    if low != high:
        said = f"{_times(best)} measures best"
        more = f", with a {INTERVAL} from {_times(low)} to {_times(high)}"
    if pd.notna(row["worse_from"]):
        more += f", and from {_times(int(row['worse_from']))} on the result is significantly worse"
    return (said, more), str(row["task"])
