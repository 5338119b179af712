"""Quality against cost: the depth that every plan pays, and the speed that was measured."""

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from frankenlab.report.figures.style import (
    COLORS,
    DEFAULT_LEVELS,
    WIDTH,
    Levels,
    base_text,
    blank,
    corner_note,
    cut_below,
    effect_label,
    heading,
    key,
    limits,
    native,
    rows_of,
    shorten,
    styled,
    survivors,
    zero_line,
)

# Groups of the plans -> (marker, colour, words). Controls must stand out without colour.
LOOKS = {
    "layer": ("o", COLORS[0], "single layer"),
    "block": ("s", COLORS[9], "block"),
    "rys": ("D", COLORS[4], "RYS (i, j)"),
    "depth_up_scaling": ("^", COLORS[2], "depth up-scaling"),
    "explicit": ("P", COLORS[5], "named by hand"),
    "random_block": ("X", COLORS[3], "random (control)"),
    "control": ("X", COLORS[3], "control of equal depth"),
    "frozen": ("o", COLORS[0], "frozen franken"),
    "other": ("h", COLORS[7], "other"),
}
CONTROLS = ("random_block", "control")
MANY = ("layer", "block", "rys")
BASE = {"marker": "*", "color": "black", "markersize": 10, "linestyle": "none", "zorder": 7}


def mean_over_tasks(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean effect of each plan over its tasks, for plans that have them all.

    Interval limits are combined as the square root of the summed squares of their distances
    (MOVER; Zou & Donner, Statistics in Medicine 27, 2008): tasks have different documents, so
    their errors are independent.
    """
    tasks = rows["task"].nunique()
    below, above = limits(rows)
    table = rows.assign(below=below**2, above=above**2).groupby("plan", sort=False)
    mean = table.agg(
        group=("group", "first"),
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
    """Positions, by rising cost, of the points that no cheaper or equal one matches or beats."""
    order = np.lexsort((-effect, cost))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], effect[order][:-1]]))
    return order[effect[order] > best]


def _panels(rows: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """(title, unit, rows) of each panel: each task, then their mean where units agree."""
    panels = []
    for task, part in rows.groupby("task", sort=False):
        panels.append((f"{shorten(task)}: {base_text(part)}", part["unit"].iloc[0], part))
    if len(panels) > 1 and rows["unit"].nunique() == 1:
        mean = mean_over_tasks(rows)
        title = f"mean of the {len(panels)} tasks, n = {mean['n'].max()} in all"
        panels.append((title, panels[0][1], mean))
    return panels


def _cloud(axes: Axes, rows: pd.DataFrame) -> None:
    """All plans against depth, the front joined and barred, the base starred."""
    rows = rows.assign(group=rows["group"].where(rows["group"].isin(LOOKS), "other"))
    cost, effect = rows["relative_depth"].to_numpy(float), rows["effect"].to_numpy(float)
    is_base = (rows["group"] == "base").to_numpy() | (rows["plan"] == "base").to_numpy()
    axes.errorbar(
        cost[~is_base],
        effect[~is_base],
        yerr=limits(rows[~is_base]),
        fmt="none",
        ecolor="0.5",
        alpha=max(0.07, min(0.6, 25 / len(rows))),
        elinewidth=1.4,
        zorder=1,
    )
    size = 3.2 if len(rows) > 150 else 4.5
    for group, part in rows[~is_base].groupby("group", sort=False):
        marker, color, _ = LOOKS[group]
        # Few of a kind would drown in the hundreds of blocks.
        few = group not in MANY
        if few:
            axes.errorbar(
                part["relative_depth"],
                part["effect"],
                yerr=limits(part),
                fmt="none",
                ecolor=color,
                elinewidth=1,
                zorder=4,
            )
        axes.plot(
            part["relative_depth"],
            part["effect"],
            linestyle="none",
            marker=marker,
            markersize=5.5 if few else size,
            color=color,
            markeredgecolor="black" if few else "white",
            markeredgewidth=0.4,
            zorder=5 if few else 3,
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
    axes.plot(1, 0, **BASE)


@styled
def quality_cost(
    comparisons: pd.DataFrame,
    model: str,
    quantization: str,
    stage: str = "search",
    levels: Levels = DEFAULT_LEVELS,
) -> Figure:
    """Effect against relative depth (layers run, relative to the base), with the Pareto front.

    Takes the table `comparisons`; one panel a search task and, where their units agree, one for
    their mean. Every plan has a faint interval, those on the front a black one, and a
    note gives the median half-width.
    """
    rows = rows_of(comparisons, stage=stage, model=model, quantization=quantization, role="search")
    if rows[rows["plan"] != "base"].empty:
        return blank(f"{model}: the {stage} stage has no plans beside the base.")
    panels = _panels(rows)
    figure = Figure(figsize=(WIDTH, 1.1 + 2.3 * len(panels)))
    for axes, (title, unit, part) in zip(
        figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True
    ):
        _cloud(axes, part)
        count = cut_below(axes, part["relative_depth"].to_numpy(float), part)
        others = part[part["plan"] != "base"]
        half = ((others["high"] - others["low"]) / 2).median()
        cut = f", ▼ {count} below the axis" if count else ""
        axes.set_title(title)
        corner_note(axes, f"typical interval ±{half:.1f}{cut}")
        axes.set_ylabel(effect_label(unit))
        axes.grid(axis="y", color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        zero_line(axes)
    axes.set_xlabel("layers run, relative to the base")
    heading(figure, "Quality against cost", model, quantization, f"{stage} stage")
    groups = [group for group in LOOKS if group in set(rows["group"])]
    handles = [Line2D([], [], label="base", **BASE)]
    handles += [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=LOOKS[group][0],
            color=LOOKS[group][1],
            markeredgecolor="white" if group in MANY else "black",
            markeredgewidth=0.4,
            label=LOOKS[group][2],
        )
        for group in groups
    ]
    handles.append(
        Line2D(
            [],
            [],
            color="black",
            marker="o",
            markerfacecolor="none",
            markersize=7,
            linewidth=1.1,
            label="Pareto front",
        )
    )
    text = f"bars: {levels.interval}, paired with the base; "
    text += "the best of many looks better than it is"
    key(figure, handles, 4, text, rows["unit"])
    return figure


@styled
def quality_speed(
    comparisons: pd.DataFrame,
    costs: pd.DataFrame,
    model: str,
    quantization: str,
    stage: str = "confirm",
    levels: Levels = DEFAULT_LEVELS,
) -> Figure:
    """Effect against measured tokens per second, of the plans whose cost was measured.

    Takes the tables `comparisons` and `costs`; one row a task, columns for reading a prompt
    (prefill) and for writing (decode). Vertical bars are the intervals, horizontal ones reach
    from the slowest to the fastest repeat.
    """
    rows = rows_of(comparisons, stage=stage, model=model, quantization=quantization)
    measured = rows_of(costs, model=model, quantization=quantization).drop_duplicates("plan")
    speeds = [c for c in measured.columns if c.startswith(("prefill_", "decode_"))]
    rows = rows.drop(columns="group").merge(measured[["plan", "group", *speeds]], on="plan")
    if rows[rows["plan"] != "base"].empty:
        return blank(f"{model}: no cost was measured for plans of the {stage} stage.")
    order = [plan for plan in measured["plan"] if plan in set(rows["plan"])]
    looks = _plan_looks(order, measured.set_index("plan")["group"])
    tasks = list(rows.groupby("task", sort=False))
    figure = Figure(figsize=(WIDTH, 1.3 + 1.45 * len(tasks)))
    grid = figure.subplots(len(tasks), 2, sharex="col", sharey="row", squeeze=False)
    for (task, part), line in zip(tasks, grid, strict=True):
        first = part.iloc[0]
        for axes, way in zip(line, ("prefill", "decode"), strict=True):
            _speed_panel(axes, part, way, looks)
        base = native(first["base_value"], first["kind"], first["metric"])
        line[0].set_title(f"{shorten(task)} ({first['role']}): base {base}, n = {first['n']}")
        line[0].set_ylabel(f"change\n({first['unit']})")
    for axes, words in zip(grid[-1], ("prefill: prompt", "decode: written"), strict=True):
        axes.set_xlabel(f"{words} tokens per second (faster →)")
    figure.align_ylabels(grid[:, 0])
    heading(figure, "Quality against measured speed", model, quantization, f"{stage} stage")
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=looks[plan]["marker"],
            color=looks[plan]["color"],
            markersize=9 if plan == "base" else 5.5,
            label=looks[plan]["words"],
        )
        for plan in order
    ]
    text = f"vertical bars: {levels.interval}; horizontal: slowest to fastest repeat"
    key(figure, handles, 2, text, rows["unit"])
    return figure


def _plan_looks(plans: list[str], groups: pd.Series) -> dict[str, dict[str, str]]:
    """Marker, colour and words of each plan: base a star, frozen a circle, controls others.

    `groups` gives the group of each plan; that of the frozen one is the generator that made it.
    """
    markers = cycle("XsD^vPh")
    colors = cycle((COLORS[3], COLORS[1], COLORS[2], COLORS[4]))
    looks = {}
    for plan in plans:
        if plan == "base":
            looks[plan] = {"marker": "*", "color": "black", "words": "base"}
        elif groups[plan] == "control":
            looks[plan] = {"marker": next(markers), "color": next(colors)}
        else:
            looks[plan] = {"marker": "o", "color": COLORS[0]}
        word = "control" if groups[plan] == "control" else "frozen"
        looks[plan].setdefault("words", f"{word} {shorten(plan, 34)}")
    return looks


def _speed_panel(axes: Axes, rows: pd.DataFrame, way: str, looks: dict) -> None:
    """One task's plans against one of the two speeds."""
    column = f"{way}_tokens_per_second"
    for _, row in rows.iterrows():
        look = looks[row["plan"]]
        speed = row[column]
        spread = [[max(speed - row[f"{way}_low"], 0)], [max(row[f"{way}_high"] - speed, 0)]]
        axes.errorbar(
            speed,
            row["effect"],
            xerr=spread,
            yerr=limits(row.to_frame().T),
            marker=look["marker"],
            color=look["color"],
            markersize=9 if row["plan"] == "base" else 5.5,
            elinewidth=1,
            capsize=2,
        )
    axes.margins(0.08, 0.14)
    axes.grid(color="0.92", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    zero_line(axes)
