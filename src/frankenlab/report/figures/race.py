"""A race: how many plans were left after how many documents, and which blocks they were."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from frankenlab.report.figures.maps import block_cells, grid_of, panel
from frankenlab.report.figures.style import COLORS, WIDTH, blank, heading, rows_of, styled


def _curve(axes: Axes, rounds: pd.DataFrame) -> None:
    """Plans that ran in each round, over the documents that the round added."""
    edges = np.concatenate([[0], rounds["documents"].to_numpy(float)])
    axes.stairs(rounds["plans"], edges, fill=True, color=COLORS[0], alpha=0.25)
    axes.stairs(rounds["plans"], edges, color=COLORS[0], linewidth=1.2)
    for row, begin in zip(rounds.itertuples(), edges, strict=False):
        axes.annotate(
            f"{row.plans:,}",
            ((begin + row.documents) / 2, row.plans),
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
    axes.spines[["top", "right"]].set_visible(False)


@styled
def race(
    rounds: pd.DataFrame,
    comparisons: pd.DataFrame,
    model: str,
    quantization: str,
) -> Figure:
    """Left: plans left against documents. Right: the last round of each block that runs twice.

    Takes the tables `race` and `comparisons`; blocks that fit but were not tried are hatched.
    """
    rounds = rows_of(rounds, model=model, quantization=quantization)
    rows = rows_of(comparisons, stage="search", model=model, quantization=quantization)
    if rounds.empty:
        return blank(f"{model}: its search was no race.")
    last = int(rounds["round"].max())
    cells = block_cells(rows.drop_duplicates("plan"))
    figure = Figure(figsize=(WIDTH, 3.4))
    share = 100 * rounds["share"].iloc[-1]
    if cells.empty:
        _curve(figure.subplots(), rounds)
    else:
        left, right = figure.subplots(1, 2)
        _curve(left, rounds)
        cells = cells.assign(last=cells["dropped"].fillna(last).astype(float))
        first = cells.iloc[0]
        depth = round(first["depth"] / first["relative_depth"])
        drawn = panel(right, grid_of(cells, "last"), depth, cmap="viridis", clim=(1, last))
        right.set_ylabel("layers in the block (length)")
        right.set_title("last round of each block, run twice")
        bar = figure.colorbar(drawn, ax=right, ticks=MaxNLocator(integer=True))
        bar.set_label(f"last round ({last}: never dropped)")
        bar.outline.set_linewidth(0.5)
    title = f"The race: {share:.0f} % of the layer passes that all documents would have taken"
    heading(figure, title, model, quantization, "search stage")
    return figure
