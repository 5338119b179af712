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
    GREEN,
    GREY,
    INK,
    PLOT,
    RED,
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

# Of the parts of a layer, and of a part against another one.
PARTS = {"block": "the whole layer", "attn": "its attention", "mlp": "its MLP"}
NAMES = {"block": "the whole", "attn": "the attention", "mlp": "the MLP"}
COLORS = {"block": "#5b4aa0", "attn": GREEN, "mlp": RED}
OTHERS = "#9aa3ae"
# The width of each of two panels side by side.
COLUMN = (PLOT - 72) // 2
BAND = "95 % band around the whole profile"


def _rows(tables: Tables, **where: str) -> pd.DataFrame:
    return rows_of(tables.get("profile"), **where)


def profile(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the effect of repeating over the relative depth, and how the parts differ.

    A row of panels a task. Left: for each part a line of shrunken effects over the measured ones,
    in a band that holds the whole true profile; thin lines are the other models. Right, where
    several parts were repeated alike: their paired differences on the same documents.
    """
    rows = _rows(tables, **where)
    if rows.empty:
        return blank(f"{where['model']}: the search has no profile, as too few places are alike.")
    parts = [part for part in PARTS if part in set(rows["part"])]
    width = COLUMN if len(parts) > 1 else PLOT
    others = _other_models(tables, **where)
    panels = []
    tasks = list(rows["task"].unique())
    for task in tasks:
        own = rows[rows["task"] == task]
        here = others[others["task"] == task] if len(others) else others
        last = task == tasks[-1]
        panels.append(_panel(own[own["against"] == BASE], width, last, here))
        if len(parts) > 1:
            panels.append(_panel(own[own["against"] != BASE], width, last))
    chart = alt.vconcat(
        alt.concat(*panels, columns=2 if len(parts) > 1 else 1, spacing=14),
        key(_key(rows, parts, others)),
    )
    finding = profile_finding(tables, levels, **where)
    title = f"Where repeating {_what(rows)} pays"
    return finish(chart, title, where, finding, ["search documents"])


def _other_models(tables: Tables, model: str, **where: str) -> pd.DataFrame:
    """Return the profiles of the same parts of other models."""
    rows = tables.get("profile")
    if rows is None or rows.empty:
        return pd.DataFrame()
    return rows[(rows["model"] != model) & (rows["against"] == BASE)]


def _what(rows: pd.DataFrame) -> str:
    """Return what is repeated, and how often: "one layer once more"."""
    one = rows.iloc[0]
    length, again = int(one["stop"] - one["start"]), int(one["times"]) - 1
    what = "one layer" if length == 1 else f"a block of {length} layers"
    return f"{what} {'once' if again == 1 else f'{again} times'} more"


def _name(part: str, against: str) -> str:
    return PARTS[part] if against == BASE else f"{NAMES[part]} minus {NAMES[against]}"


def _color(part: str, against: str) -> str:
    """Return the colour of a part, or of its difference from the whole; of two parts it is grey."""
    return COLORS[part] if against in (BASE, "block") else GREY


def _key(rows: pd.DataFrame, parts: list[str], others: pd.DataFrame) -> list[KeyItem]:
    series = rows.drop_duplicates(["part", "against"])[["part", "against"]]
    items: list[KeyItem] = [
        ("thick", _color(part, against), "", _name(part, against))
        for part, against in series.itertuples(index=False)
    ]
    items += [
        ("point", INK, "circle", "measured"),
        ("band", "#d5d5d5", "", BAND),
    ]
    items.insert(len(series), ("thick", INK, "", "shrunken estimate"))
    if len(others):
        names = list(others["model"].unique())
        said = listed(names) if len(names) <= MOST_NAMED else plural(len(names), "other model")
        items.append(("thin", OTHERS, "", shorten(said, 60)))
    return items


def _panel(rows: pd.DataFrame, width: int, lowest: bool, others: pd.DataFrame | None = None) -> Any:
    """Draw one task: of each series a band, a line of shrunken effects and the measured points."""
    unit = rows["unit"].iloc[0]
    pairs = list(zip(rows["part"], rows["against"], strict=True))
    series = [_name(*pair) for pair in pairs]
    data = point_data(rows, "n").assign(
        series=series,
        position=rows["position"].round(4),
        shrunken=rows["shrunken"].round(3),
        band_low=rows["band_low"].round(3),
        band_high=rows["band_high"].round(3),
        shrunken_text=[interval(r, "shrunken", short_unit(unit)) for r in rows.to_dict("records")],
    )
    if rows["against"].iloc[0] != BASE:
        words = zip(data["words"], rows["against"], strict=True)
        data["words"] = [f"{said}, minus {NAMES[against]}" for said, against in words]
    cut = cut_axis(data.assign(low=data["band_low"], high=data["band_high"]))
    data = data.assign(**cut.data[["shown", "below"]])
    x = _x(lowest)
    scale = alt.Scale(domain=cut.domain, nice=False, zero=False)
    axis = value_axis(effect_title(unit))
    colors = {_name(*pair): _color(*pair) for pair in pairs}
    color = alt.Color(
        "series:N", scale=alt.Scale(domain=list(colors), range=list(colors.values())), legend=None
    )
    chart = alt.Chart(data).encode(x=x, color=color)
    band = chart.mark_area(opacity=0.13, clip=True).encode(
        y=alt.Y("band_low:Q", scale=scale, axis=axis), y2="band_high:Q"
    )
    line = chart.mark_line(strokeWidth=2.2, clip=True).encode(
        y=alt.Y("shrunken:Q", scale=scale, axis=axis)
    )
    points = chart.transform_filter("!datum.below").mark_point(size=16, filled=True, opacity=0.75)
    points = points.encode(
        y=alt.Y("shown:Q", scale=scale, axis=axis),
        tooltip=tooltip(
            alt.Tooltip("shrunken_text:N", title="shrunken"),
            alt.Tooltip("n:Q", title="documents"),
        ),
    )
    drawn = [zero_rule(), band, *_light(others, x, scale, axis), line, points]
    drawn += [Cut(data, cut.domain, cut.note).arrows(x)] if cut.note else []
    n, documents = rows[["n", "documents"]].iloc[0]
    title = f"{shorten(rows['task'].iloc[0])}, n = {n:,}{f' of {documents:,}' * (n < documents)}"
    if rows["against"].iloc[0] != BASE:
        title = "paired differences between the parts"
    return alt.layer(*drawn).properties(width=width, height=170, title=panel_title(title, cut.note))


def _x(lowest: bool) -> alt.X:
    title = "middle of what is repeated, as a share of the depth"
    return alt.X(
        "position:Q",
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=number_axis(
            title if lowest else "",
            values=[0, 0.25, 0.5, 0.75, 1],
            grid=False,
            labelExpr="format(100 * datum.value, 'd') + ' %'",
        ),
    )


def _light(others: pd.DataFrame | None, x: alt.X, scale: alt.Scale, axis: alt.Axis) -> list[Any]:
    """Draw the other models' shrunken profiles as thin lines."""
    if others is None or others.empty:
        return []
    data = others[["model", "part", "position", "shrunken"]].round(4)
    data = data.assign(series=data["model"] + ": " + data["part"].map(PARTS))
    line = alt.Chart(data).mark_line(strokeWidth=1.2, color=OTHERS, clip=True)
    y = alt.Y("shrunken:Q", scale=scale, axis=axis)
    return [line.encode(x=x, y=y, detail="series:N", tooltip=alt.Tooltip("series:N", title="of"))]


def profile_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say for each task where repeating looks best, at how many places the band leaves the base and
    how reliable the order of the places is; then how alike tasks, models and parts are."""
    rows = _rows(tables, **where)
    if rows.empty:
        return ""
    tasks = list(rows["task"].unique())[:MOST_NAMED]
    shapes = tables.get("reliability", pd.DataFrame())
    part = rows["part"].iloc[0]
    said = []
    for task in tasks:
        own = rows_of(rows, part=part, against=BASE, task=task)
        mine = rows_of(shapes, **where, part=part, against=BASE, task=task, measure="reliability")
        what = "it" if said else f"repeating {_what(rows)}"
        known = mine[mine["estimate"].notna()] if len(mine) else mine
        order = "".join(
            f", and the order of the places has a reliability of {_number(row)}"
            for row in known.to_dict("records")
        )
        said.append(f"On {task}, {what} looks best at {_best(own)}; {_beyond(own)}{order}.")
    said += _alike(shapes, where["model"], part, tasks)
    said += _between(rows, rows_of(shapes, **where), tasks)
    said += _seen(rows[rows["task"].isin(tasks)])
    return " ".join(said)


def _best(rows: pd.DataFrame) -> str:
    """Return the place with the best shrunken effect, and this effect."""
    row = rows.loc[rows["shrunken"].idxmax()]
    layers = round(row["depth"] / row["relative_depth"])
    effect = row.to_dict() | {"effect": row["shrunken"]}
    found = change_text(effect, "shrunken_low", "shrunken_high", unit=f" {row['unit']}")
    words = plan_words(row["plan"], layers)
    return f"{share(row['position'])} of the depth ({words}: {found} after shrinking)"


def _beyond(rows: pd.DataFrame, line: str = "the base") -> str:
    """Say at how many places the band excludes the base, or no difference."""
    over, under = int((rows["band_low"] > 0).sum()), int((rows["band_high"] < 0).sum())
    return (
        f"the band lies above {line} at {over or 'none'} and below it at {under or 'none'} of "
        f"{plural(len(rows), 'place')}"
    )


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
            said.append(f"{found} on {task} on average, where {_beyond(own, '0')}")
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
