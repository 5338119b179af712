"""Quality against cost: the depth that every plan pays, and the speed that was measured."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.style import (
    BASE,
    COLORS,
    WIDTH,
    base_text,
    blank,
    corner_note,
    cut_below,
    effect_label,
    heading,
    legend,
    limits,
    mark,
    plan_looks,
    styled,
    survivors,
    task_panels,
    zero_line,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import INTERVAL, metric_value, shorten

# Group of a plan -> marker, colour, words. Controls must stand out without colour.
LOOKS = {
    "layer": ("o", COLORS[0], "single layer"),
    "block": ("s", COLORS[9], "block"),
    "rys": ("D", COLORS[4], "RYS (i, j)"),
    "depth_up_scaling": ("^", COLORS[2], "depth up-scaling"),
    "explicit": ("P", COLORS[5], "named by hand"),
    "random_block": ("X", COLORS[3], "random (control)"),
    "other": ("h", COLORS[7], "other"),
}
MANY = ("layer", "block", "rys")


def mean_over_tasks(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean effect of each plan over its tasks, for plans that have them all.

    Interval limits are combined as the square root of the summed squares of their distances
    (MOVER; Zou & Donner, Statistics in Medicine 27, 2008): tasks have different documents, so
    their errors are independent.
    """
    tasks = rows["task"].nunique()
    below, above = limits(rows)
    table = rows.assign(below=below**2, above=above**2).groupby("plan", sort=False)
    mean = table.agg(
        group=("group", "first"),
        unit=("unit", "first"),
        relative_depth=("relative_depth", "first"),
        effect=("effect", "mean"),
        below=("below", "sum"),
        above=("above", "sum"),
        n=("n", "sum"),
        tasks=("task", "nunique"),
        dropped=("dropped", "first"),
    ).reset_index()
    mean = mean[mean["tasks"] == tasks]
    return mean.assign(
        low=mean["effect"] - np.sqrt(mean["below"]) / tasks,
        high=mean["effect"] + np.sqrt(mean["above"]) / tasks,
    )


def pareto_front(cost: np.ndarray, effect: np.ndarray) -> np.ndarray:
    """Return the points, by rising cost, that no cheaper or equal one matches or beats."""
    order = np.lexsort((-effect, cost))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], effect[order][:-1]]))
    return order[effect[order] > best]


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return title and rows of each panel: each task, then their mean where units agree."""
    panels = [
        (f"{shorten(task)}: {base_text(part)}", part)
        for task, part in rows.groupby("task", sort=False)
    ]
    if len(panels) > 1 and rows["unit"].nunique() == 1:
        mean = mean_over_tasks(rows)
        panels.append((f"mean of the {len(panels)} tasks, n = {mean['n'].max()} in all", mean))
    return panels


def _marks(group: str, small: float) -> dict[str, Any]:
    """Return how a group's plans are marked. Few of a kind would drown in the many blocks."""
    marker, color, _ = LOOKS[group]
    few = group not in MANY
    return {
        "marker": marker,
        "color": color,
        "markersize": 5.5 if few else small,
        "markeredgecolor": "black" if few else "white",
        "markeredgewidth": 0.4,
        "zorder": 5 if few else 3,
    }


def _cloud(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw all plans against depth, the front joined and barred, the base starred."""
    cost, effect = rows["relative_depth"].to_numpy(float), rows["effect"].to_numpy(float)
    is_base = (rows["plan"] == "base").to_numpy()
    faint: dict[str, Any] = {
        "ecolor": "0.5",
        "alpha": max(0.07, min(0.6, 25 / len(rows))),
        "elinewidth": 1.4,
        "zorder": 1,
    }
    plans = rows[~is_base]
    axes.errorbar(cost[~is_base], effect[~is_base], yerr=limits(plans), fmt="none", **faint)
    groups = plans["group"].where(plans["group"].isin(LOOKS), "other")
    for group, part in plans.groupby(groups, sort=False):
        look = _marks(group, 3.2 if len(rows) > 150 else 4.5)
        axes.errorbar(
            part["relative_depth"],
            part["effect"],
            yerr=limits(part),
            linestyle="none",
            elinewidth=0 if group in MANY else 1,
            **look,
        )
    # A dropped plan's effect is on other documents, fewer, and lower for what dropped it.
    whole = np.flatnonzero(survivors(rows))
    front = whole[pareto_front(cost[whole], effect[whole])]
    axes.step(cost[front], effect[front], where="post", color="black", linewidth=1.1, zorder=4)
    barred = front[~is_base[front]]
    axes.errorbar(
        cost[barred],
        effect[barred],
        yerr=limits(rows.iloc[barred]),
        fmt="o",
        markersize=7,
        markerfacecolor="none",
        color="black",
        elinewidth=1,
        capsize=2,
        zorder=6,
    )
    axes.plot(1, 0, markersize=10, **BASE)


@styled
def quality_cost(tables: Tables, levels: Statistics, **where: str) -> Figure:
    """Draw the effect against relative depth (layers run, relative to the base), with the front.

    One panel a search task and, where their units agree, one for their mean. Every plan has a
    faint interval, those on the front a black one, and a note gives the median half-width.
    """
    rows = rows_of(tables["comparisons"], stage="search", role="search", **where)
    if rows[rows["plan"] != "base"].empty:
        return blank(f"{where['model']}: the search stage has no plans beside the base.")
    panels = _panels(rows)
    figure = Figure(figsize=(WIDTH, 1.1 + 2.3 * len(panels)))
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, part) in zip(grid, panels, strict=True):
        _cloud(axes, part)
        cut = cut_below(axes, part["relative_depth"].to_numpy(float), part)
        others = part[part["plan"] != "base"]
        half = ((others["high"] - others["low"]) / 2).median()
        axes.set_title(title)
        corner_note(axes, ", ".join(filter(None, [f"typical interval ±{half:.1f}", cut])))
        axes.set_ylabel(effect_label(part["unit"].iloc[0]))
        axes.grid(axis="y")
        zero_line(axes)
    grid[-1].set_xlabel("layers run, relative to the base")
    heading(figure, "Quality against cost", where, "search stage")
    handles = [mark("base", markersize=10, **BASE)]
    handles += [
        mark(LOOKS[group][2], **_marks(group, 6)) for group in LOOKS if group in set(rows["group"])
    ]
    front = {"marker": "o", "markersize": 7, "markerfacecolor": "none", "color": "black"}
    handles.append(mark("Pareto front", linestyle="-", linewidth=1.1, **front))
    text = f"bars: {INTERVAL}, paired with the base; "
    text += "the best of many looks better than it is"
    legend(figure, handles, 4, text, rows["unit"])
    return figure


@styled
def quality_speed(tables: Tables, levels: Statistics, **where: str) -> Figure:
    """Draw the effect against measured tokens per second, of the plans whose cost was measured.

    One row a task, columns for reading a prompt (prefill) and for writing (decode). Vertical bars
    are the intervals, horizontal ones reach from the slowest to the fastest repeat.
    """
    rows = rows_of(tables["comparisons"], stage="confirm", **where)
    measured = rows_of(tables["costs"], **where).drop_duplicates("plan")
    speeds = [c for c in measured.columns if c.startswith(("prefill_", "decode_"))]
    rows = rows.drop(columns="group").merge(measured[["plan", "group", *speeds]], on="plan")
    if rows[rows["plan"] != "base"].empty:
        return blank(f"{where['model']}: no cost was measured for plans of the confirm stage.")
    looks = plan_looks(measured[measured["plan"].isin(rows["plan"])])
    figure = Figure(figsize=(WIDTH, 1.3 + 1.45 * rows["task"].nunique()))
    panels = task_panels(figure, rows, 2)
    for part, line in panels:
        for axes, way in zip(line, ("prefill", "decode"), strict=True):
            _speed_panel(axes, part, way, looks)
        first = part.iloc[0]
        base = f"{first['metric']} {metric_value(first['base_value'], first['kind'])}"
        title = f"{shorten(first['task'])} ({first['role']}): base {base}, n = {first['n']}"
        line[0].set_title(title)
        line[0].set_ylabel(f"change\n({first['unit']})")
    for axes, words in zip(panels[-1][1], ("prefill: prompt", "decode: written"), strict=True):
        axes.set_xlabel(f"{words} tokens per second (faster →)")
    heading(figure, "Quality against measured speed", where, "confirm stage")
    handles = [mark(**look) for look in looks.values()]
    text = f"vertical bars: {INTERVAL}; horizontal: slowest to fastest repeat"
    legend(figure, handles, 2, text, rows["unit"])
    return figure


def _speed_panel(
    axes: Axes, rows: pd.DataFrame, way: str, looks: Mapping[str, Mapping[str, Any]]
) -> None:
    """Draw one task's plans against one of the two speeds."""
    for plan, row in rows.groupby("plan", sort=False):
        speed = row[f"{way}_tokens_per_second"]
        spread = np.clip([speed - row[f"{way}_low"], row[f"{way}_high"] - speed], 0, None)
        axes.errorbar(
            speed,
            row["effect"],
            xerr=spread,
            yerr=limits(row),
            elinewidth=1,
            capsize=2,
            **looks[plan],
        )
    axes.margins(0.08, 0.14)
    axes.grid(axis="x")
