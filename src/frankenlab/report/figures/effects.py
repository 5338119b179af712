"""What repeating does: layer by layer, and with the number of repetitions."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from frankenlab.report.figures.style import (
    COLORS,
    DEFAULT_LEVELS,
    MARKERS,
    WIDTH,
    Levels,
    base_text,
    blank,
    corner_note,
    cut_below,
    effect_label,
    heading,
    key,
    limits,
    rows_of,
    shorten,
    styled,
    zero_line,
)

MOST_BLOCKS = 6


def _loops(comparisons: pd.DataFrame, model: str, quantization: str, stage: str) -> pd.DataFrame:
    """Plans that loop one contiguous block, one row a task, with the block's length."""
    rows = rows_of(comparisons, stage=stage, model=model, quantization=quantization)
    rows = rows[rows["times"].notna() & rows["start"].notna()]
    rows = rows.assign(
        start=rows["start"].astype(int),
        times=rows["times"].astype(int),
        length=(rows["stop"] - rows["start"]).astype(int),
    )
    return rows.drop_duplicates(["task", "start", "length", "times"])


def _task_axes(figure: Figure, rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame, Axes]]:
    """One panel a task, under each other, titled with what the base reaches."""
    tasks = list(rows.groupby("task", sort=False))
    panels = figure.subplots(len(tasks), 1, sharex=True, squeeze=False)[:, 0]
    for (task, part), axes in zip(tasks, panels, strict=True):
        first = part.iloc[0]
        axes.set_title(f"{shorten(task)}: {base_text(part)}")
        axes.set_ylabel(effect_label(first["unit"]))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9", linewidth=0.6)
        zero_line(axes)
    return [(task, part, axes) for (task, part), axes in zip(tasks, panels, strict=True)]


def _points(axes: Axes, x: np.ndarray, rows: pd.DataFrame, color: str, marker: str) -> None:
    """Effects with their intervals; filled where the corrected test says so, else hollow."""
    axes.errorbar(
        x, rows["effect"], yerr=limits(rows), fmt="none", ecolor=color, elinewidth=0.9, zorder=2
    )
    for significant, face in ((True, color), (False, "white")):
        chosen = (rows["significant"].astype(bool) == significant).to_numpy()
        axes.plot(
            x[chosen],
            rows["effect"].to_numpy(float)[chosen],
            linestyle="none",
            marker=marker,
            markersize=4.2,
            markerfacecolor=face,
            markeredgecolor=color,
            markeredgewidth=0.9,
            zorder=3,
        )


def _cut(axes: Axes, x: np.ndarray, rows: pd.DataFrame) -> None:
    """Cuts off ruinous effects, and says how many and how low."""
    count = cut_below(axes, x, rows)
    if count:
        worst = f"{rows['effect'].min():.0f}".replace("-", "−")
        corner_note(axes, f"▼ {count} below the axis, worst {worst}")


def _fillings(levels: Levels) -> list[Line2D]:
    """The legend's part on filled and hollow markers."""
    return [
        Line2D(
            [],
            [],
            linestyle="none",
            marker="o",
            markersize=4.2,
            color="0.2",
            markerfacecolor=face,
            label=label,
        )
        for face, label in (("0.2", f"filled: q < {levels.fdr:g}"), ("white", "hollow: not so"))
    ]


@styled
def layer_effects(
    comparisons: pd.DataFrame,
    model: str,
    quantization: str,
    stage: str = "search",
    levels: Levels = DEFAULT_LEVELS,
) -> Figure:
    """The effect of repeating each single layer, by how many times it runs.

    Takes the table `comparisons`; one panel a task. Bars are the intervals.
    """
    rows = _loops(comparisons, model, quantization, stage)
    rows = rows[(rows["length"] == 1) & (rows["times"] > 1)]
    if rows.empty:
        return blank(f"{model}: no plan of the {stage} stage repeats a single layer.")
    counts = sorted(rows["times"].unique())
    figure = Figure(figsize=(WIDTH, 0.9 + 2.1 * rows["task"].nunique()))
    shift = 0.5 / len(counts)
    for _, part, axes in _task_axes(figure, rows):
        offset = part["times"].map(
            {n: (i - (len(counts) - 1) / 2) * shift for i, n in enumerate(counts)}
        )
        x = (part["start"] + offset).to_numpy(float)
        for place, times in enumerate(counts):
            chosen = (part["times"] == times).to_numpy()
            _points(axes, x[chosen], part[chosen], COLORS[place % 8], MARKERS[place % 8])
        _cut(axes, x, part)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
        axes.margins(x=0.02)
    axes.set_xlabel("layer that is repeated")
    heading(figure, "Each single layer, repeated", model, quantization, f"{stage} stage")
    handles = [
        Line2D(
            [],
            [],
            color=COLORS[place % 8],
            marker=MARKERS[place % 8],
            markersize=4.2,
            linewidth=0.9,
            label=f"run {times} times",
        )
        for place, times in enumerate(counts)
    ]
    text = f"bars: {levels.interval}, paired with the base"
    key(figure, [*handles, *_fillings(levels)], 4, text, rows["unit"])
    return figure


def series_shown(rows: pd.DataFrame, most: int = MOST_BLOCKS) -> tuple[list[tuple[int, int]], int]:
    """The blocks (start, length) whose repetitions are drawn, and how many there are to draw.

    Those run with at least two counts; most counts first, then the highest effect, averaged
    over tasks at their lowest count.
    """
    blocks = rows.groupby(["start", "length"])
    counts = blocks["times"].nunique()
    several = counts[counts > 1]
    lowest = rows[rows["times"] == blocks["times"].transform("min")]
    best = lowest.groupby(["start", "length"])["effect"].mean().reindex(several.index)
    order = np.lexsort((-best.to_numpy(), -several.to_numpy()))
    return [tuple(map(int, several.index[i])) for i in order[:most]], len(several)


@styled
def repetition_effect(
    comparisons: pd.DataFrame,
    model: str,
    quantization: str,
    stage: str = "search",
    levels: Levels = DEFAULT_LEVELS,
) -> Figure:
    """How the effect changes with the number of times that a block runs.

    Takes the table `comparisons`; one panel a task, one line a block (see `series_shown`); every
    line starts at the base, which runs the block once. Bars are the intervals.
    """
    rows = _loops(comparisons, model, quantization, stage)
    rows = rows[rows["times"] > 1]
    shown, several = series_shown(rows)
    if not shown:
        return blank(f"{model}: no block of the {stage} stage was run with several counts.")
    keys = pd.MultiIndex.from_frame(rows[["start", "length"]])
    rows = rows[keys.isin(shown)]
    figure = Figure(figsize=(WIDTH, 1.3 + 2.1 * rows["task"].nunique()))
    for _, part, axes in _task_axes(figure, rows):
        places = []
        for place, (start, length) in enumerate(shown):
            line = part[(part["start"] == start) & (part["length"] == length)].sort_values("times")
            x = line["times"].to_numpy(float) + (place - (len(shown) - 1) / 2) * 0.09
            color, marker = COLORS[place % 8], MARKERS[place % 8]
            axes.plot([1, *x], [0, *line["effect"]], color=color, linewidth=0.9, zorder=2)
            _points(axes, x, line, color, marker)
            places.append(pd.Series(x, index=line.index))
        _cut(axes, pd.concat(places).loc[part.index].to_numpy(float), part)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.9, rows["times"].max() + 0.4)
    axes.set_xlabel("times that the block runs (1: the base)")
    number = f"{len(shown)} of {several} blocks" if several > len(shown) else f"{several} blocks"
    title = f"More repetitions: {number} that were run with several counts"
    heading(figure, title, model, quantization, f"{stage} stage")
    handles = [
        Line2D(
            [],
            [],
            color=COLORS[place % 8],
            marker=MARKERS[place % 8],
            markersize=4.2,
            linewidth=0.9,
            label=f"layer {start}" if length == 1 else f"layers {start}:{start + length}",
        )
        for place, (start, length) in enumerate(shown)
    ]
    text = f"bars: {levels.interval}, paired with the base"
    key(figure, [*handles, *_fillings(levels)], 4, text, rows["unit"])
    return figure
