"""The verdict as a forest plot: the frozen franken and its controls on every task."""

from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.style import (
    COLORS,
    WIDTH,
    blank,
    heading,
    legend,
    mark,
    styled,
    zero_line,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import INTERVAL, interval, shorten, unit_name

LOOKS: dict[str, dict[str, Any]] = {
    "frozen": {"marker": "o", "color": COLORS[0], "markersize": 5.5},
    "control": {"marker": "D", "color": COLORS[3], "markersize": 5.5, "markerfacecolor": "white"},
}
BAND: dict[str, Any] = {
    "facecolor": "0.9",
    "edgecolor": "0.55",
    "linewidth": 0.5,
    "linestyle": (0, (3, 2)),
}


def _panel(axes: Axes, rows: pd.DataFrame, verdict_column: float) -> None:
    """Draw one unit's tasks, one line a plan, with words at both sides.

    `verdict_column` is the distance of the verdicts from the axes' edge, in points.
    """
    y, labels = 0.0, {}
    words: dict[str, Any] = {
        "xycoords": axes.get_yaxis_transform(),
        "textcoords": "offset points",
        "va": "center",
        "fontsize": 7.5,
    }
    for task, part in rows.groupby("task", sort=False):
        first, top = part.iloc[0], y
        labels[y] = f"{shorten(task, 22)} ({first['role']}), n = {first['n']}"
        for row in part.to_dict("records"):
            y -= 1
            look = LOOKS[row["group"]]
            for ends, width in (("low", "high"), 1.1), (("low90", "high90"), 3):
                places = [row[end] for end in ends]
                axes.plot(places, [y, y], color=look["color"], linewidth=width, zorder=3)
            axes.plot(row["effect"], y, zorder=4, **look)
            labels[y] = f"{row['group']}  {shorten(row['plan'], 26)}"
            weight = "normal" if row["verdict"] == "inconclusive" else "bold"
            axes.annotate(interval(row), (1, y), xytext=(6, 0), **words)
            axes.annotate(
                row["verdict"], (1, y), xytext=(verdict_column, 0), fontweight=weight, **words
            )
        margin = first["margin"]
        axes.fill_between([-margin, margin], y - 0.45, top - 0.45, zorder=0, **BAND)
        y -= 1.25
    axes.set_yticks(list(labels), list(labels.values()))
    for label in axes.get_yticklabels():
        if ", n = " in label.get_text():
            label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(y + 0.6, 0.7)
    axes.margins(x=0.06)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    zero_line(axes, vertical=True)
    axes.set_xlabel(f"change against the base, {unit_name(first['unit'])}")


@styled
def confirm_forest(tables: Tables, levels: Statistics, **where: str) -> Figure:
    """Draw the frozen franken and its controls on every task, with intervals and verdicts.

    Thin bars are the 95 % intervals, thick ones the 90 % intervals (two one-sided tests at 5 %);
    inside the shaded margin the two models count as equivalent. Search tasks stand before guard
    tasks. Tasks with different units are drawn on axes of their own.
    """
    rows = rows_of(tables["verdicts"], **where)
    if rows.empty:
        return blank(f"{', '.join(where.values())}: nothing was confirmed.")
    first = {"role": "search", "group": "frozen"}
    rows = rows.sort_values(["role", "group"], key=lambda c: c != first[c.name], kind="stable")
    units = [part for _, part in rows.groupby("unit", sort=False)]
    # The longest interval, at 4.7 points a letter.
    verdict_column = 10 + 4.7 * max(len(interval(row)) for row in rows.to_dict("records"))
    lines = [len(part) + 1.25 * part["task"].nunique() for part in units]
    figure = Figure(figsize=(WIDTH, 1.1 + 0.2 * sum(lines) + 0.4 * len(units)))
    panels = figure.subplots(len(units), 1, squeeze=False, height_ratios=lines)[:, 0]
    for axes, part in zip(panels, units, strict=True):
        _panel(axes, part, verdict_column)
    title = "The frozen franken and its controls on fresh documents"
    heading(figure, title, where, "confirm stage")
    handles: list[Artist] = [
        mark(label, linestyle="-", linewidth=1.1, **look)
        for label, look in zip(
            ("frozen franken", "control of equal depth"), LOOKS.values(), strict=True
        )
    ]
    handles.append(Patch(**BAND, label="equivalence margin"))
    text = f"thin: {INTERVAL}, thick: 90 %, both paired with the base; "
    text += f"verdicts after Holm's correction, α = {levels.alpha:g}"
    legend(figure, handles, 3, text, rows["unit"])
    return figure
