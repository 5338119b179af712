"""Which pictures an experiment has: their names, titles and captions, and how to draw them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from frankenlab.report.figures.bits import bits
from frankenlab.report.figures.effects import layer_effects, repetition_effect
from frankenlab.report.figures.forest import confirm_forest
from frankenlab.report.figures.maps import block_map
from frankenlab.report.figures.quality import quality_cost, quality_speed
from frankenlab.report.figures.race import race
from frankenlab.report.figures.style import DEFAULT_LEVELS, Levels, rows_of, survivors

# What the captions of a race say besides.
RACED = (
    " Plans that the race dropped were compared on fewer documents, and not tested: what dropped "
    "them makes them look worse than they are."
)


@dataclass(frozen=True)
class Picture:
    """A figure to be: `stem` is its path without suffix, `<model>/<quantization>/<name>`, or
    `<model>/<name>` where it is about several quantizations."""

    stem: str
    title: str
    caption: str
    draw: Callable[[], Figure]


def _search_pictures(
    tables: Mapping[str, pd.DataFrame], model: str, quantization: str, levels: Levels
) -> list[Picture]:
    table = tables["comparisons"]
    rows = rows_of(table, stage="search", model=model, quantization=quantization)
    where = f"{model}/{quantization}"
    key = {"model": model, "quantization": quantization, "levels": levels}
    raced = "" if survivors(rows).all() else RACED
    paired = f"paired with the base on the same documents; {levels.interval}s"
    maps = [
        Picture(
            f"{where}/block_map.{task}",
            f"Every block run twice: {task}",
            "Left, the change of the task's metric for each block of layers that runs twice; "
            f"▲ better and ▼ worse mark q < {levels.fdr:g} (Benjamini–Hochberg over all plans of "
            f"the task). Right, how wide the {levels.interval} of each is: a colour on the left "
            "that is smaller than the width on the right is not evidence." + raced,
            partial(block_map, table, task=task, **key),
        )
        for task in rows["task"].unique()
    ]
    return [
        *maps,
        Picture(
            f"{where}/layer_effects",
            "Each single layer, repeated",
            f"One layer at a time, {paired}. Filled markers: q < {levels.fdr:g}.{raced}",
            partial(layer_effects, table, **key),
        ),
        Picture(
            f"{where}/repetition_effect",
            "More repetitions of the same block",
            "Blocks that were run with several counts: those with the most counts, then those "
            f"with the highest effect, {paired}. Filled markers: q < {levels.fdr:g}.{raced}",
            partial(repetition_effect, table, **key),
        ),
        Picture(
            f"{where}/quality_cost",
            "Quality against cost",
            "Every plan of the search against the layers it runs; the front joins the plans that "
            f"no plan of the same or less depth beats, {paired}. The front is the best of many "
            "on the documents that chose it, hence optimistic; the confirmation above is not."
            + (" It leaves out plans that the race dropped." if raced else ""),
            partial(quality_cost, table, **key),
        ),
        *_race_pictures(tables, model, quantization),
    ]


def _race_pictures(
    tables: Mapping[str, pd.DataFrame], model: str, quantization: str
) -> list[Picture]:
    rounds = tables.get("race")
    if rounds is None or rows_of(rounds, model=model, quantization=quantization).empty:
        return []
    caption = "After each round the plans that could hardly end up ahead of the leader were "
    caption += "dropped. Left, the plans that were left; right, the last round that each block ran "
    caption += "in. Layer passes are counted by documents, common prefixes of plans once."
    draw = partial(race, rounds, tables["comparisons"], model, quantization)
    stem = f"{model}/{quantization}/race"
    return [Picture(stem, "Which plans were dropped when", caption, draw)]


def _confirm_pictures(
    tables: Mapping[str, pd.DataFrame], model: str, quantization: str, levels: Levels
) -> list[Picture]:
    where = f"{model}/{quantization}"
    key = {"model": model, "quantization": quantization, "levels": levels}
    pictures = [
        Picture(
            f"{where}/confirm_forest",
            "The verdict on fresh documents",
            "The frozen franken and controls of the same depth on documents that nothing was "
            f"chosen on. Thin bars: {levels.interval}; thick: 90 %. Equivalent means that the "
            "thick bar lies within the shaded margin.",
            partial(confirm_forest, tables["verdicts"], **key),
        )
    ]
    costs = tables.get("costs")
    if costs is not None:
        pictures.append(
            Picture(
                f"{where}/quality_speed",
                "Quality against measured speed",
                f"The confirmed plans. Vertical bars: {levels.interval}; horizontal: the slowest "
                "and the fastest repeat around the median.",
                partial(quality_speed, tables["comparisons"], costs, **key),
            )
        )
    return pictures


def pictures(
    tables: Mapping[str, pd.DataFrame],
    model: str,
    quantization: str,
    levels: Levels = DEFAULT_LEVELS,
) -> list[Picture]:
    """The pictures of one model at one quantization, in the order of a report.

    Takes the tables `comparisons`, `verdicts`, `costs` and `race` by name; an absent or empty one
    only leaves its pictures out. Nothing is drawn until a picture's `draw` is called.
    """
    found: list[Picture] = []
    for name, stage, make in (
        ("verdicts", None, lambda table: _confirm_pictures(tables, model, quantization, levels)),
        (
            "comparisons",
            "search",
            lambda table: _search_pictures(tables, model, quantization, levels),
        ),
    ):
        table = tables.get(name)
        wanted = {"model": model, "quantization": quantization} | (
            {"stage": stage} if stage else {}
        )
        if table is not None and len(rows_of(table, **wanted)):
            found += make(table)
    return found


def bits_picture(
    tables: Mapping[str, pd.DataFrame], model: str, levels: Levels = DEFAULT_LEVELS
) -> Picture | None:
    """The picture of a model at all of its quantizations; None where it has but one.

    Takes the table `bits` by name.
    """
    table = tables.get("bits")
    if table is None or rows_of(table, model=model)["quantization"].nunique() < 2:
        return None
    return Picture(
        f"{model}/bits",
        f"Quality against the bytes of weights: {model}",
        "Stars, joined: the base at each quantization. Arrows: from it to the franken and the "
        "controls at the same quantization. A franken above the line is better than what the base "
        "would be at as many bytes, as far as the line can be trusted between its stars; the "
        "tests are in the table below. Left, what is read to decode a token; right, what a "
        "standalone checkpoint holds in memory (a franken that shares its base's weights holds no "
        "more than the base). Keys and values come on top. "
        f"Bars: {levels.interval}s, of frankens against the base at the same quantization.",
        partial(bits, table, model, levels=levels),
    )
