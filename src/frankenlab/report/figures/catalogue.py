"""Which figures an experiment has. Names only are needed to plan a run and to show the page."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.report.results import Tables, rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Entry:
    """A kind of figure.

    Attributes:
        name: of the function that draws it, of its file, and of its caption
            `workflow/report/figures/<name>.rst`.
        title: stands before the caption on the page.
        stage: whose tables it shows: the rule `plot_<stage>` draws it.
        tables: it is drawn where all of these have rows.
        each_task: whether there is one for each search task.
    """

    name: str
    title: str
    stage: str
    tables: tuple[str, ...]
    each_task: bool = False


# In the order of the page.
CATALOGUE = (
    Entry("confirm_forest", "The verdict on fresh documents", "confirm", ("verdicts",)),
    Entry("quality_speed", "Quality against measured speed", "confirm", ("verdicts", "costs")),
    Entry("block_map", "Every block run twice", "search", ("comparisons",), each_task=True),
    Entry("layer_effects", "Each single layer, repeated", "search", ("comparisons",)),
    Entry("repetition_effect", "More repetitions of the same block", "search", ("comparisons",)),
    Entry("quality_cost", "Quality against cost", "search", ("comparisons",)),
    Entry("race", "Which plans were dropped when", "search", ("comparisons", "race")),
    Entry("bits", "Quality against the bytes of weights", "bits", ("bits",)),
)


def draw(name: str, tables: Tables, where: Mapping[str, str], levels: Statistics) -> "Figure":
    """Draw the figure `name` of a model, quantization and task, as far as it has them."""
    # Matplotlib loads slowly, and the workflow and the page need the names only.
    from frankenlab.report.figures.bitrates import bits
    from frankenlab.report.figures.effects import layer_effects, repetition_effect
    from frankenlab.report.figures.forest import confirm_forest
    from frankenlab.report.figures.maps import block_map
    from frankenlab.report.figures.quality import quality_cost, quality_speed
    from frankenlab.report.figures.race import race

    drawings = {
        "confirm_forest": confirm_forest,
        "quality_speed": quality_speed,
        "block_map": block_map,
        "layer_effects": layer_effects,
        "repetition_effect": repetition_effect,
        "quality_cost": quality_cost,
        "race": race,
        "bits": bits,
    }
    return drawings[name](tables, levels, **where)


@dataclass(frozen=True)
class Picture:
    """A figure of one experiment: `where` has its model, and its quantization and task if any."""

    entry: Entry
    where: Mapping[str, str]

    @property
    def stem(self) -> str:
        """Its path without suffix: `<model>[/<quantization>]/<name>[.<task>]`."""
        *folders, name = [*self.where.values(), self.entry.name]
        if self.entry.each_task:
            name = f"{name}.{folders.pop()}"
        return "/".join([*folders, name])

    @property
    def title(self) -> str:
        """What it shows, with the task where each has one, or the model of all quantizations."""
        more = self.where.get("task", "" if "quantization" in self.where else self.where["model"])
        return f"{self.entry.title}: {more}" if more else self.entry.title

    def draw(self, tables: Tables, levels: Statistics) -> "Figure":
        """Draw it from the analysis' tables."""
        return draw(self.entry.name, tables, self.where, levels)


def names(stage: str, tables: Collection[str], tasks: Sequence[str] = ()) -> list[str]:
    """Return the file names, without suffix, of the figures of a stage.

    Args:
        tables: the names of the tables that the experiment makes.
        tasks: the search tasks.
    """
    return [
        name
        for entry in CATALOGUE
        if entry.stage == stage and set(entry.tables) <= set(tables)
        for name in ([f"{entry.name}.{t}" for t in tasks] if entry.each_task else [entry.name])
    ]


def pictures(tables: Tables, model: str, quantization: str = "") -> list[Picture]:
    """Return the pictures of a model at one quantization, or of all its quantizations together.

    What has no rows in the tables has no picture.
    """
    where = {"model": model} | ({"quantization": quantization} if quantization else {})
    found = []
    for entry in CATALOGUE:
        if (entry.stage == "bits") == bool(quantization):
            continue
        parts = [rows_of(tables.get(name), **where) for name in entry.tables]
        if entry.stage == "search":
            parts[0] = rows_of(parts[0], stage="search")
        # One quantization alone compares no bits.
        several = entry.stage != "bits" or parts[0].get("quantization", pd.Series()).nunique() > 1
        if several and all(len(part) for part in parts):
            tasks = parts[0]["task"].unique()
            each = [{"task": task} for task in tasks] if entry.each_task else [{}]
            found += [Picture(entry, where | task) for task in each]
    return found
