"""The (start, length) map of what repeating a block once does."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.style import (
    SMALL,
    WIDTH,
    base_text,
    blank,
    heading,
    legend,
    mark,
    styled,
    survivors,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import INTERVAL, signed, unit_name

ABOVE: dict[str, Any] = {"facecolor": "none", "edgecolor": "0.15", "linewidth": 0.55}
DROPPED: dict[str, Any] = {
    "facecolor": "none",
    "edgecolor": "0.35",
    "hatch": "....",
    "linewidth": 0.0,
}
HATCH: dict[str, Any] = {
    "facecolor": "0.96",
    "edgecolor": "0.6",
    "hatch": "/////",
    "linewidth": 0.0,
}


def block_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the plans that run one contiguous block twice, with the block's length."""
    twice = rows[(rows["times"] == 2).fillna(False) & rows["start"].notna()]
    cells = twice.assign(
        start=twice["start"].astype(int),
        length=(twice["stop"] - twice["start"]).astype(int),
        width=twice["high"] - twice["low"],
    )
    return cells.drop_duplicates(["start", "length"])


def grid_of(cells: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return `value` by length (rows) and start (columns), over those that were tried only."""
    return cells.pivot(index="length", columns="start", values=value).sort_index()


def color_limit(cells: pd.DataFrame) -> float:
    """Return the symmetric limit of the colours: nine in ten cells fit, and every gain does."""
    effect = cells["effect"].to_numpy(float)
    return float(max(np.quantile(np.abs(effect), 0.9), effect.max(), 1e-9))


def _squares(axes: Axes, where: np.ndarray, **look: Any) -> PolyCollection:
    """Draw a unit square on each grid position, given as (row, column) pairs `[squares, 2]`."""
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    squares = PolyCollection(where[:, None, ::-1] + corners, **look)
    axes.add_collection(squares)
    return squares


def panel(axes: Axes, grid: pd.DataFrame, cells: pd.DataFrame, **colors: Any) -> PolyCollection:
    """Draw one map; what fits into the model's layers but was not tried is hatched."""
    depth = round((cells["depth"] / cells["relative_depth"]).iloc[0])
    lengths, starts = grid.index.to_numpy(), grid.columns.to_numpy()
    values = grid.to_numpy(float)
    tried = ~np.isnan(values)
    fits = lengths[:, None] + starts[None, :] <= depth
    _squares(axes, np.argwhere(fits & ~tried), **HATCH)
    # As wide as the gaps in SVG renderers' antialiasing, so that none shows between cells.
    drawn = _squares(
        axes, np.argwhere(tried), array=values[tried], edgecolor="face", linewidth=0.1, **colors
    )
    for axis, labels, most in ((axes.xaxis, starts, 11), (axes.yaxis, lengths, 15)):
        ticks = np.arange(0, len(labels), int(np.ceil(len(labels) / most)))
        axis.set_ticks(ticks, [str(label) for label in labels[ticks]])
    axes.set_xlim(-0.5, len(starts) - 0.5)
    axes.set_ylim(-0.5, len(lengths) - 0.5)
    axes.set_xlabel("first layer of the block (start)")
    return drawn


def _mark(axes: Axes, cells: pd.DataFrame, grid: pd.DataFrame) -> None:
    """Mark cells: dots where a race dropped the plan, an outline above the base, triangles where
    significantly better (▲) or worse (▼).

    Dark red and dark blue are one grey in print; the marks keep the sign there.
    """
    raced = cells.assign(raced=(~survivors(cells)).astype(float))
    _squares(axes, np.argwhere(grid_of(raced, "raced").to_numpy(float) > 0), **DROPPED)
    _squares(axes, np.argwhere(grid.to_numpy(float) > 0), **ABOVE)
    size = np.clip(140 / max(grid.shape), 2.4, 6)
    found = cells[cells["significant"].astype(bool)]
    for marker, chosen in (("^", found["effect"] > 0), ("v", found["effect"] < 0)):
        axes.plot(
            grid.columns.get_indexer(found.loc[chosen, "start"]),
            grid.index.get_indexer(found.loc[chosen, "length"]),
            linestyle="none",
            marker=marker,
            markersize=size,
            color="black",
            markeredgecolor="white",
            markeredgewidth=0.35,
        )


@styled
def block_map(tables: Tables, levels: Statistics, **where: str) -> Figure:
    """Draw the effect of running each contiguous block twice, and how wide its interval is.

    One column a first layer, one row a length, of those tried. Left: effect in its unit, colours
    centred at the base, marks as in `_mark`. Right: width of the interval in the same unit.
    """
    task = where["task"]
    cells = block_cells(rows_of(tables["comparisons"], stage="search", **where))
    if cells.empty:
        text = "no plan of the search stage repeats one block once."
        return blank(f"{where['model']}, {task}: {text}")
    unit = unit_name(cells["unit"].iloc[0])
    effects, widths = grid_of(cells, "effect"), grid_of(cells, "width")
    limit = color_limit(cells)

    raced = not survivors(cells).all()
    # The legend of a race has a second line.
    height = float(np.clip(2.1 + 0.1 * len(effects), 3.2, 4.4)) + 0.25 * raced
    figure = Figure(figsize=(WIDTH, height))
    left, right = figure.subplots(1, 2, sharey=True)
    effect_squares = panel(left, effects, cells, cmap="RdBu", clim=(-limit, limit))
    width_squares = panel(right, widths, cells, cmap="cividis_r")
    _mark(left, cells, effects)
    left.set_ylabel("layers in the block (length)")
    left.set_title("change against the base")
    right.set_title(f"width of the {INTERVAL}")
    worst = cells["effect"].min()
    for axes, squares, label, extend in (
        (left, effect_squares, f"change, {unit}; above 0 is better", worst < -limit),
        (right, width_squares, f"width, {unit}; narrower is surer", False),
    ):
        bar = figure.colorbar(
            squares,
            ax=axes,
            location="bottom",
            extend="min" if extend else "neither",
            aspect=30,
            label=label,
        )
        bar.outline.set_linewidth(0.5)
    if worst < -limit:
        place: dict[str, Any] = {"transform": left.transAxes, "ha": "right", "va": "top"}
        left.text(0.98, 0.98, f"worst {signed(worst)}", **place, **SMALL)
    title = f"{task}: {len(cells)} blocks, each run twice · {base_text(cells)} documents"
    heading(figure, title, where, "search stage")
    handles: list[Artist] = [
        mark(f"better, q < {levels.fdr:g}", marker="^", color="black"),
        mark(f"worse, q < {levels.fdr:g}", marker="v", color="black"),
        Patch(**ABOVE, label="better, not significant"),
        Patch(**HATCH, label="not tried"),
    ]
    if raced:
        handles.append(Patch(**DROPPED, label="dropped in the race"))
    legend(figure, handles, 4, "", cells["unit"])
    return figure
