"""The (start, length) map of what running a block twice does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    GREY,
    INK,
    WIDTH,
    base_text,
    blank,
    change_text,
    finish,
    panel_title,
    point_data,
    short_unit,
    survivors,
    tooltip,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    INTERVAL,
    interval,
    layers_of,
    metric_name,
    plan_words,
    plural,
    signed,
    size_words,
    unit_name,
)

# Up to this many lengths, the two maps stand above each other and their cells hold numbers.
FEW_LENGTHS = 9
# Of the axis at the left with its title, and between two maps, in pixels.
AXIS, BETWEEN = 41, 18
DROPPED = "•"
SLASH, UNTRIED = "M-1,1L1,-1", "#cccccc"


def block_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the plans that run one contiguous block twice, with length and half-width."""
    twice = rows_of(rows, times=2, part="block", scale=1.0, in_place=False)
    cells = twice.assign(
        start=twice["start"].astype(int),
        length=(twice["stop"] - twice["start"]).astype(int),
        half=(twice["high"] - twice["low"]) / 2,
    )
    return cells.drop_duplicates(["start", "length"])


def color_limit(cells: pd.DataFrame) -> float:
    """Return the symmetric limit of the colours: nine in ten cells fit, and every gain does."""
    effect = cells["effect"].to_numpy(float)
    return float(max(np.quantile(np.abs(effect), 0.9), effect.max(), 1e-9))


@dataclass(frozen=True)
class Grid:
    """The cells of a map: one column a first layer, one row a length, of those that were tried.

    Attributes:
        depth: layers of the model; a block fits if it ends with the last of them.
        width, height: of the map in pixels.
    """

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    depth: int
    width: int
    height: int

    @classmethod
    def of(cls, cells: pd.DataFrame, width: int) -> "Grid":
        """Return the grid of `block_cells` in a map of a width."""
        starts, lengths = (tuple(sorted(set(cells[c].tolist()))) for c in ("start", "length"))
        depth = round((cells["depth"] / cells["relative_depth"]).iloc[0])
        square = width / len(starts)
        height = 28 * len(lengths)
        if len(lengths) > FEW_LENGTHS:
            height = round(float(np.clip(square * len(lengths), 200, 300)))
        return cls(starts, lengths, depth, width, height)

    @property
    def cell(self) -> tuple[float, float]:
        """Return the width and height of a cell."""
        return self.width / len(self.starts), self.height / len(self.lengths)

    @property
    def roomy(self) -> bool:
        """Return whether a number fits into a cell."""
        return self.cell[0] >= 19 and self.cell[1] >= 19

    def fitting(self) -> list[dict[str, int]]:
        """Return every cell of a block that fits into the model, tried or not."""
        return [
            {"start": start, "length": length}
            for length in self.lengths
            for start in self.starts
            if start + length <= self.depth
        ]

    def channels(self, labelled: bool = True) -> tuple[alt.X, alt.Y]:
        """Return the axes; the lengths are labelled on the first of several maps only."""

        def thinned(numbers: Sequence[int], pixels: float) -> list[int]:
            step = int(np.ceil(len(numbers) * pixels))
            return list(numbers[:: max(step, 1)])

        across, down = self.cell
        # The longest has no label where it would stand above the map and push its title up.
        labelled_lengths = self.lengths if down > 13 else self.lengths[:-1]
        x = alt.Axis(
            title="first layer of the block",
            values=thinned(self.starts, 21 / across / len(self.starts)),
            labelAngle=0,
            labelOverlap=False,
            grid=False,
            domain=False,
        )
        y = alt.Axis(
            title="layers in the block",
            values=thinned(labelled_lengths, 15 / down / len(self.lengths)),
            labelOverlap=False,
            grid=False,
            domain=False,
            minExtent=24,
            maxExtent=24,
        )
        band = alt.Scale(paddingInner=0.04, paddingOuter=0)
        return (
            alt.X("start:O", axis=x, sort=list(self.starts), scale=band),
            alt.Y(
                "length:O",
                axis=y if labelled else None,
                sort=list(self.lengths)[::-1],
                scale=band,
            ),
        )

    def panel(
        self,
        cells: pd.DataFrame,
        color: alt.Color,
        labelled: bool = True,
        fields: Sequence[Any] = (),
    ) -> Any:
        """Draw one map: coloured cells over all that fit; what was not tried stays hatched.

        `cells` has start, length, what `color` reads, and the fields of a tooltip.
        """
        x, y = self.channels(labelled)
        tried = set(zip(cells["start"], cells["length"], strict=True))
        empty = [c for c in self.fitting() if (c["start"], c["length"]) not in tried]
        layers = []
        if empty:
            size = (0.5 * min(self.cell)) ** 2
            hatch = alt.Chart(alt.InlineData(values=empty)).mark_point(
                shape=SLASH, size=size, stroke=UNTRIED, strokeWidth=1, opacity=1
            )
            layers.append(hatch.encode(x, y))
        drawn = alt.Chart(cells).mark_rect()
        layers.append(drawn.encode(x, y, color, tooltip=tooltip(*fields)))
        return alt.layer(*layers).properties(width=self.width, height=self.height)

    def letters(
        self, cells: pd.DataFrame, text: str, labelled: bool = True, **look: Any
    ) -> alt.Chart:
        """Return the column `text` written into the cells that have one."""
        chart = alt.Chart(cells[cells[text] != ""]).mark_text(**look)
        return chart.encode(*self.channels(labelled), text=f"{text}:N", tooltip=tooltip())

    def outline(self, cells: pd.DataFrame, labelled: bool = True) -> alt.Chart:
        """Return a frame around each of the cells."""
        chart = alt.Chart(cells).mark_rect(fillOpacity=0, stroke="black", strokeWidth=2)
        return chart.encode(*self.channels(labelled), tooltip=tooltip())


def _data(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the data of the cells, with their marks.

    A mark stands only on a significant change that is larger than its interval's half-width. So
    none contradicts the second map, whatever the two tests make of a rare flip.
    """
    effect, half = cells["effect"].astype(float), cells["half"].astype(float)
    found = cells["significant"].fillna(False).astype(bool) & (effect.abs() > half)
    mark = np.where(found, np.where(effect > 0, "▲", "▼"), "")
    data = point_data(cells, "start", "length").drop(columns=["low", "high"])
    return data.assign(
        half=half.round(3),
        shrunken=[
            "" if pd.isna(row["shrunken"]) else interval(row, "shrunken", short_unit(row["unit"]))
            for row in cells.to_dict("records")
        ],
        mark=np.where(survivors(cells), mark, DROPPED),
        n=cells["n"].astype(int),
    )


def block_map(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the effect of running each contiguous block twice, and how sure each of them is.

    One column a first layer, one row a length, of those tried. First map: the effect in its unit,
    colours centred at the base, marks as in `_data`. Second map: half the width of the interval,
    in the same unit. Blocks that fit but were not tried are hatched.
    """
    task = where["task"]
    cells = block_cells(rows_of(tables["comparisons"], stage="search", **where))
    if cells.empty:
        text = "no plan of the search stage repeats one block once."
        return blank(f"{where['model']}, {task}: {text}")
    unit, limit, data = unit_name(cells["unit"].iloc[0]), color_limit(cells), _data(cells)
    few = cells["length"].nunique() <= FEW_LENGTHS
    inner = WIDTH - 10 - AXIS
    grid = Grid.of(cells, inner if few else (inner - BETWEEN) // 2)
    left, right = _effects(grid, data, limit), _widths(grid, data, labelled=few)
    worst = data["effect"].min()
    reach = f", down to {signed(worst)}" if worst < -limit else ""
    left = left.properties(
        title=panel_title(f"Change in {unit}", f"blue: better than the base; red: worse{reach}")
    )
    right = right.properties(
        title=panel_title(f"Half-width of the {INTERVAL}", "a smaller change is no evidence")
    )
    frozen = rows_of(tables.get("verdicts"), model=where["model"], group="frozen")
    chosen = data[data["plan"].isin(frozen["plan"])] if len(frozen) else data.head(0)
    if len(chosen):
        left += grid.outline(chosen)
    maps = (left, right)
    whole = alt.vconcat(*maps, spacing=14) if few else alt.hconcat(*maps, spacing=BETWEEN)
    whole = whole.resolve_scale(color="independent")
    items = _key(data, grid, levels)
    if len(chosen):
        items.append(("hollow", "black", "square", "the frozen plan"))
    if items:
        whole = alt.vconcat(whole, key(items, inner), spacing=14)
    finding = block_map_finding(tables, levels, **where)
    title = f"{task}: what running a block twice changes"
    return finish(whole, title, where, finding, [plural(len(cells), "block"), base_text(cells)])


FIELDS = (
    alt.Tooltip("shrunken:N", title="shrunken"),
    alt.Tooltip("half:Q", title="half-width"),
    alt.Tooltip("n:Q"),
)
MINUS = "datum.value == 0 ? '0' : replace(format(datum.value, '+~g'), '-', '−')"


def _bar(title: str, **look: Any) -> alt.Legend:
    return alt.Legend(title=title, orient="bottom", gradientLength=200, gradientThickness=9, **look)


def _effects(grid: Grid, data: pd.DataFrame, limit: float) -> Any:
    """Draw the map of effects, with marks, and with numbers instead of a legend if they fit."""
    scale = alt.Scale(scheme="redblue", domain=[-limit, 0, limit], clamp=True)
    legend = None if grid.roomy else _bar("change", labelExpr=MINUS)
    chart = grid.panel(data, alt.Color("effect:Q", scale=scale, legend=legend), fields=FIELDS)
    shown = data.assign(number=[signed(value, 0) for value in data["effect"]])
    size = float(np.clip(0.75 * min(grid.cell), 4, 9))
    dark = shown["effect"].abs() > 0.62 * limit
    for chosen, color in ((shown[dark], "white"), (shown[~dark], INK)):
        chart += grid.letters(chosen, "mark", dy=-7 * grid.roomy, fontSize=size, color=color)
        if grid.roomy:
            chart += grid.letters(chosen, "number", dy=5, fontSize=10, color=color)
    return chart


def _widths(grid: Grid, data: pd.DataFrame, labelled: bool) -> Any:
    """Draw the map of half-widths, with numbers instead of a legend if they fit."""
    top = float(data["half"].max()) or 1.0
    scale = alt.Scale(range=["#f7f5fa", "#8172b2"], domain=[0, top])
    legend = None if grid.roomy else _bar("half-width")
    chart = grid.panel(data, alt.Color("half:Q", scale=scale, legend=legend), labelled, FIELDS)
    if grid.roomy:
        shown = data.assign(number=[f"{value:.0f}" for value in data["half"]])
        chart += grid.letters(shown, "number", fontSize=10)
    return chart


def _key(data: pd.DataFrame, grid: Grid, levels: Statistics) -> list[KeyItem]:
    items: list[KeyItem] = []
    for mark, word in (("▲", "better"), ("▼", "worse")):
        if (data["mark"] == mark).any():
            items.append(
                (mark, INK, "", f"significantly {word} (false discovery rate {levels.fdr:g})")
            )
    if (data["mark"] == DROPPED).any():
        items.append((DROPPED, INK, "", "dropped in the race, on fewer documents"))
    if len(grid.fitting()) > len(data):
        items.append(("⁄", GREY, "", "not tried"))
    return items


def block_map_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Return which block looks best and worst on a task, how many changes are significant, and
    which changes are too small to be seen at all."""
    cells = block_cells(rows_of(tables["comparisons"], stage="search", **where))
    if cells.empty:
        return ""
    data, unit = _data(cells), cells["unit"].iloc[0]
    better, worse = ((data["mark"] == mark).sum() for mark in ("▲", "▼"))
    # What a race dropped was seen on fewer documents, where the best looks better by chance.
    whole = cells[survivors(cells)] if survivors(cells).any() else cells
    best = whole.loc[whole["effect"].idxmax()]
    worst = cells.loc[cells["effect"].idxmin()]
    shrunken = best.to_dict() | {"effect": best["shrunken"]}
    kept = ""
    if pd.notna(best["shrunken"]):
        text = change_text(shrunken, "shrunken_low", "shrunken_high")
        kept = f" (shrunken for its luck: {text})"
    tested = f"Of {plural(len(cells), 'block')} run twice, "
    if len(whole) < len(cells):
        tested += f"the race dropped {len(cells) - len(whole)} early; of the other {len(whole)}, "
    return (
        f"{tested}{better or 'none'} made {where['task']} "
        f"significantly better and {worse or 'none'} significantly worse (q < {levels.fdr:g}, "
        "exploration). "
        f"The best, {_said(best)}, changed its {metric_name(best['metric'])} by "
        f"{change_text(best, unit=' ' + unit)}{kept}, the worst, "
        f"{_said(worst)}, by {change_text(worst, unit=' ' + unit)}; a change below "
        f"{size_words(cells['half'].median(), unit)} is no evidence on a typical block."
    )


def _said(row: pd.Series) -> str:
    return plan_words(row["plan"], layers_of(row))
