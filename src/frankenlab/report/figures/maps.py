"""The (start, length) map of what repeating a block once does."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from frankenlab.report.figures.style import (
    DEFAULT_LEVELS,
    UNITS,
    WIDTH,
    Levels,
    base_text,
    blank,
    heading,
    key,
    rows_of,
    signed,
    styled,
    survivors,
)

ABOVE = {"facecolor": "none", "edgecolor": "0.15", "linewidth": 0.55}
DROPPED = {"facecolor": "none", "edgecolor": "0.35", "hatch": "....", "linewidth": 0.0}
HATCH = {"facecolor": "0.96", "edgecolor": "0.6", "hatch": "/////", "linewidth": 0.0}


def block_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Plans that run one contiguous block twice, with the block's length."""
    twice = rows[(rows["times"] == 2).fillna(False) & rows["start"].notna()]
    cells = twice.assign(
        start=twice["start"].astype(int),
        length=(twice["stop"] - twice["start"]).astype(int),
        width=twice["high"] - twice["low"],
    )
    return cells.drop_duplicates(["start", "length"])


def grid_of(cells: pd.DataFrame, value: str) -> pd.DataFrame:
    """`value` by length (rows) and start (columns), over those that were tried only."""
    return cells.pivot(index="length", columns="start", values=value).sort_index()


def color_limit(cells: pd.DataFrame) -> float:
    """The symmetric limit of the colours: nine in ten cells fit, and every gain does."""
    effect = cells["effect"].to_numpy(float)
    return float(max(np.quantile(np.abs(effect), 0.9), effect.max(), 1e-9))


def _squares(axes: Axes, where: np.ndarray, **look: Any) -> PolyCollection:
    """Draws a unit square on each grid position, given as (row, column) pairs `[squares, 2]`."""
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    squares = PolyCollection(where[:, None, ::-1] + corners, **look)
    axes.add_collection(squares)
    return squares


def panel(axes: Axes, grid: pd.DataFrame, depth: int, **colors: Any) -> PolyCollection:
    """Draws one map; what is possible in `depth` layers but was not tried is hatched."""
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
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def _mark(axes: Axes, cells: pd.DataFrame, grid: pd.DataFrame) -> None:
    """Dots what a race dropped, outlines cells above the base; puts ▲ on significantly better
    ones, ▼ on worse ones.

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
def block_map(
    comparisons: pd.DataFrame,
    model: str,
    quantization: str,
    task: str,
    stage: str = "search",
    levels: Levels = DEFAULT_LEVELS,
) -> Figure:
    """The effect of running each contiguous block twice, and how wide its interval is.

    Takes the table `comparisons`; one column a first layer, one row a length, of those tried.
    Left: effect in its unit, colours centred at the base, triangles where q < `levels.fdr`, an
    outline around what is above the base without that, dots where a race dropped the plan.
    Right: width of the interval in the same unit. Blocks that fit but were not tried are hatched.
    """
    rows = rows_of(comparisons, stage=stage, model=model, quantization=quantization, task=task)
    cells = block_cells(rows)
    if cells.empty:
        return blank(f"{model}, {task}: no plan of the {stage} stage repeats one block once.")
    first = cells.iloc[0]
    depth = round(first["depth"] / first["relative_depth"])
    unit = UNITS.get(first["unit"], first["unit"])
    effects, widths = grid_of(cells, "effect"), grid_of(cells, "width")
    limit = color_limit(cells)

    raced = not survivors(cells).all()
    # The legend of a race has a second line.
    height = float(np.clip(2.1 + 0.1 * len(effects), 3.2, 4.4)) + 0.25 * raced
    figure = Figure(figsize=(WIDTH, height))
    left, right = figure.subplots(1, 2, sharey=True)
    effect_mesh = panel(left, effects, depth, cmap="RdBu", clim=(-limit, limit))
    width_mesh = panel(right, widths, depth, cmap="cividis_r")
    _mark(left, cells, effects)
    left.set_ylabel("layers in the block (length)")
    left.set_title("change against the base")
    right.set_title(f"width of the {levels.interval}")
    beyond = cells["effect"].min() < -limit
    for axes, mesh, label, extend in (
        (left, effect_mesh, f"change, {unit}; above 0 is better", "min" if beyond else "neither"),
        (right, width_mesh, f"width, {unit}; narrower is surer", "neither"),
    ):
        bar = figure.colorbar(mesh, ax=axes, location="bottom", extend=extend, aspect=30)
        bar.set_label(label)
        bar.outline.set_linewidth(0.5)
    if beyond:
        left.text(
            0.98,
            0.98,
            f"worst {signed(cells['effect'].min())}",
            transform=left.transAxes,
            ha="right",
            va="top",
            color="0.3",
            fontsize=7.5,
        )
    heading(
        figure,
        f"{task}: {len(cells)} blocks, each run twice · {base_text(cells)} documents",
        model,
        quantization,
        f"{stage} stage",
    )
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color="black", markersize=4.5, label=label)
        for marker, label in (
            ("^", f"better, q < {levels.fdr:g}"),
            ("v", f"worse, q < {levels.fdr:g}"),
        )
    ]
    handles.append(Patch(**ABOVE, label="better, may be chance"))
    handles.append(Patch(**HATCH, label="not tried"))
    if raced:
        handles.append(Patch(**DROPPED, label="dropped in the race"))
    key(figure, handles, 4, "", [first["unit"]])
    return figure
