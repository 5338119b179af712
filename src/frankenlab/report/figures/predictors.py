"""How well numbers that need no evaluation predict what repeating layers does."""

from typing import Any

import altair as alt
import pandas as pd

from frankenlab.analyse.prediction import CHOSEN, NAMES, OTHER, SCOPES
from frankenlab.analyse.predictors import MEASURED, POSITION, PUBLISHED
from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import key
from frankenlab.report.figures.style import (
    BLUE,
    CONTROLS,
    WIDTH,
    blank,
    finish,
    interval_rules,
    number_axis,
    panel_title,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import INTERVAL, correlation_text, listed, plural, shorten, signed

LOOKS = ((BLUE, "circle"), *CONTROLS)
SINGLE = {"layers": "single layer", "blocks": "block"}
# Room for the names at the left, pixels of a row, and how far tasks stand apart in it.
LABELS, ROW, APART = 236, 25, 7
# Of the panels together, so that the whole is as wide as any figure.
ROOM = WIDTH - LABELS - 24


def _rows(tables: Tables, **where: str) -> pd.DataFrame:
    return rows_of(tables.get("predictors"), **where)


def predictors(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw each predictor's rank correlation with the effects on each task, with its interval.

    One panel for single layers and one for blocks.
    """
    rows = _rows(tables, **where)
    if rows.empty:
        return blank(f"{where['model']}: too few layers were repeated to predict their effects.")
    shown = [name for name in NAMES if (rows["predictor"] == name).any()]
    tasks = list(rows["task"].unique())
    scopes = [scope for scope in SCOPES if (rows["scope"] == scope).any()]
    numbers = ["correlation", "low", "high"]
    data = rows[["task", "scope", "predictor", "chosen", "plans", "n", "probed"]].assign(
        **{name: rows[name].astype(float).round(3) for name in numbers},
        name=rows["predictor"].map(NAMES),
        place=rows["predictor"].map(shown.index) * ROW
        + (rows["task"].map(tasks.index) - (len(tasks) - 1) / 2) * APART,
        text=[correlation_text(row) for row in rows.to_dict("records")],
    )
    width = (ROOM - 16 * (len(scopes) - 1)) // len(scopes)
    panels = [
        _panel(data[data["scope"] == scope], scope, shown, tasks, width, scope == scopes[0])
        for scope in scopes
    ]
    looks = {task: LOOKS[number % len(LOOKS)] for number, task in enumerate(tasks)}
    items = [("point", *look, f"effects on {shorten(task, 40)}") for task, look in looks.items()]
    items.append(("thin", looks[tasks[0]][0], "", INTERVAL))
    finding = predictors_finding(tables, levels, **where)
    chart = alt.vconcat(alt.hconcat(*panels, spacing=16), key(items, ROOM))
    heading = "What predicts the effect of running layers twice"
    return finish(chart, heading, where, finding, ["search documents, exploration"])


def _panel(
    data: pd.DataFrame, scope: str, shown: list[str], tasks: list[str], width: int, first: bool
) -> Any:
    """Draw one scope: a row for each predictor, a mark for each task."""
    names: dict[str, Any] = {"domain": tasks}
    looks = [LOOKS[number % len(LOOKS)] for number in range(len(tasks))]
    color = alt.Color("task:N", scale=alt.Scale(**names, range=[c for c, _ in looks]), legend=None)
    shape = alt.Shape("task:N", scale=alt.Scale(**names, range=[s for _, s in looks]), legend=None)
    scale = alt.Scale(domain=[-1, 1], nice=False)
    axis = number_axis("rank correlation", values=[-1, -0.5, 0, 0.5, 1])
    labels = {place * ROW: NAMES[name] for place, name in enumerate(shown)}
    said = " : ".join(f"datum.value == {place} ? '{text}'" for place, text in labels.items())
    y = alt.Y(
        "place:Q",
        scale=alt.Scale(domain=[(len(shown) - 0.4) * ROW, -0.6 * ROW], nice=False),
        axis=alt.Axis(
            title="",
            values=list(labels),
            labelExpr=f"{said} : ''",
            labelLimit=LABELS,
            labelOverlap=False,
            ticks=False,
            domain=False,
            grid=True,
            minExtent=LABELS,
            maxExtent=LABELS,
        )
        if first
        else alt.Axis(title="", values=list(labels), labels=False, ticks=False, domain=False),
    )
    chart = alt.Chart(data).encode(y=y, color=color)
    bars = interval_rules(chart, alt.X("low:Q", scale=scale, axis=axis), "high")
    points = chart.mark_point(filled=True, size=45, opacity=1).encode(
        x=alt.X("correlation:Q", scale=scale, axis=axis),
        shape=shape,
        tooltip=[
            alt.Tooltip("name:N", title="predictor"),
            alt.Tooltip("task:N", title="effects on"),
            alt.Tooltip("text:N", title="rank correlation"),
            alt.Tooltip("plans:Q", title=scope),
            alt.Tooltip("n:Q", title="documents"),
            alt.Tooltip("probed:N", title="measured on prompts of"),
        ],
    )
    plans = plural(int(data["plans"].max()), SINGLE[scope])
    documents = sorted(set(data["n"].astype(int)))
    title = panel_title(plans, f"n = {listed([f'{n:,}' for n in documents], 'or')}")
    return alt.layer(zero_rule(horizontal=False), bars, points).properties(
        width=width, height=len(shown) * ROW, title=title
    )


def predictors_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say how well the number chosen on other tasks predicts, and the published ones beside it."""
    rows = _rows(tables, **where)
    if rows.empty:
        return ""
    scope = rows["scope"].iloc[0]
    rows = rows[rows["scope"] == scope]
    of = f"with the effect of running a {SINGLE[scope]} twice"
    own = rows[rows["predictor"] == CHOSEN].to_dict("records")
    if own:
        each = [
            f"{correlation_text(row)} on {row['task']} ({NAMES[row['chosen']]}, chosen on "
            f"{row['fitted']})"
            for row in own
        ]
        sure = [row for row in own if row["low"] > 0]
        verb = "predicts on some tasks only" if len(sure) < len(own) else "predicts"
        verb = verb if sure else "does not reliably predict"
        said = [
            f"The number that does best on the other tasks, and needs no evaluation, {verb} how "
            f"well a repeat does: its rank correlation {of} is {listed(each)}."
        ]
    else:
        numbers = rows[rows["predictor"].isin([*MEASURED, *PUBLISHED])]
        if numbers.empty:
            return ""
        best = numbers.loc[numbers["correlation"].abs().idxmax()]
        said = [
            f"Of {len(numbers)} numbers that need no evaluation, the one with the highest rank "
            f"correlation {of} is {NAMES[best['predictor']]} ({correlation_text(best)} on "
            f"{best['task']}), which is partly luck: with one search task, none could be chosen on "
            "another."
        ]
    for name in ("stability", POSITION, OTHER):
        found = rows[rows["predictor"] == name].to_dict("records")
        if found:
            values = listed([signed(row["correlation"], 2) for row in found])
            said.append(f"{NAMES[name][0].upper()}{NAMES[name][1:]}: {values}.")
    return " ".join(said)
