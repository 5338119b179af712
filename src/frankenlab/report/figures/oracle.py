"""Draw what an oracle gains that picks the best plan, or the best prompt, for each document."""

from typing import Any

import altair as alt
import pandas as pd

from frankenlab.analyse.oracle import PLANS, PROMPTS
from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    BLUE,
    ORANGE,
    PLOT,
    blank,
    change_text,
    effect_title,
    finish,
    interval_rules,
    panel_title,
    short_unit,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import INTERVAL, interval, listed, plural, shorten

COLUMN = (PLOT - 72) // 2
LOOKS = {PLANS: (BLUE, "circle", -0.06), PROMPTS: (ORANGE, "diamond", 0.06)}
NAMED = {PLANS: "base and plans", PROMPTS: "base under other prompts"}


def oracle(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the oracle's gain over the base against the number of options, a panel for each task."""
    rows = _rows(tables, **where)
    if rows.empty:
        return blank(f"{where['model']}: no plan was confirmed.")
    parts = [part for _, part in rows.groupby("task", sort=False)]
    width = COLUMN if len(parts) > 1 else PLOT
    panels = [_panel(part, width) for part in parts]
    items: list[KeyItem] = [
        ("point", LOOKS[name][0], LOOKS[name][1], f"oracle: {NAMED[name]}")
        for name in rows["set"].unique()
    ]
    items += [("hollow", "#444444", "square", "best single one"), ("thin", "#444444", "", INTERVAL)]
    chart = alt.vconcat(alt.concat(*panels, columns=2, spacing=14), key(items))
    finding = oracle_finding(tables, levels, **where)
    heading = "What an oracle would gain"
    return finish(chart, heading, where, finding, ["confirm documents"])


def _rows(tables: Tables, **where: str) -> pd.DataFrame:
    """Return the rows of confirm: of the tasks that have prompts, or else of all search tasks."""
    rows = rows_of(tables.get("oracle"), stage="confirm", **where)
    if rows.empty:
        return rows
    compared = rows.loc[rows["set"] == PROMPTS, "task"].unique()
    return rows[rows["task"].isin(compared) if len(compared) else rows["role"] == "search"]


def _panel(rows: pd.DataFrame, width: int) -> Any:
    """Draw one task: gains of the oracle with intervals, and those of the best single option."""
    first = rows.iloc[0]
    records = rows.to_dict("records")
    unit = short_unit(first["unit"])
    data = rows[["task", "set", "k", "options", "n"]].assign(
        place=[row["k"] + LOOKS[row["set"]][2] for row in records],
        color=[LOOKS[row["set"]][0] for row in records],
        shape=[LOOKS[row["set"]][1] for row in records],
        named=[NAMED[row["set"]] for row in records],
        text=[interval(row | {"effect": row["gain"]}, unit=unit) for row in records],
        **{name: rows[name].astype(float).round(3) for name in ("gain", "low", "high", "best")},
    )
    most = int(rows["k"].max())
    top = max(float(data["high"].max()), 1.0)
    scale = alt.Scale(domain=[round(-0.04 * top, 3), round(1.06 * top, 3)], nice=False)
    x = alt.X(
        "place:Q",
        scale=alt.Scale(domain=[0.6, most + 0.4], nice=False),
        axis=alt.Axis(
            title="options beside the base",
            values=sorted(rows["k"].unique().tolist()),
            format="d",
            grid=False,
        ),
    )
    axis = value_axis(effect_title(first["unit"]))
    y = alt.Y("gain:Q", scale=scale, axis=axis)
    chart = alt.Chart(data).encode(x=x, color=alt.Color("color:N", scale=None))
    shape = alt.Shape("shape:N", scale=None)
    tips = [
        alt.Tooltip("task:N", title="task"),
        alt.Tooltip("named:N", title="picks from"),
        alt.Tooltip("k:Q", title="options"),
        alt.Tooltip("text:N", title="gain"),
        alt.Tooltip("best:Q", title="best single one", format="+.1f"),
        alt.Tooltip("n:Q", title="documents"),
    ]
    single = chart.mark_point(shape="square", fill="white", size=40, opacity=1)
    drawn = [
        zero_rule(),
        chart.mark_line(strokeWidth=1.2).encode(y=y),
        interval_rules(chart, alt.Y("low:Q", scale=scale, axis=axis), "high"),
        single.encode(y=alt.Y("best:Q", scale=scale, axis=axis), tooltip=tips),
        chart.mark_point(filled=True, size=60, opacity=1).encode(y=y, shape=shape, tooltip=tips),
    ]
    title = panel_title(f"{shorten(str(first['task']))}, n = {first['n']:,}")
    return alt.layer(*drawn).properties(width=width, height=190, title=title)


def oracle_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say what an oracle over plans gains, and what it gains from as many prompts of the base."""
    rows = _rows(tables, **where)
    if rows.empty:
        return ""
    compared = rows[(rows["set"] == PLANS) & rows["more"].notna()]
    shown = compared if len(compared) else rows
    last = shown.loc[shown.groupby("task", sort=False)["k"].idxmax()]
    gains, others, apart = [], [], []
    for row in last.to_dict("records"):
        gains.append(f"{_gain(row)} on {row['task']}")
        same = rows_of(rows, task=row["task"], set=PROMPTS, k=row["k"])
        if len(same):
            others.append(f"{_gain(same.iloc[0].to_dict())} on {row['task']}")
            apart.append(f"{_gain(row, 'more')} on {row['task']}")
    ks = list(dict.fromkeys(plural(int(k), "plan") for k in last["k"]))
    said = (
        f"An oracle that took for each document the best of the base and {listed(ks, 'or')} would "
        f"gain {listed(gains)}."
    )
    if others:
        said += (
            f" From as many other prompts of the base, without any repeated layer, it would gain "
            f"{listed(others)}; plans less prompts are {listed(apart)}. An oracle gains from "
            "answers that change for any reason, so its gain promises nothing."
        )
    else:
        said += (
            " An oracle gains from answers that change for any reason. How much other prompts of "
            "the base would give it was not measured, so its gain promises nothing."
        )
    return f"{said}{_searched(tables, **where)}"


def _searched(tables: Tables, **where: str) -> str:
    """Return what an oracle over all plans of the search would gain on its documents."""
    rows = rows_of(tables.get("oracle"), stage="search", **where)
    if rows.empty:
        return ""
    rows = rows[rows["k"] == rows["options"]]
    each = [f"{_gain(row)} on {row['task']}" for row in rows.to_dict("records")]
    counts = rows["options"].unique()
    count = f"{counts[0]:,}" if len(counts) == 1 else f"{counts.min():,} to {counts.max():,}"
    return f" Over the {count} plans that saw all search documents it would gain {listed(each)}."


def _gain(row: dict[str, Any], kind: str = "gain") -> str:
    """Return "+14.1 points [+11.2, +17.0]", or of a perplexity its change in per cent."""
    ends = ("low", "high") if kind == "gain" else (f"{kind}_low", f"{kind}_high")
    return change_text(row | {"effect": row[kind]}, *ends, unit=f" {row['unit']}")
