"""Draw what the frozen plan of each model does on the other models."""

from typing import Any

import altair as alt
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    PLOT,
    blank,
    effect_title,
    finish,
    interval_rules,
    model_layers,
    number_axis,
    panel_title,
    short_unit,
    tooltip,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    INTERVAL,
    change_text,
    have,
    interval,
    listed,
    plan_words,
    plural,
    shorten,
)

# Space of the names of models left of a panel, and the width of each of two panels.
NAMES, MOST_LETTERS = 250, 40
ROW = 22
MOST_NAMED = 3


def transfer_effect(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw, a panel a task, the effect of each model's own frozen plan and of the others'."""
    rows = rows_of(tables.get("transfer"), **where)
    if rows.empty:
        return blank("No frozen plan was run on another model.")
    layers = {model: model_layers(tables, model) for model in rows["model"].unique()}
    panels = [_panel(part, layers) for _, part in rows.groupby("task", sort=False)]
    items: list[KeyItem] = [
        ("point", BLUE, "circle", "the model's own frozen plan"),
        ("point", ORANGE, "diamond", "the frozen plan of another model, at the same shares"),
        ("thin", GREY, "", INTERVAL),
    ]
    chart = alt.vconcat(*panels, key(items), spacing=14)
    finding = transfer_effect_finding(tables, levels, **where)
    notes = ["confirm documents, at the reference quantization of each model"]
    return finish(chart, "The frozen plan of each model on the others", where, finding, notes)


def _panel(rows: pd.DataFrame, layers: dict[str, int]) -> Any:
    first = rows.iloc[0]
    own = rows["source"] == rows["model"]
    names = [
        f"{row['model']}: {'its own' if row['source'] == row['model'] else 'of ' + row['source']}"
        for row in rows.to_dict("records")
    ]
    numbers = {name: rows[name].astype(float).round(3) for name in ("effect", "low", "high")}
    data = rows[["task", "plan", "n"]].assign(
        **numbers,
        name=[shorten(name, MOST_LETTERS) for name in names],
        words=[
            plan_words(row["plan"], layers[row["model"]]) if layers[row["model"]] else row["plan"]
            for row in rows.to_dict("records")
        ],
        effect_text=[
            interval(row, unit=short_unit(first["unit"])) for row in rows.to_dict("records")
        ],
        difference_text=[
            "–" if pd.isna(row["p"]) else interval(row, "difference", short_unit(first["unit"]))
            for row in rows.to_dict("records")
        ],
        color=[BLUE if mine else ORANGE for mine in own],
        shape=["circle" if mine else "diamond" for mine in own],
    )
    low, high = min(data["low"].min(), 0.0), max(data["high"].max(), 0.0)
    room = 0.04 * (high - low) or 1.0
    scale = alt.Scale(domain=[round(low - room, 3), round(high + room, 3)], nice=False, zero=False)
    axis = number_axis(effect_title(first["unit"]), tickCount=6)
    x = alt.X("effect:Q", scale=scale, axis=axis)
    y = alt.Y(
        "name:N",
        sort=None,
        axis=alt.Axis(
            title=None, labelLimit=NAMES - 10, minExtent=NAMES, maxExtent=NAMES, ticks=False
        ),
    )
    chart = alt.Chart(data).encode(y=y, color=alt.Color("color:N", scale=None))
    drawn = [
        zero_rule(horizontal=False),
        interval_rules(chart, alt.X("low:Q", scale=scale, axis=axis), "high"),
        chart.mark_point(filled=True, size=60, opacity=1).encode(
            x=x,
            shape=alt.Shape("shape:N", scale=None),
            tooltip=tooltip(
                alt.Tooltip("difference_text:N", title="minus the model's own plan"),
                alt.Tooltip("n:Q", title="documents"),
            ),
        ),
    ]
    title = panel_title(f"{shorten(first['task'])} ({first['role']} task), n = {first['n']:,}")
    height = ROW * data["name"].nunique()
    return alt.layer(*drawn).properties(width=PLOT + 34 - NAMES, height=height, title=title)


def transfer_effect_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say whether plans of other models do as well as the models' own, and better than the base."""
    rows = rows_of(tables.get("transfer"), **where)
    if rows.empty:
        return ""
    moved = rows[rows["source"] != rows["model"]]
    tested = moved[moved["p"].notna()]
    same = moved.drop_duplicates(["model", "source"])
    same = same[same["plan"] == same["own"]]
    said = [
        f"On {row['model']} the plan of {row['source']} is its own one."
        for row in same.head(MOST_NAMED).to_dict("records")
    ]
    if len(tested):
        said.append(_against_own(tested))
        above, below = int((tested["low"] > 0).sum()), int((tested["high"] < 0).sum())
        said.append(
            f"Against the base, of {plural(len(tested), 'effect')} of such plans "
            f"{have(above)} a {INTERVAL} above 0 and {have(below)} one below 0."
        )
    elif moved.empty:
        said.append("No frozen plan has a counterpart on another model.")
    return " ".join(said)


def _against_own(tested: pd.DataFrame) -> str:
    sure = tested[tested["significant"].astype(bool)]
    if sure.empty:
        return (
            "There is no evidence that the frozen plan of another model, at the same shares of the "
            "depth, does better or worse than a model's own "
            f"({plural(len(tested), 'comparison')} on the same documents)."
        )
    each = [
        f"{'better' if row['difference'] > 0 else 'worse'} on {row['task']} (that of "
        f"{row['source']} in {row['model']}, {_text(row)})"
        for row in sure.head(MOST_NAMED).to_dict("records")
    ]
    more = len(sure) - MOST_NAMED
    each += [f"in {plural(more, 'more comparison')}"] if more > 0 else []
    return (
        "The frozen plan of another model, at the same shares of the depth, does significantly "
        f"{listed(each)} than the model's own: {len(sure)} of "
        f"{plural(len(tested), 'comparison')} on the same documents, corrected for their number."
    )


def _text(row: dict[str, Any]) -> str:
    effect, low, high = (row[f"difference{end}"] for end in ("", "_low", "_high"))
    return change_text(effect, low, high, row["unit"])
