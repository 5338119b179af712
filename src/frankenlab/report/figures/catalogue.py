"""Which figures an experiment has. Names only are needed to plan a run and to show the page."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.report.results import Tables, rows_of


@dataclass(frozen=True)
class Entry:
    """A kind of figure.

    Attributes:
        name: of the function that draws it, of its file, and of its caption
            `workflow/report/figures/<name>.rst`. `<name>_finding` says what it shows.
        module: of this package, in which both functions are.
        title: stands before the caption on the page.
        stage: whose tables it shows: the rule `plot_<stage>` draws it.
        category: the reader's question that it answers, in the order of reading.
        tables: it is drawn where all of these have rows.
        each_task: whether there is one for each search task.
    """

    name: str
    module: str
    title: str
    stage: str
    category: str
    tables: tuple[str, ...]
    each_task: bool = False

    def function(self, suffix: str = "") -> Callable[..., Any]:
        """Return the function that draws it, or with the suffix "_finding" describes it."""
        # Altair loads slowly, and the workflow needs the names only.
        from frankenlab.report.figures import (
            bitrates,
            effects,
            forest,
            maps,
            oracle,
            path,
            plane,
            predictors,
            probe,
            profile,
            prompts,
            quality,
            race,
            repetitions,
            sizes,
            speed,
            tradeoff,
            transfer,
        )

        modules = (
            bitrates,
            effects,
            forest,
            maps,
            oracle,
            path,
            plane,
            predictors,
            probe,
            profile,
            prompts,
            quality,
            race,
            repetitions,
            sizes,
            speed,
            tradeoff,
            transfer,
        )
        module = next(m for m in modules if m.__name__.endswith(f".{self.module}"))
        found: Callable[..., Any] = getattr(module, f"{self.name}{suffix}")
        return found


# What a reader asks, in the order of the page; Snakemake's report sorts its categories by name.
ANSWER, LAYERS, TIMES, PRICE, LOST, BITS, SURE, WHY, TABLES = (
    "1 The answer",
    "2 Which layers",
    "3 How often",
    "4 At what price",
    "5 Is anything lost",
    "6 At fewer bits",
    "7 How sure is this",
    "8 Why",
    "9 Tables",
)

# In the order of the page.
CATALOGUE = (
    Entry(
        "confirm_forest",
        "forest",
        "Each frozen plan against its base",
        "confirm",
        ANSWER,
        ("verdicts",),
    ),
    Entry(
        "size_effect",
        "sizes",
        "Effect against the size of the model",
        "models",
        ANSWER,
        ("sizes",),
    ),
    Entry(
        "transfer_effect",
        "transfer",
        "The frozen plan of each model on the others",
        "models",
        ANSWER,
        ("transfer",),
    ),
    Entry(
        "profile",
        "profile",
        "The effect of repeating over the depth",
        "search",
        LAYERS,
        ("profile", "reliability"),
    ),
    Entry(
        "block_map",
        "maps",
        "Every block, run twice",
        "search",
        LAYERS,
        ("comparisons",),
        each_task=True,
    ),
    Entry(
        "layer_effects",
        "effects",
        "Each single layer, repeated",
        "search",
        LAYERS,
        ("comparisons",),
    ),
    Entry(
        "repetition_effect",
        "repetitions",
        "More repetitions of the same blocks",
        "search",
        TIMES,
        ("repetitions", "dose_response"),
    ),
    Entry("plane", "plane", "What the same cost buys", "search", PRICE, ("plane",)),
    Entry(
        "quality_speed",
        "speed",
        "Quality against measured speed",
        "confirm",
        PRICE,
        ("verdicts", "costs"),
    ),
    Entry("quality_cost", "quality", "Quality against cost", "search", PRICE, ("comparisons",)),
    Entry(
        "tradeoff",
        "tradeoff",
        "Gain on the search tasks against loss on the guard tasks",
        "search",
        LOST,
        ("tradeoff",),
    ),
    Entry("bits", "bitrates", "Quality against the bytes of weights", "bits", BITS, ("bits",)),
    Entry("path", "path", "The frozen plan from search to confirm", "search", SURE, ("path",)),
    Entry("oracle", "oracle", "What an oracle would gain", "search", SURE, ("oracle",)),
    Entry("race", "race", "Which plans were dropped when", "search", SURE, ("comparisons", "race")),
    Entry("prompts", "prompts", "The effect under each prompt", "search", SURE, ("prompts",)),
    Entry(
        "predictors",
        "predictors",
        "What predicts the effect of running layers twice",
        "search",
        WHY,
        ("predictors",),
    ),
    Entry(
        "layer_updates",
        "probe",
        "How far each layer moves the hidden state",
        "search",
        WHY,
        ("probe",),
    ),
    Entry(
        "state_similarity",
        "probe",
        "How alike the hidden states are",
        "search",
        WHY,
        ("similarity",),
    ),
)


@dataclass(frozen=True)
class Picture:
    """A figure of one experiment: `where` has its model, and its quantization and task if any;
    nothing where it compares models."""

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
        model = "" if "quantization" in self.where else self.where.get("model", "")
        more = self.where.get("task", model)
        return f"{self.entry.title}: {more}" if more else self.entry.title

    def draw(self, tables: Tables, levels: Statistics) -> Any:
        """Draw it from the analysis' tables, as an Altair chart."""
        return self.entry.function()(tables, levels, **self.where)

    def finding(self, tables: Tables, levels: Statistics) -> str:
        """Return what it shows in a sentence or two: its text before it, and its alt text."""
        found: str = self.entry.function("_finding")(tables, levels, **self.where)
        return found


def picture_of(name: str, **where: str) -> Picture:
    """Return the picture of a figure's file name, `<name>[.<task>]`, of a model.

    Its drawing says so where the tables have nothing for it.
    """
    task = name.partition(".")[2]
    return Picture(entry_of(name), where | ({"task": task} if task else {}))


def entry_of(name: str) -> Entry:
    """Return the entry of a figure's file name, `<name>[.<task>]`."""
    kind = name.partition(".")[0]
    return next(entry for entry in CATALOGUE if entry.name == kind)


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
        if entry.stage == "models" or (entry.stage == "bits") == bool(quantization):
            continue
        parts = [rows_of(tables.get(name), **where) for name in entry.tables]
        if entry.tables[0] == "comparisons":
            parts[0] = rows_of(parts[0], stage="search")
        # One quantization alone compares no bits.
        several = entry.stage != "bits" or parts[0].get("quantization", pd.Series()).nunique() > 1
        if several and all(len(part) for part in parts):
            tasks = parts[0]["task"].unique() if entry.each_task else ()
            each = [{"task": task} for task in tasks] if entry.each_task else [{}]
            found += [Picture(entry, where | task) for task in each]
    return found


def across(tables: Tables) -> list[Picture]:
    """Return the pictures that compare models."""
    return [
        Picture(entry, {})
        for entry in CATALOGUE
        if entry.stage == "models" and all(len(rows_of(tables.get(n))) for n in entry.tables)
    ]
