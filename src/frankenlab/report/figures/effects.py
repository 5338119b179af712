"""What repeating does: layer by layer, and with the number of repetitions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.style import (
    COLORS,
    MARKERS,
    WIDTH,
    base_text,
    blank,
    corner_note,
    cut_below,
    effect_label,
    heading,
    legend,
    limits,
    mark,
    styled,
    task_panels,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import INTERVAL, shorten, signed

MOST_BLOCKS = 6


def _loops(comparisons: pd.DataFrame, **where: str) -> pd.DataFrame:
    """Return the plans that loop one contiguous block, one row a task, with the block's length."""
    rows = rows_of(comparisons, stage="search", **where)
    rows = rows[rows["times"].gt(1).fillna(False) & rows["start"].notna()]
    rows = rows.assign(
        start=rows["start"].astype(int),
        times=rows["times"].astype(int),
        length=(rows["stop"] - rows["start"]).astype(int),
    )
    return rows.drop_duplicates(["task", "start", "length", "times"])


def _task_panels(figure: Figure, rows: pd.DataFrame) -> list[tuple[pd.DataFrame, Axes]]:
    """Make one panel a task, titled with what the base reaches."""
    panels = [(part, line[0]) for part, line in task_panels(figure, rows)]
    for part, axes in panels:
        axes.set_title(f"{shorten(part['task'].iloc[0])}: {base_text(part)}")
        axes.set_ylabel(effect_label(part["unit"].iloc[0]))
    return panels


def _points(axes: Axes, x: np.ndarray, rows: pd.DataFrame, place: int) -> None:
    """Draw effects with their intervals: filled where significant, else hollow."""
    color, significant = COLORS[place % 8], rows["significant"].to_numpy(bool)
    for chosen, face in ((significant, color), (~significant, "white")):
        axes.errorbar(
            x[chosen],
            rows.loc[chosen, "effect"],
            yerr=limits(rows[chosen]),
            fmt=MARKERS[place % 8],
            markersize=4.2,
            color=color,
            markerfacecolor=face,
            elinewidth=0.9,
            markeredgewidth=0.9,
            zorder=3,
        )


def _cut(axes: Axes, x: np.ndarray, rows: pd.DataFrame) -> None:
    """Cut off ruinous effects, and say how many there are and how low the worst is."""
    if cut := cut_below(axes, x, rows):
        corner_note(axes, f"{cut}, worst {signed(rows['effect'].min(), 0)}")


def _legend(figure: Figure, labels: Sequence[str], units: pd.Series, levels: Statistics) -> None:
    """Draw the legend: a line for each label, and what filled and hollow markers mean."""
    handles = [
        mark(label, color=COLORS[i % 8], marker=MARKERS[i % 8], linestyle="-", linewidth=0.9)
        for i, label in enumerate(labels)
    ]
    filled = mark(f"filled: significant, q < {levels.fdr:g}", marker="o", color="0.2")
    hollow = mark("hollow: not significant", marker="o", color="0.2", markerfacecolor="white")
    text = f"bars: {INTERVAL}, paired with the base"
    legend(figure, [*handles, filled, hollow], 4, text, units)


@styled
def layer_effects(tables: Tables, levels: Statistics, **where: str) -> Figure:
    """Draw the effect of repeating each single layer, by how many times it runs.

    One panel a task. Bars are the intervals.
    """
    rows = _loops(tables["comparisons"], **where)
    rows = rows[rows["length"] == 1]
    if rows.empty:
        return blank(f"{where['model']}: no plan of the search stage repeats a single layer.")
    counts = sorted(rows["times"].unique())
    figure = Figure(figsize=(WIDTH, 0.9 + 2.1 * rows["task"].nunique()))
    panels = _task_panels(figure, rows)
    for part, axes in panels:
        place = part["times"].map(counts.index).to_numpy(int)
        x = part["start"].to_numpy(float) + (place - (len(counts) - 1) / 2) * 0.5 / len(counts)
        for i in range(len(counts)):
            _points(axes, x[place == i], part[place == i], i)
        _cut(axes, x, part)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
        axes.margins(x=0.02)
    axes.set_xlabel("layer that is repeated")
    heading(figure, "Each single layer, repeated", where, "search stage")
    _legend(figure, [f"run {times} times" for times in counts], rows["unit"], levels)
    return figure


def series_shown(rows: pd.DataFrame, most: int = MOST_BLOCKS) -> tuple[list[tuple[int, int]], int]:
    """Return the blocks (start, length) whose repetitions are drawn, and how many there are.

    These are the blocks that ran with at least two counts: those with the most counts first, then
    those with the highest effect, averaged over tasks at their lowest count.
    """
    blocks = rows.groupby(["start", "length"])
    lowest = rows[rows["times"] == blocks["times"].transform("min")]
    table = pd.DataFrame(
        {
            "counts": blocks["times"].nunique(),
            "best": lowest.groupby(["start", "length"])["effect"].mean(),
        }
    )
    table = table[table["counts"] > 1]
    ranked = table.sort_values(["counts", "best"], ascending=False, kind="stable")
    return [(int(start), int(length)) for start, length in ranked.index[:most]], len(table)


@styled
def repetition_effect(tables: Tables, levels: Statistics, **where: str) -> Figure:
    """Draw how the effect changes with the number of times that a block runs.

    One panel a task, one line a block (see `series_shown`); every line starts at the base, which
    runs the block once. Bars are the intervals.
    """
    rows = _loops(tables["comparisons"], **where)
    shown, several = series_shown(rows)
    if not shown:
        text = "no block of the search stage was run with several counts."
        return blank(f"{where['model']}: {text}")
    block = pd.Series(list(zip(rows["start"], rows["length"], strict=True)), rows.index)
    rows = rows.assign(place=block.map({key: i for i, key in enumerate(shown)}))
    rows = rows[rows["place"].notna()]
    figure = Figure(figsize=(WIDTH, 1.3 + 2.1 * rows["task"].nunique()))
    for part, axes in _task_panels(figure, rows):
        part = part.assign(x=part["times"] + (part["place"] - (len(shown) - 1) / 2) * 0.09)
        for place, line in part.sort_values("times").groupby("place"):
            color = COLORS[int(place) % 8]
            axes.plot([1, *line["x"]], [0, *line["effect"]], color=color, linewidth=0.9, zorder=2)
            _points(axes, line["x"].to_numpy(float), line, int(place))
        _cut(axes, part["x"].to_numpy(float), part)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.9, rows["times"].max() + 0.4)
    axes.set_xlabel("times that the block runs (1: the base)")
    number = f"{len(shown)} of {several} blocks" if several > len(shown) else f"{several} blocks"
    title = f"More repetitions: {number} that were run with several counts"
    heading(figure, title, where, "search stage")
    labels = [
        f"layer {start}" if length == 1 else f"layers {start}:{start + length}"
        for start, length in shown
    ]
    _legend(figure, labels, rows["unit"], levels)
    return figure
