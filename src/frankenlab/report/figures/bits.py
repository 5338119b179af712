"""Quality against what weights cost: the base through its bitrates, frankens beside it."""

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from frankenlab.report.figures.style import (
    COLORS,
    DEFAULT_LEVELS,
    WIDTH,
    Levels,
    blank,
    key,
    native,
    rows_of,
    shorten,
    styled,
    zero_line,
)

BASE = {"marker": "*", "color": "black", "markersize": 8.5, "linestyle": "-", "linewidth": 1}
COLUMNS = {
    "read_bytes": "weights read for a token",
    "materialized_bytes": "weights in memory, standalone",
}
UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
# Round numbers in a decade, sparse to dense: the first that gives three labels is taken.
ROUND = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(np.arange(10, 100, 5) / 10))
# Shift of each further control, which costs what the frozen plan does, as a share of the axis.
APART = 0.017
# Two bitrates nearer than this, as a share of the axis, would be written over each other.
NEAREST = 0.085


def _looks(rows: pd.DataFrame) -> dict[str, dict]:
    """Marker, colour and words of each plan but the base, the frozen one first."""
    markers, colors = cycle("XDsv^Ph"), cycle((COLORS[3], COLORS[1], COLORS[2], COLORS[4]))
    looks = {}
    plans = rows[rows["plan"] != "base"].drop_duplicates("plan")
    for row in plans.sort_values("group", ascending=False, kind="stable").itertuples():
        frozen = row.group == "frozen"
        looks[row.plan] = {
            "marker": "o" if frozen else next(markers),
            "color": COLORS[0] if frozen else next(colors),
            "frozen": frozen,
            "words": f"{row.group} {shorten(row.plan, 34)}",
        }
    return looks


def _bar(axes: Axes, x: float, ends: tuple[float, float], color: str, width: float) -> None:
    axes.plot([x, x], ends, color=color, linewidth=width, zorder=3)


def _panel(axes: Axes, rows: pd.DataFrame, column: str, looks: dict[str, dict]) -> None:
    """One task against one cost: the base joined through its bitrates, arrows to its frankens."""
    base = rows[rows["plan"] == "base"].sort_values(column)
    x, y = base[column].to_numpy(float), base["shift"].fillna(0).to_numpy(float)
    axes.plot(x, y, zorder=5, **BASE)
    for place, row in zip(x, base.itertuples(), strict=True):
        _bar(axes, place, (row.shift_low, row.shift_high), "black", 1)
    start = dict(zip(base["quantization"], zip(x, y, strict=True), strict=True))
    span = rows[column].max() / rows[column].min()
    for number, (plan, look) in enumerate(looks.items()):
        for row in rows[rows["plan"] == plan].itertuples():
            place, level = start[row.quantization]
            end = (getattr(row, column) * span ** (APART * number), level + row.effect)
            strength = 1.0 if look["frozen"] else 0.55
            axes.annotate(
                "",
                end,
                (place, level),
                arrowprops={
                    "arrowstyle": "-|>,head_length=0.25,head_width=0.13",
                    "color": look["color"],
                    "linewidth": 1.1 if look["frozen"] else 0.7,
                    "alpha": strength,
                    "shrinkA": 0,
                    "shrinkB": 2,
                },
                zorder=4 if look["frozen"] else 2,
            )
            _bar(axes, end[0], (level + row.low, level + row.high), look["color"], 1.1 * strength)
            axes.plot(
                *end,
                marker=look["marker"],
                markersize=5.5 if look["frozen"] else 4.5,
                color=look["color"],
                markerfacecolor=look["color"] if look["frozen"] else "white",
                linestyle="none",
                zorder=6 if look["frozen"] else 3,
            )
    axes.grid(axis="y", color="0.92", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.1)
    zero_line(axes)


def _cost_axis(axes: Axes, costs: pd.Series) -> str:
    """A logarithmic axis over all costs, with round numbers; gives their unit."""
    low, high = float(costs.min()), float(costs.max())
    pad = (high / low) ** 0.07
    low, high = low / pad, high * pad
    unit, size = next(((u, s) for u, s in UNITS if low >= s), UNITS[-1])
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for digits in ROUND:
        ticks = np.unique(np.outer(decades, digits))
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if len(ticks) >= 3:
            break
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 7]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:.4g}"))
    return unit


def _name_bitrates(axes: Axes, base: pd.DataFrame, column: str) -> None:
    """Over the panel, where the base is at each quantization; what would collide is left out."""
    low, high = np.log(axes.get_xlim())
    last = -np.inf
    for row in base.sort_values(column).itertuples():
        place = (np.log(getattr(row, column)) - low) / (high - low)
        if place - last < NEAREST:
            continue
        last = place
        axes.annotate(
            row.quantization.removeprefix("exl2-"),
            (place, 1),
            xycoords="axes fraction",
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color="0.3",
            fontsize=7.5,
        )


@styled
def bits(table: pd.DataFrame, model: str, levels: Levels = DEFAULT_LEVELS) -> Figure:
    """Change against the base at the reference quantization, over bytes of weights.

    Takes the table `bits`; one row a task, columns for the weights that are read to decode a
    token and for those of a standalone checkpoint in memory (a franken that shares its base's
    weights takes the base's memory). Stars joined by a line are the base at its quantizations,
    arrows lead from it to its frankens at the same one. Bars of the base are intervals against
    the base at the reference, those of a franken against the base at the same quantization.
    """
    rows = rows_of(table, model=model)
    if rows["quantization"].nunique() < 2:
        return blank(f"{model}: it was confirmed at one quantization only.")
    looks = _looks(rows)
    reference = rows["reference"].iloc[0]
    tasks = list(rows.groupby("task", sort=False))
    figure = Figure(figsize=(WIDTH, 1.5 + 1.55 * len(tasks)))
    grid = figure.subplots(len(tasks), 2, sharex="col", sharey="row", squeeze=False)
    for (task, part), line in zip(tasks, grid, strict=True):
        first = part[(part["plan"] == "base") & (part["quantization"] == reference)].iloc[0]
        for axes, column in zip(line, COLUMNS, strict=True):
            _panel(axes, part, column, looks)
        base = native(first["value"], first["kind"], first["metric"])
        head = f"{shorten(task)} ({first['role']}): base at {reference} {base}, n = {first['n']}"
        # Above the first row, the bitrates stand between title and panel.
        line[0].set_title(head, pad=15 if task == tasks[0][0] else 6)
        line[0].set_ylabel(f"change\n({first['unit']})")
    for axes, (column, words) in zip(grid[-1], COLUMNS.items(), strict=True):
        unit = _cost_axis(axes, rows[column])
        axes.set_xlabel(f"{words}, {unit} (logarithmic)")
    base = rows[rows["plan"] == "base"].drop_duplicates("quantization")
    for axes, column in zip(grid[0], COLUMNS, strict=True):
        _name_bitrates(axes, base, column)
    for line in grid:
        for axes, column in zip(line, COLUMNS, strict=True):
            for place in base[column]:
                axes.axvline(place, color="0.85", linewidth=0.6, linestyle=(0, (2, 2)), zorder=0)
    figure.align_ylabels(grid[:, 0])
    title = "Bits and duplication: is a repeated layer worth its bytes?"
    figure.suptitle(
        f"{title}\n{model} · bits over the panels · confirm stage",
        fontsize=9,
    )
    handles = [Line2D([], [], label="base, through its quantizations", **BASE)]
    handles += [
        Line2D(
            [],
            [],
            marker=look["marker"],
            color=look["color"],
            markerfacecolor=look["color"] if look["frozen"] else "white",
            markersize=5.5 if look["frozen"] else 4.5,
            linewidth=1,
            label=look["words"],
        )
        for look in looks.values()
    ]
    text = f"bars: {levels.interval}; of a franken, against the base at the arrow's start; "
    text += f"of the base, against itself at {reference};\ncontrols cost what the frozen plan does "
    text += "and are drawn a little to its right"
    key(figure, handles, 2, text, rows["unit"])
    return figure
