"""Where in the depth repeating pays: shrunken profiles with simultaneous bands, part by part."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE
from frankenlab.report.answer import MOST_NAMED
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    GREY,
    PART_COLORS,
    PLOT,
    Cut,
    blank,
    change_text,
    cut_axis,
    effect_title,
    finish,
    number_axis,
    panel_title,
    point_data,
    short_unit,
    tooltip,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import interval, listed, plan_words, plural, share, shorten

# Of the parts of a layer: how they are named, and drawn.
NAMES = {"block": "the whole", "attn": "the attention", "mlp": "the MLP"}
TITLES = {"block": "the whole layer", "attn": "its attention", "mlp": "its MLP"}
OTHERS = "#9aa3ae"
BAND = "95 % band around the whole profile"
# Panels beside each other, and the pixels between them.
COLUMNS, APART = 3, 14


def _rows(tables: Tables, **where: str) -> pd.DataFrame:
    return rows_of(tables.get("profile"), **where)


def profile(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the effect of repeating over the relative depth, and how the parts differ.

    For each task a panel a part, then their paired differences on the same documents, on one axis:
    a line of shrunken effects over the measured ones, in a band that holds the whole true profile.
    Thin lines are the other models.
    """
    rows = _rows(tables, **where)
    if rows.empty:
        return blank(f"{where['model']}: the search has no profile, as too few places are alike.")
    others = _other_models(tables, rows)
    panels = [_task(own, others) for _, own in rows.groupby("task", sort=False)]
    chart = alt.vconcat(*panels, key(_key(others)))
    finding = profile_finding(tables, levels, **where)
    title = f"Where repeating {_what(rows)} pays"
    return finish(chart, title, where, finding, ["search documents"])


def _other_models(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the profiles of other models than that of the rows."""
    every = rows_of(tables["profile"], against=BASE)
    return every[every["model"] != rows["model"].iloc[0]]


def _what(rows: pd.DataFrame) -> str:
    """Return what is repeated, and how often: "one layer once more"."""
    one = rows.iloc[0]
    length, again = int(one["stop"] - one["start"]), int(one["times"]) - 1
    what = "one layer" if length == 1 else f"a block of {length} layers"
    return f"{what} {'once' if again == 1 else f'{again} times'} more"


def _key(others: pd.DataFrame) -> list[KeyItem]:
    items: list[KeyItem] = [
        ("thick", GREY, "", "shrunken estimate"),
        ("point", GREY, "circle", "measured"),
        ("band", "#d5d5d5", "", BAND),
    ]
    if len(others):
        names = list(others["model"].unique())
        said = listed(names) if len(names) <= MOST_NAMED else plural(len(names), "other model")
        items.append(("thin", OTHERS, "", shorten(said, 60)))
    return items


def _task(rows: pd.DataFrame, others: pd.DataFrame) -> Any:
    """Draw the panels of one task on one axis of effects."""
    unit = rows["unit"].iloc[0]
    cut = cut_axis(_data(rows, unit))
    series = cut.data.groupby(["part", "against"], sort=False)
    width = PLOT
    if len(series) > 1:
        width = (PLOT - (COLUMNS - 1) * APART) // COLUMNS
    panels = []
    for place, ((part, against), own) in enumerate(series):
        here = others[0:0]
        if against == BASE and len(others):
            here = rows_of(others, task=rows["task"].iloc[0], part=part)
        labelled = value_axis(effect_title(unit)) if place % COLUMNS == 0 else _no_labels()
        y = {"scale": alt.Scale(domain=cut.domain, nice=False, zero=False), "axis": labelled}
        lowest = place >= (len(series) - 1) // COLUMNS * COLUMNS
        panels.append(_panel(Cut(own, cut.domain, cut.note), y, width, lowest, here))
    lines = [
        alt.hconcat(*panels[start : start + COLUMNS], spacing=APART, bounds="flush")
        for start in range(0, len(panels), COLUMNS)
    ]
    n, documents = rows[["n", "documents"]].iloc[0]
    title = f"{shorten(rows['task'].iloc[0])}, n = {n:,}{f' of {documents:,}' * (n < documents)}"
    return alt.vconcat(*lines, spacing=8).properties(title=panel_title(title, cut.note))


def _data(rows: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Return the data of the points; low and high are the ends of the band."""
    records = rows.to_dict("records")
    data = point_data(rows, "part", "against", "n").assign(
        position=rows["position"].round(4),
        shrunken=rows["shrunken"].round(3),
        shrunken_text=[interval(row, "shrunken", short_unit(unit)) for row in records],
        low=rows["band_low"].round(3),
        high=rows["band_high"].round(3),
    )
    words = zip(data["words"], data["against"], strict=True)
    data["words"] = [
        said if against == BASE else f"{said}, minus {NAMES[against]}" for said, against in words
    ]
    return data


def _no_labels() -> alt.Axis:
    """Return the axis of a panel beside one that has the same axis, with labels."""
    return alt.Axis(title="", labels=False, ticks=False, tickCount=5, domain=False)


def _panel(cut: Cut, y: dict[str, Any], width: int, lowest: bool, others: pd.DataFrame) -> Any:
    """Draw one profile: its band, the line of shrunken effects and the measured points."""
    part, against = cut.data[["part", "against"]].iloc[0]
    color = PART_COLORS[part] if against == BASE else GREY
    narrow = width < PLOT
    short = "share of the depth"
    x = alt.X(
        "position:Q",
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=number_axis(
            (short if narrow else f"middle of what is repeated, {short}") if lowest else "",
            labels=lowest,
            values=[0, 0.5, 1] if narrow else [0, 0.25, 0.5, 0.75, 1],
            grid=False,
            labelExpr="format(100 * datum.value, 'd') + ' %'",
        ),
    )
    chart = alt.Chart(cut.data).encode(x=x)
    look: dict[str, Any] = {"color": color, "clip": True}
    points = chart.transform_filter("!datum.below").mark_point(size=16, filled=True, opacity=0.75)
    drawn = [
        zero_rule(),
        chart.mark_area(opacity=0.15, **look).encode(y=alt.Y("low:Q", **y), y2="high:Q"),
        *_light(others, x, y),
        chart.mark_line(strokeWidth=2.2, **look).encode(y=alt.Y("shrunken:Q", **y)),
        points.encode(
            y=alt.Y("shown:Q", **y),
            color=alt.value(color),
            tooltip=tooltip(
                alt.Tooltip("shrunken_text:N", title="shrunken"),
                alt.Tooltip("n:Q", title="documents"),
            ),
        ),
        *([cut.arrows(x)] if cut.data["below"].any() else []),
    ]
    title = TITLES[part] if against == BASE else f"{NAMES[part]} minus {NAMES[against]}"
    return alt.layer(*drawn).properties(
        width=width,
        height=150 if narrow else 170,
        title=alt.TitleParams(
            title if narrow else "", fontWeight="normal", offset=4, frame="group"
        ),
    )


def _light(others: pd.DataFrame, x: alt.X, y: dict[str, Any]) -> list[alt.Chart]:
    """Draw the other models' shrunken profiles as thin lines."""
    if others.empty:
        return []
    line = alt.Chart(others[["model", "position", "shrunken"]].round(4))
    line = line.mark_line(strokeWidth=1.2, color=OTHERS, clip=True)
    tip = alt.Tooltip("model:N", title="model")
    return [line.encode(x=x, y=alt.Y("shrunken:Q", **y), detail="model:N", tooltip=tip)]


def profile_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say for each task where repeating looks best, at how many places the band leaves the base and
    how reliable the order of the places is; then how alike tasks, models and parts are."""
    rows = _rows(tables, **where)
    if rows.empty:
        return ""
    tasks = list(rows["task"].unique())[:MOST_NAMED]
    shapes = tables.get("reliability", pd.DataFrame())
    part = rows["part"].iloc[0]
    said: list[str] = []
    for task in tasks:
        own = rows_of(rows, part=part, against=BASE, task=task)
        mine = rows_of(shapes, **where, part=part, against=BASE, task=task, measure="reliability")
        what = "it" if said else f"repeating {_what(rows)}"
        known = mine[mine["estimate"].notna()] if len(mine) else mine
        order = "".join(map(_order, known.to_dict("records")))
        looks = "looks best" if own["shrunken"].max() > 0 else "costs least"
        said.append(f"On {task}, {what} {looks} at {_best(own)}; {_beyond(own)}{order}.")
    said += _alike(shapes, where["model"], part, tasks)
    said += _between(rows, rows_of(shapes, **where), tasks)
    said += _seen(rows[rows["task"].isin(tasks)])
    return " ".join(said)


def _order(row: dict[str, Any]) -> str:
    """Return how reliable the order of the places is, as the end of a sentence."""
    if row["low"] > 0:
        return f", and the order of the places has a reliability of {_number(row)}"
    return f", and their order may be noise alone (reliability {_number(row)})"


def _best(rows: pd.DataFrame) -> str:
    """Return the place with the best shrunken effect, and this effect."""
    row = rows.loc[rows["shrunken"].idxmax()]
    layers = round(row["depth"] / row["relative_depth"])
    effect = row.to_dict() | {"effect": row["shrunken"]}
    found = change_text(effect, "shrunken_low", "shrunken_high", unit=f" {row['unit']}")
    words = plan_words(row["plan"], layers)
    return f"{share(row['position'])} of the depth ({words}: {found} after shrinking)"


def _beyond(rows: pd.DataFrame) -> str:
    """Say at how many places the band excludes 0, which is no change."""
    over, under = int((rows["band_low"] > 0).sum()), int((rows["band_high"] < 0).sum())
    places = plural(len(rows), "place")
    if not over + under:
        return f"none of the {places} is significantly better or worse"
    better = f"{over or 'none'} {'are' if over > 1 else 'is'} significantly better"
    return f"of {places}, {better} and {under or 'none'} worse"


def _alike(shapes: pd.DataFrame, model: str, part: str, tasks: list[str]) -> list[str]:
    """Say how well the orders of the places agree between tasks, and with other models."""
    rows = rows_of(shapes, part=part, against=BASE)
    if rows.empty:
        return []
    rows = rows[rows["estimate"].notna() & rows["task"].isin(tasks)]
    own = rows_of(rows, model=model, measure="between tasks")
    pairs = [
        f"{_number(row)} between {row['other']} and {row['task']}"
        for row in own[own["other"].isin(tasks)].to_dict("records")
    ]
    others = rows_of(rows, measure="between models", task=tasks[0])
    others = others[(others["model"] == model) | (others["other"] == model)].head(MOST_NAMED)
    pairs += [
        f"{_number(row)} with {row['other'] if row['model'] == model else row['model']} on "
        f"{row['task']}"
        for row in others.to_dict("records")
    ]
    return [f"This order has a rank correlation of {listed(pairs)}."] if pairs else []


def _number(row: Mapping[str, Any]) -> str:
    """Return "0.47 [0.21, 0.68]"."""
    value, low, high = (
        f"{row[name]:.2f}".replace("-", "−") for name in ("estimate", "low", "high")
    )
    return f"{value} [{low}, {high}]"


def _between(rows: pd.DataFrame, shapes: pd.DataFrame, tasks: list[str]) -> list[str]:
    """Say how the attention and the MLP differ, or one of them and the whole."""
    pairs = rows[rows["against"] != BASE][["part", "against"]].drop_duplicates()
    if pairs.empty:
        return []
    part, against = pairs.iloc[-1]
    said = []
    for task in tasks:
        own = rows_of(rows, part=part, against=against, task=task)
        mean = rows_of(shapes, part=part, against=against, task=task, measure="mean")
        for row in mean.to_dict("records"):
            found = change_text(row | {"effect": row["estimate"]}, unit=f" {row['unit']}")
            said.append(f"{found} on {task} on average ({_beyond(own)})")
    names = f"{NAMES[part]} in place of {NAMES[against]}"
    return [f"Repeating {names} changes that by {'; '.join(said)}."] if said else []


def _seen(rows: pd.DataFrame) -> list[str]:
    """Say on how many documents a profile rests, where a race let its plans see only some."""
    each = rows.drop_duplicates("task")
    said = [
        f"{row['n']:,} of {row['documents']:,} documents of {row['task']}"
        for row in each[each["n"] < each["documents"]].to_dict("records")
    ]
    ended = "that all of these plans saw before the race dropped any"
    return [f"All this rests on the {listed(said)} {ended}."] if said else []
