"""A race: how many plans were left after how many documents, and which blocks they were."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.maps import block_cells, grid_of, panel
from frankenlab.report.figures.style import COLORS, WIDTH, blank, heading, styled
from frankenlab.report.results import Tables, rows_of


def _curve(axes: Axes, rounds: pd.DataFrame) -> None:
    """Draw the plans that ran in each round, over the documents that the round added."""
    edges = np.concatenate([[0], rounds["documents"].to_numpy(float)])
    axes.stairs(rounds["plans"], edges, fill=True, color=COLORS[0], alpha=0.25)
    axes.stairs(rounds["plans"], edges, color=COLORS[0], linewidth=1.2)
    for plans, begin, end in zip(rounds["plans"], edges[:-1], edges[1:], strict=True):
        axes.annotate(
            f"{plans:,}",
            ((begin + end) / 2, plans),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7.5,
        )
    axes.set_yscale("log")
    axes.set_ylim(0.8, 1.6 * rounds["plans"].max())
    axes.set_xlim(0, edges[-1])
    axes.set_xlabel("documents that a plan has seen, all tasks")
    axes.set_ylabel("plans in the race")
    axes.set_title("plans left")


@styled
def race(tables: Tables, levels: Statistics, **where: str) -> Figure:
    """Draw the plans left against documents, and the last round of each block that runs twice.

    Blocks that fit but were not tried are hatched.
    """
    rounds = rows_of(tables["race"], **where)
    rows = rows_of(tables["comparisons"], stage="search", **where)
    if rounds.empty:
        return blank(f"{where['model']}: its search was no race.")
    last = int(rounds["round"].max())
    cells = block_cells(rows.drop_duplicates("plan"))
    figure = Figure(figsize=(WIDTH, 3.4))
    if cells.empty:
        _curve(figure.subplots(), rounds)
    else:
        left, right = figure.subplots(1, 2)
        _curve(left, rounds)
        cells = cells.assign(last=cells["dropped"].fillna(last).astype(float))
        drawn = panel(right, grid_of(cells, "last"), cells, cmap="viridis", clim=(1, last))
        right.set_ylabel("layers in the block (length)")
        right.set_title("last round of each block, run twice")
        bar = figure.colorbar(drawn, ax=right, ticks=MaxNLocator(integer=True))
        bar.set_label(f"last round ({last}: never dropped)")
        bar.outline.set_linewidth(0.5)
    share = 100 * rounds["share"].iloc[-1]
    title = f"The race: {share:.0f} % of the layer passes that all documents would have taken"
    heading(figure, title, where, "search stage")
    return figure
