"""The verdict as a forest plot: the frozen franken and its controls on every task."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from frankenlab.report.figures.style import (
    COLORS,
    DEFAULT_LEVELS,
    UNITS,
    WIDTH,
    Levels,
    blank,
    heading,
    key,
    rows_of,
    shorten,
    signed,
    styled,
    zero_line,
)

# Group -> marker, colour, filling.
LOOKS = {"frozen": ("o", COLORS[0], COLORS[0]), "control": ("D", COLORS[3], "white")}
BAND = {"facecolor": "0.9", "edgecolor": "0.55", "linewidth": 0.5, "linestyle": (0, (3, 2))}


def _ordered(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Tasks, search before guard, each with the frozen plan before its controls."""
    rows = rows.assign(
        role_rank=(rows["role"] != "search").astype(int),
        group_rank=(rows["group"] != "frozen").astype(int),
    ).sort_values(["role_rank", "group_rank"], kind="stable")
    return list(rows.groupby("task", sort=False))


def interval_text(row: pd.Series) -> str:
    """An effect and its interval: "+1.2 [−0.8, +3.1]"."""
    return f"{signed(row['effect'])} [{signed(row['low'])}, {signed(row['high'])}]"


def _panel(axes: Axes, rows: pd.DataFrame, verdict_column: float) -> None:
    """One unit's tasks, one line a plan, words at both sides.

    `verdict_column` is the distance of the verdicts from the axes' edge, in points.
    """
    y, ticks, labels = 0.0, [], []
    words = {
        "xycoords": axes.get_yaxis_transform(),
        "textcoords": "offset points",
        "va": "center",
        "fontsize": 7.5,
    }
    for task, part in _ordered(rows):
        first = part.iloc[0]
        ticks.append(y)
        labels.append(f"{shorten(task, 22)} ({first['role']}), n = {first['n']}")
        for _, row in part.iterrows():
            y -= 1
            marker, color, face = LOOKS[row["group"]]
            axes.plot([row["low"], row["high"]], [y, y], color=color, linewidth=1.1, zorder=3)
            axes.plot([row["low90"], row["high90"]], [y, y], color=color, linewidth=3, zorder=3)
            axes.plot(
                row["effect"],
                y,
                marker=marker,
                markersize=5.5,
                color=color,
                markerfacecolor=face,
                zorder=4,
            )
            ticks.append(y)
            labels.append(f"{row['group']}  {shorten(row['plan'], 26)}")
            weight = "normal" if row["verdict"] == "inconclusive" else "bold"
            axes.annotate(interval_text(row), (1, y), xytext=(6, 0), **words)
            axes.annotate(
                row["verdict"], (1, y), xytext=(verdict_column, 0), fontweight=weight, **words
            )
        top, bottom = ticks[-len(part) - 1] + 0.45, y - 0.45
        margin = first["margin"]
        axes.fill_between([-margin, margin], bottom, top - 0.9, zorder=0, **BAND)
        y -= 1.25
    axes.set_yticks(ticks, labels)
    for label in axes.get_yticklabels():
        if ", n = " in label.get_text():
            label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(y + 0.6, 0.7)
    axes.margins(x=0.06)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="0.92", linewidth=0.6)
    zero_line(axes, vertical=True)
    axes.set_xlabel(f"change against the base, {UNITS.get(first['unit'], first['unit'])}")


@styled
def confirm_forest(
    verdicts: pd.DataFrame, model: str, quantization: str, levels: Levels = DEFAULT_LEVELS
) -> Figure:
    """The frozen franken and its controls on every task, with intervals and verdicts.

    Takes the table `verdicts`. Thin bars are the `levels.confidence` intervals, thick ones the
    90 % intervals (two one-sided tests at 5 %); inside the shaded margin the two models count as
    equivalent. Tasks with different units are drawn on axes of their own.
    """
    rows = rows_of(verdicts, model=model, quantization=quantization)
    if rows.empty:
        return blank(f"{model}, {quantization}: nothing was confirmed.")
    units = list(rows.groupby("unit", sort=False))
    # The longest interval, at 4.7 points a letter.
    verdict_column = 10 + 4.7 * max(len(interval_text(row)) for _, row in rows.iterrows())
    lines = [len(part) + 1.25 * part["task"].nunique() for _, part in units]
    figure = Figure(figsize=(WIDTH, 1.1 + 0.2 * sum(lines) + 0.4 * len(units)))
    panels = figure.subplots(len(units), 1, squeeze=False, height_ratios=lines)[:, 0]
    for axes, (_, part) in zip(panels, units, strict=True):
        _panel(axes, part, verdict_column)
    title = "The frozen franken and its controls on fresh documents"
    heading(figure, title, model, quantization, "confirm stage")
    handles = [
        Line2D(
            [],
            [],
            marker=marker,
            color=color,
            markerfacecolor=face,
            linewidth=1.1,
            markersize=5.5,
            label=words,
        )
        for (marker, color, face), words in zip(
            LOOKS.values(), ("frozen franken", "control of equal depth"), strict=True
        )
    ]
    handles.append(Patch(**BAND, label="equivalence margin"))
    text = f"thin: {levels.interval}, thick: 90 %, both paired with the base; "
    text += f"verdicts after Holm's correction, α = {levels.alpha:g}"
    key(figure, handles, 3, text, rows["unit"])
    return figure
