"""Quality against what weights cost: the base through its bitrates, frankens beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.style import (
    SMALL,
    WIDTH,
    blank,
    heading,
    legend,
    mark,
    plan_looks,
    styled,
    task_panels,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import INTERVAL, metric_value, shorten

BASE: dict[str, Any] = {
    "marker": "*",
    "color": "black",
    "markersize": 8.5,
    "linestyle": "-",
    "linewidth": 1,
}
COLUMNS = {
    "read_bytes": "weights read for a token",
    "materialized_bytes": "weights in memory, standalone",
}
BYTE_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
# Shift of each further control, which costs what the frozen plan does, as a share of the axis.
APART = 0.017
# Two bitrates nearer than this, as a share of the axis, would be written over each other.
NEAREST = 0.085


def _looks(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return marker, colour and label of each plan but the base; controls are hollow."""
    looks = plan_looks(rows[rows["plan"] != "base"])
    for look in looks.values():
        if look["marker"] != "o":
            look |= {"markerfacecolor": "white", "markersize": 4.5}
    return looks


def _panel(
    axes: Axes, rows: pd.DataFrame, column: str, looks: Mapping[str, Mapping[str, Any]]
) -> None:
    """Draw one task against one cost: the base through its bitrates, arrows to its frankens."""
    base = rows[rows["plan"] == "base"].sort_values(column)
    x, y = base[column].to_numpy(float), base["shift"].fillna(0).to_numpy(float)
    axes.plot(x, y, zorder=5, **BASE)
    axes.vlines(x, base["shift_low"], base["shift_high"], color="black", linewidth=1, zorder=3)
    start = dict(zip(base["quantization"], zip(x, y, strict=True), strict=True))
    span = rows[column].max() / rows[column].min()
    for number, (plan, look) in enumerate(looks.items()):
        frozen, color = look["marker"] == "o", look["color"]
        strength, above = (1.0, 6) if frozen else (0.55, 3)
        for row in rows[rows["plan"] == plan].to_dict("records"):
            place, level = start[row["quantization"]]
            end = (row[column] * span ** (APART * number), level + row["effect"])
            arrow = {
                "arrowstyle": "-|>,head_length=0.25,head_width=0.13",
                "color": color,
                "linewidth": 1.1 if frozen else 0.7,
                "alpha": strength,
                "shrinkA": 0,
                "shrinkB": 2,
            }
            axes.annotate("", end, (place, level), arrowprops=arrow, zorder=above - 2)
            ends = (level + row["low"], level + row["high"])
            axes.vlines(end[0], *ends, color=color, linewidth=1.1 * strength, zorder=3)
            axes.plot(*end, linestyle="none", zorder=above, **look)
    for place in x:
        axes.axvline(place, color="0.85", linewidth=0.6, linestyle=(0, (2, 2)), zorder=0)
    axes.margins(y=0.1)


def _cost_axis(axes: Axes, costs: pd.Series) -> str:
    """Make a logarithmic axis over all costs, with round numbers; return their unit."""
    pad = float(costs.max() / costs.min()) ** 0.07
    low, high = float(costs.min()) / pad, float(costs.max()) * pad
    unit, size = next(((u, s) for u, s in BYTE_UNITS if low >= s), BYTE_UNITS[-1])
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:.4g}"))
    return unit


def _name_bitrates(axes: Axes, base: pd.DataFrame, column: str) -> None:
    """Name the base's quantizations over the panel; names that would collide are left out."""
    low, high = np.log(axes.get_xlim())
    last = -np.inf
    ordered = base.sort_values(column)
    for name, cost in zip(ordered["quantization"], ordered[column], strict=True):
        place = (np.log(cost) - low) / (high - low)
        if place - last < NEAREST:
            continue
        last = place
        axes.annotate(
            name.removeprefix("exl2-"),
            (place, 1),
            xycoords="axes fraction",
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            **SMALL,
        )


def _cost_axes(line: Sequence[Axes], top: Sequence[Axes], rows: pd.DataFrame) -> None:
    """Label the costs under the lowest panels, and the bitrates over the highest."""
    base = rows[rows["plan"] == "base"].drop_duplicates("quantization")
    for lowest, highest, (column, words) in zip(line, top, COLUMNS.items(), strict=True):
        unit = _cost_axis(lowest, rows[column])
        lowest.set_xlabel(f"{words}, {unit} (logarithmic)")
        _name_bitrates(highest, base, column)


@styled
def bits(tables: Tables, levels: Statistics, **where: str) -> Figure:
    """Draw the change against the base at the reference quantization, over bytes of weights.

    One row a task, columns for the weights that are read to decode a token and for those of a
    standalone checkpoint in memory (a franken that shares its base's weights takes the base's
    memory). Stars joined by a line are the base at its quantizations, arrows lead from it to its
    frankens at the same one. Bars of the base are intervals against the base at the reference,
    those of a franken against the base at the same quantization.
    """
    rows = rows_of(tables["bits"], **where)
    if rows["quantization"].nunique() < 2:
        return blank(f"{where['model']}: it was confirmed at one quantization only.")
    looks = _looks(rows)
    reference = rows["reference"].iloc[0]
    figure = Figure(figsize=(WIDTH, 1.5 + 1.55 * rows["task"].nunique()))
    panels = task_panels(figure, rows, 2)
    for number, (part, line) in enumerate(panels):
        first = part[(part["plan"] == "base") & (part["quantization"] == reference)].iloc[0]
        for axes, column in zip(line, COLUMNS, strict=True):
            _panel(axes, part, column, looks)
        base = f"{first['metric']} {metric_value(first['value'], first['kind'])}"
        task = f"{shorten(first['task'])} ({first['role']})"
        # Above the first row, the bitrates stand between title and panel.
        pad = 6 if number else 15
        line[0].set_title(f"{task}: base at {reference} {base}, n = {first['n']}", pad=pad)
        line[0].set_ylabel(f"change\n({first['unit']})")
    _cost_axes(panels[-1][1], panels[0][1], rows)
    title = "Bits and duplication: is a repeated layer worth its bytes?"
    heading(figure, title, where, "bits over the panels · confirm stage")
    handles = [mark("base, through its quantizations", **BASE)]
    handles += [mark(linestyle="-", linewidth=1, **look) for look in looks.values()]
    text = f"bars: {INTERVAL}; of a franken, against the base at the arrow's start; "
    text += f"of the base, against itself at {reference};\ncontrols cost what the frozen plan does "
    text += "and are drawn a little to its right"
    legend(figure, handles, 2, text, rows["unit"])
    return figure
