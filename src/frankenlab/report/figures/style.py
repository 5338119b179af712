"""What all figures share: palette, levels, texts with units, and saving."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from frankenlab.io.files import atomic_path

# Inches: a text page of A4 with its margins, so that print does not shrink the letters.
WIDTH = 7.2

# `svg.fonttype: path` keeps the layout where the font is missing; the fixed salt makes the
# identifiers in an SVG depend on nothing but the drawing.
RC = sns.axes_style("ticks") | {
    "axes.edgecolor": "0.3",
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "hatch.linewidth": 0.4,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "frankenlab",
    "xtick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.labelsize": 8,
    "ytick.major.width": 0.7,
}
COLORS = sns.color_palette("colorblind").as_hex()
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
UNITS = {"points": "percentage points", "log-percent": "log-percent"}
# What a unit means, where its name does not say it.
MEANINGS = {
    "log-percent": "log-percent: 100·Δ ln perplexity, sign turned so that above 0 is better"
}


@dataclass(frozen=True)
class Levels:
    """The levels that the analysis used: of the intervals, of the false discovery rate, of Holm."""

    confidence: float = 0.95
    fdr: float = 0.05
    alpha: float = 0.05

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Levels":
        """Reads the `statistics` section of an experiment's config; what is absent is default."""
        statistics = config.get("statistics") or {}
        known = {key: statistics[key] for key in cls.__dataclass_fields__ if key in statistics}
        return cls(**known)

    @property
    def interval(self) -> str:
        """The interval in words, "95 % interval"."""
        return f"{100 * self.confidence:g} % interval"


DEFAULT_LEVELS = Levels()


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Runs a drawing function under this module's settings, leaving the caller's untouched."""

    @wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context(RC):
            figure = draw(*args, **kwargs)
            # Lays out now: the settings that the layout reads are gone once this returns.
            FigureCanvasAgg(figure).draw()
            return figure

    return wrapper


def save(figure: Figure, stem: Any) -> None:
    """Writes `<stem>.svg` and `<stem>.png` (300 dpi), each whole or not at all.

    The same figure gives the same bytes: no date, fixed identifiers. `stem` may hold dots.
    """
    with mpl.rc_context(RC):
        for suffix, options in (
            ("svg", {"metadata": {"Date": None}}),
            ("png", {"dpi": 300}),
        ):
            with atomic_path(f"{stem}.{suffix}") as path:
                figure.savefig(path, format=suffix, **options)


def rows_of(table: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """The rows whose columns have the wanted values, e.g. `rows_of(t, stage="search")`."""
    mask = np.ones(len(table), dtype=bool)
    for column, value in wanted.items():
        mask &= (table[column] == value).to_numpy(dtype=bool)
    return table[mask]


def blank(message: str) -> Figure:
    """A small figure that only says why there is nothing to draw."""
    figure = Figure(figsize=(WIDTH, 1.0))
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, message, ha="center", va="center", color="0.3", wrap=True)
    return figure


def limits(rows: pd.DataFrame) -> np.ndarray:
    """Distances of the interval's ends from the effect, `[2, rows]`, as matplotlib's `yerr`."""
    effect = rows["effect"].to_numpy(float)
    below = effect - rows["low"].to_numpy(float)
    above = rows["high"].to_numpy(float) - effect
    # A bootstrap percentile interval need not contain the estimate; error bars must be positive.
    return np.clip(np.vstack([below, above]), 0, None)


def zero_line(axes: Axes, vertical: bool = False) -> None:
    """The line of no change: the base."""
    line = axes.axvline if vertical else axes.axhline
    line(0, color="0.25", linewidth=0.8, zorder=1)


def floor_of(rows: pd.DataFrame) -> float | None:
    """Where to cut the effect axis below, or None when nothing need be cut.

    A few plans ruin the model (repeating the first layer, say), and an axis that reaches them
    flattens all others. Keeps at least nine in ten plans and three interval half-widths.
    """
    effect, low = rows["effect"].to_numpy(float), rows["low"].to_numpy(float)
    half = (rows["high"].to_numpy(float) - low) / 2
    ordinary = min(np.quantile(effect, 0.1), -3 * np.quantile(half, 0.75), -effect.max())
    floor = low[effect >= 2 * ordinary].min()
    return float(floor) if effect.min() < floor else None


def cut_below(axes: Axes, x: np.ndarray, rows: pd.DataFrame) -> int:
    """Cuts the effect axis at `floor_of`, marks at its edge what lies below; gives how many do.

    `x` is where each row is drawn.
    """
    floor = floor_of(rows)
    if floor is None:
        return 0
    top = rows["high"].max()
    axes.set_ylim(floor, top + 0.05 * (top - floor))
    below = rows["effect"].to_numpy(float) < floor
    axes.plot(
        x[below],
        np.full(below.sum(), floor),
        linestyle="none",
        marker=11,
        markersize=4.5,
        color="0.25",
        clip_on=False,
        zorder=6,
    )
    return int(below.sum())


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, and a true minus: "+1.2", "−0.8", "0.0"."""
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        return f"{0:.{digits}f}"
    return text.replace("-", "−")


def native(value: float, kind: str, metric: str) -> str:
    """A metric's own value: "acc 0.523", "word_perplexity 21.90"."""
    return f"{metric} {value:.2f}" if kind == "perplexity" else f"{metric} {value:.3f}"


def base_text(rows: pd.DataFrame) -> str:
    """What the base reaches on a task's rows and on how many documents plans were compared with it:
    "base acc 0.520, n = 100", or "n = 25 to 100" after a race."""
    whole = rows.loc[rows["n"].idxmax()]
    least = rows["n"].min()
    span = f"{least} to {whole['n']}" if least < whole["n"] else f"{least}"
    return f"base {native(whole['base_value'], whole['kind'], whole['metric'])}, n = {span}"


def survivors(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of plans that saw every document: no race dropped them."""
    return rows["dropped"].isna()


def shorten(text: str, length: int = 30) -> str:
    """`text`, or its beginning and an ellipsis when it is longer than `length`."""
    return text if len(text) <= length else text[: length - 1] + "…"


def heading(figure: Figure, title: str, model: str, quantization: str, note: str) -> None:
    """Two lines over a figure: what it shows, and of which model, quantization and documents."""
    figure.suptitle(f"{title}\n{model} · quantization {quantization} · {note}", fontsize=9)


def effect_label(unit: str) -> str:
    """The label of an effect axis."""
    return f"change against the base\n({UNITS.get(unit, unit)})"


def key(
    figure: Figure, handles: Sequence[Artist], columns: int, text: str, units: Iterable[str]
) -> None:
    """The legend under a figure, headed by `text` and the meaning of units that need one."""
    meanings = [MEANINGS[unit] for unit in sorted(set(units) & set(MEANINGS))]
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        title="\n".join(filter(None, [text, *meanings])),
        title_fontsize=8,
    )
    legend.get_title().set_multialignment("center")


def corner_note(axes: Axes, text: str) -> None:
    """Small grey words above the right end of the axes, on the title's line."""
    axes.annotate(
        text,
        (1, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color="0.3",
        fontsize=7.5,
    )
