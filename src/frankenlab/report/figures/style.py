"""What the figures share: settings, panels, marks, legends and saving."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from frankenlab.io.files import atomic_path
from frankenlab.report.text import UNIT_MEANINGS, metric_value, shorten, unit_name

# Inches: a text page of A4 with its margins, so that print does not shrink the letters.
WIDTH = 7.2

# `svg.fonttype: path` keeps the layout where the font is missing; the fixed salt makes the
# identifiers in an SVG depend on nothing but the drawing.
RC = sns.axes_style("ticks") | {
    "axes.edgecolor": "0.3",
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.titlesize": 9,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.4,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.title_fontsize": 8,
    "svg.fonttype": "path",
    "svg.hashsalt": "frankenlab",
    "xtick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.labelsize": 8,
    "ytick.major.width": 0.7,
}
COLORS = sns.color_palette("colorblind").as_hex()
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
BASE: dict[str, Any] = {"marker": "*", "color": "black", "linestyle": "none", "zorder": 7}
SMALL: dict[str, Any] = {"color": "0.3", "fontsize": 7.5}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function under this module's settings and leave the caller's untouched."""

    @wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context(RC):
            figure = draw(*args, **kwargs)
            # Lays out now: the settings that the layout reads are gone once this returns.
            FigureCanvasAgg(figure).draw()
            return figure

    return wrapper


def save(figure: Figure, stem: Any) -> None:
    """Write `<stem>.svg` and `<stem>.png` (300 dpi), each whole or not at all.

    The same figure gives the same bytes: no date, fixed identifiers. `stem` may hold dots.
    """
    with mpl.rc_context(RC):
        for suffix, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 300})):
            with atomic_path(f"{stem}.{suffix}") as path:
                figure.savefig(path, format=suffix, **options)


def blank(message: str) -> Figure:
    """Return a small figure that only says why there is nothing to draw."""
    figure = Figure(figsize=(WIDTH, 1.0))
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, message, ha="center", va="center", color="0.3", wrap=True)
    return figure


def limits(rows: pd.DataFrame) -> np.ndarray:
    """Return the distances of the interval's ends from the effect, `[2, rows]`: a `yerr`."""
    effect = rows["effect"].to_numpy(float)
    below = effect - rows["low"].to_numpy(float)
    above = rows["high"].to_numpy(float) - effect
    # A bootstrap percentile interval need not contain the estimate; error bars must be positive.
    return np.clip(np.vstack([below, above]), 0, None)


def zero_line(axes: Axes, vertical: bool = False) -> None:
    """Draw the line of no change: the base."""
    line = axes.axvline if vertical else axes.axhline
    line(0, color="0.25", linewidth=0.8, zorder=1)


def task_panels(
    figure: Figure, rows: pd.DataFrame, columns: int = 1
) -> list[tuple[pd.DataFrame, list[Axes]]]:
    """Make a row of panels for each task, with the line of the base and a grid."""
    tasks = [part for _, part in rows.groupby("task", sort=False)]
    grid = figure.subplots(len(tasks), columns, sharex="col", sharey="row", squeeze=False)
    for axes in grid.flat:
        axes.grid(axis="y")
        zero_line(axes)
    figure.align_ylabels(grid[:, 0])
    return list(zip(tasks, grid.tolist(), strict=True))


def floor_of(rows: pd.DataFrame) -> float | None:
    """Return where to cut the effect axis below, or None when nothing need be cut.

    A few plans ruin the model (repeating the first layer, say), and an axis that reaches them
    flattens all others. Keeps at least nine in ten plans and three interval half-widths.
    """
    effect, low = rows["effect"].to_numpy(float), rows["low"].to_numpy(float)
    half = (rows["high"].to_numpy(float) - low) / 2
    ordinary = min(np.quantile(effect, 0.1), -3 * np.quantile(half, 0.75), -effect.max())
    floor = low[effect >= 2 * ordinary].min()
    return float(floor) if effect.min() < floor else None


def cut_below(axes: Axes, x: np.ndarray, rows: pd.DataFrame) -> str:
    """Cut the effect axis at `floor_of` and mark what lies below; return a note that says so.

    `x` is where each row is drawn.
    """
    floor = floor_of(rows)
    if floor is None:
        return ""
    top = rows["high"].max()
    axes.set_ylim(floor, top + 0.05 * (top - floor))
    effect = rows["effect"].to_numpy(float)
    below = x[effect < floor]
    look: dict[str, Any] = {"linestyle": "none", "marker": 11, "markersize": 4.5, "color": "0.25"}
    axes.plot(below, np.full(len(below), floor), clip_on=False, zorder=6, **look)
    return f"▼ {len(below)} below the axis"


def base_text(rows: pd.DataFrame) -> str:
    """Return what the base reaches on a task's rows, and the documents of the comparisons.

    "base acc 0.520, n = 100", or "n = 25 to 100" after a race.
    """
    whole = rows.loc[rows["n"].idxmax()]
    least = rows["n"].min()
    span = f"{least} to {whole['n']}" if least < whole["n"] else f"{least}"
    return f"base {whole['metric']} {metric_value(whole['base_value'], whole['kind'])}, n = {span}"


def survivors(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are of plans that saw every document, as no race dropped them."""
    return rows["dropped"].isna()


def mark(label: str, **look: Any) -> Line2D:
    """Return a marker of a legend."""
    defaults: dict[str, Any] = {"linestyle": "none", "markersize": 4.5}
    return Line2D([], [], label=label, **(defaults | look))


def plan_looks(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return marker, colour and label of each plan: of the base, the frozen one, the controls.

    Takes rows with `plan` and `group`; every group but "control" is that of a frozen plan.
    """
    markers, colors = cycle("XDsv^Ph"), cycle((COLORS[3], COLORS[1], COLORS[2], COLORS[4]))
    base: dict[str, Any] = {"marker": "*", "color": "black", "markersize": 9, "label": "base"}
    looks = {"base": base} if (rows["plan"] == "base").any() else {}
    plans = rows[rows["plan"] != "base"].drop_duplicates("plan")
    for control in (False, True):
        for plan in plans.loc[(plans["group"] == "control") == control, "plan"]:
            looks[plan] = {
                "marker": next(markers) if control else "o",
                "color": next(colors) if control else COLORS[0],
                "markersize": 5.5,
                "label": f"{'control' if control else 'frozen'} {shorten(plan, 34)}",
            }
    return looks


def heading(figure: Figure, title: str, where: Mapping[str, str], note: str) -> None:
    """Write two lines over a figure: what it shows, and of which model and quantization."""
    quantization = where.get("quantization")
    of = [where["model"], f"quantization {quantization}" if quantization else "", note]
    figure.suptitle(f"{title}\n{' · '.join(filter(None, of))}")


def effect_label(unit: str) -> str:
    """Return the label of an effect axis."""
    return f"change against the base\n({unit_name(unit)})"


def legend(
    figure: Figure, handles: Sequence[Artist], columns: int, text: str, units: Iterable[str]
) -> None:
    """Draw the legend under a figure, headed by `text` and what uncommon units mean."""
    meanings = [UNIT_MEANINGS[unit] for unit in sorted(set(units) & set(UNIT_MEANINGS))]
    title = "\n".join(filter(None, [text, *meanings]))
    drawn = figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=title)
    drawn.get_title().set_multialignment("center")


def corner_note(axes: Axes, text: str) -> None:
    """Write small grey words above the right end of the axes, on the title's line."""
    axes.annotate(
        text,
        (1, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        va="bottom",
        **SMALL,
    )
