"""A race: how many plans were left after how many documents, and which blocks they were."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import KeyItem, key, text_width
from frankenlab.report.figures.maps import Grid, block_cells
from frankenlab.report.figures.style import (
    INK,
    PLOT,
    blank,
    finish,
    number_axis,
    panel_title,
    point_data,
    value_axis,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import plural

# From a block that the first round dropped to one that was never dropped.
FIRST, LAST = (216, 219, 226), (43, 27, 96)
CURVE = "#5b4aa0"


def round_colors(rounds: int) -> list[str]:
    """Return a colour for each round, darker for later ones."""
    shades = np.linspace(FIRST, LAST, max(rounds, 2))[-rounds:].round().astype(int)
    return ["#" + "".join(f"{part:02x}" for part in shade) for shade in shades]


def race(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the plans left against documents, and the last round of each block that runs twice."""
    rounds = rows_of(tables.get("race"), **where)
    if rounds.empty:
        return blank(f"{where['model']}: its search was no race.")
    rounds = rounds.sort_values("round")
    cells = block_cells(
        rows_of(tables.get("comparisons"), stage="search", **where).drop_duplicates("plan")
    )
    finding = race_finding(tables, levels, **where)
    if cells.empty:
        chart: Any = alt.vconcat(_curve(rounds, PLOT, 170))
        return finish(chart, "The race", where, finding, ["search documents"])
    last = int(rounds["round"].max())
    colors = round_colors(last)
    labels = _round_labels(rounds)
    half = (PLOT - 62) // 2
    grid = Grid.of(cells, half)
    cells = cells.assign(round=cells["dropped"].fillna(last).astype(int))
    data = point_data(cells, "start", "length", "round", "n")
    scale = alt.Scale(domain=list(range(1, last + 1)), range=colors)
    fields = (
        alt.Tooltip("round:Q", title="last round"),
        alt.Tooltip("n:Q", title="documents"),
    )
    blocks = grid.panel(data, alt.Color("round:O", scale=scale, legend=None), fields=fields)
    title = panel_title("The last round of each block, run twice")
    chart = alt.hconcat(
        _curve(rounds, half, grid.height),
        blocks.properties(title=title),
        spacing=62,
        bounds="flush",
    )
    items: list[KeyItem] = [
        ("point", color, "square", label) for color, label in zip(colors, labels, strict=True)
    ]
    chart = alt.vconcat(chart, key(items))
    return finish(chart, "The race", where, finding, ["search documents"])


def _round_labels(rounds: pd.DataFrame) -> list[str]:
    """Return what each round's colour means, for the blocks that ended with it."""
    last = int(rounds["round"].max())
    labels = [f"dropped after round {number}" for number in range(1, last)]
    return [*labels, "ran to the end"]


def _curve(rounds: pd.DataFrame, width: int, height: int) -> Any:
    """Draw the plans that ran in each round, over the documents that the round added."""
    ends = rounds["documents"].astype(int).tolist()
    starts = [0, *ends[:-1]]
    data = pd.DataFrame(
        {
            "round": rounds["round"].astype(int),
            "start": starts,
            "end": ends,
            "plans": rounds["plans"].astype(int),
            "dropped": rounds["dropped"].astype(int),
            "label": [f"{plans:,}" for plans in rounds["plans"]],
        }
    )
    data["middle"] = (data["start"] + data["end"]) / 2
    most = int(data["plans"].max())
    # The number over the highest step has room, and no label of the axis stands beside the title.
    labels = f"datum.value > {most} ? '' : format(datum.value, '~s')"
    x = alt.X(
        "start:Q",
        scale=alt.Scale(domain=[0, ends[-1]], nice=False),
        axis=number_axis(
            "documents that a plan has seen, all tasks", grid=False, tickCount=5, labelFlush=False
        ),
    )
    y = alt.Y(
        "plans:Q",
        scale=alt.Scale(domain=[0, 1.12 * most], nice=False),
        axis=value_axis("plans in the race", labelExpr=labels, grid=False),
    )
    wide = data["label"].map(text_width) < width * (data["end"] - data["start"]) / ends[-1]
    chart = alt.Chart(data).encode(y=y)
    tips = [
        alt.Tooltip("round:Q", title="round"),
        alt.Tooltip("plans:Q", title="plans", format=","),
        alt.Tooltip("dropped:Q", title="dropped after it", format=","),
        alt.Tooltip("end:Q", title="documents so far", format=","),
    ]
    bars = chart.mark_rect(color=CURVE, opacity=0.22).encode(x=x, x2="end:Q", y2=alt.datum(0))
    tops = chart.mark_rule(color=CURVE, strokeWidth=1.6).encode(x=x, x2="end:Q")
    names = alt.Chart(data[wide]).mark_text(baseline="bottom", dy=-3, color=INK)
    middle = alt.X("middle:Q", scale=x["scale"], axis=x["axis"])
    drawn = [bars.encode(tooltip=tips), tops, names.encode(x=middle, y=y, text="label:N")]
    title = panel_title("Plans left")
    return alt.layer(*drawn).properties(width=width, height=height, title=title)


def race_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say how many plans were left when, and what share of the work the race took."""
    rounds = rows_of(tables.get("race"), **where)
    if rounds.empty:
        return ""
    rounds = rounds.sort_values("round")
    first, last = rounds.iloc[0], rounds.iloc[-1]
    share = 100 * last["share"]
    grown = int(rounds["grown"].sum()) if "grown" in rounds else 0
    more = f" and {grown:,} that were grown on the way" if grown else ""
    start = f"Of {plural(int(first['plans']), 'plan')}{more}, {int(last['plans']):,} were left for "
    start += f"the last of {plural(len(rounds), 'round')}"
    of = " of the grid" if grown else ""
    if len(rounds) == 1:
        start = f"All {plural(int(first['plans']), 'plan')} ran in the only round"
    return (
        f"{start}; the race took {share:.0f} % of the layer passes that all plans{of} on all "
        "documents would have taken."
    )
