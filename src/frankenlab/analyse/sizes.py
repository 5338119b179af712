"""Compare the effects of the same design on models of several sizes, document by document.

Signs and units are those of `comparisons`. All of it is exploration, without verdicts.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.analyse.across import Cell
from frankenlab.analyse.outcomes import Task
from frankenlab.analyse.paired_tests import benjamini_hochberg
from frankenlab.analyse.selection import Frozen
from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.transfer import Transfer
from frankenlab.plans.designs import Design

FROZEN, TRANSFERRED = "frozen", "transferred"
COLUMNS = (
    *("model", "quantization", "parameters", "design", "label", "plan", "plans", "stage", "task"),
    *("role", "metric", "kind", "unit", "n", "effect", "low", "high", "against"),
    *("against_parameters", "shared", "difference", "difference_low", "difference_high"),
    *("p", "q", "significant"),
)


def sizes(
    searched: pd.DataFrame,
    confirmed: pd.DataFrame,
    tasks: Mapping[str, Task],
    designs: list[Design],
    frozen: Mapping[str, Frozen],
    transferred: Mapping[str, list[Transfer]],
    parameters: Mapping[str, int],
    rules: Statistics,
) -> pd.DataFrame:
    """Return the effects of each design on each model and task, and how they differ from those on
    the smallest model.

    A design is a line of the config or one of its plans, the same relative place on every model
    (search documents, at the reference quantizations); the frozen plan of each model, at each
    quantization; or the frozen plan of one model on all models (confirm documents). Of a line it is
    the mean over its plans, on the documents that all of them saw.

    Args:
        searched: scores of the search stage, all its rounds.
        confirmed: scores of the confirm stage.
        designs: what `designs.shared` returns.
        frozen: model -> what `selection.freeze` made.
        transferred: model -> plans that were frozen on other models.
        parameters: model -> how many its base has.

    Returns:
        `difference` is the effect here minus that on the smallest model that has the design on
        this task, at the same quantization if it was run there, over `shared` documents; with its
        95 % interval, p, and q over all rows of its kind of design (Benjamini and Hochberg).
    """
    order = sorted(parameters, key=lambda model: parameters[model])
    rows: list[dict[str, Any]] = []
    parts = [
        (searched, designs),
        (confirmed, [*_frozen(frozen), *_transferred(frozen, transferred)]),
    ]
    for scores, wanted in parts:
        for cells in _cells(scores, tasks):
            for design in wanted:
                rows += _rows(design, cells, frozen, parameters, order, rules)
    table = pd.DataFrame(rows, columns=COLUMNS)
    for _, own in table.groupby("design"):
        table.loc[own.index, "q"] = benjamini_hochberg(own["p"].astype(float))
    return table.assign(significant=table["q"].astype(float) < rules.fdr)


def _cells(
    scores: pd.DataFrame, tasks: Mapping[str, Task]
) -> Iterator[dict[tuple[str, str], Cell]]:
    """Yield (model, quantization) -> scores for each task."""
    scores = scores.drop_duplicates(["model", "quantization", "task", "plan", "document"])
    for task, own in scores.groupby("task", sort=False, observed=True):
        cells = own.groupby(["model", "quantization"], sort=False, observed=True)
        yield {(str(m), str(q)): Cell(rows, tasks[str(task)]) for (m, q), rows in cells}


def _frozen(frozen: Mapping[str, Frozen]) -> list[Design]:
    plans = {model: (record["frozen"],) for model, record in frozen.items()}
    return [Design(FROZEN, "the frozen plan of each model", plans)]


def _transferred(
    frozen: Mapping[str, Frozen], transferred: Mapping[str, list[Transfer]]
) -> Iterator[Design]:
    """Yield a design for each model whose frozen plan ran on others."""
    for source, record in frozen.items():
        plans = {
            model: (item.plan,)
            for model, items in transferred.items()
            for item in items
            if item.source == source
        }
        if plans:
            plans[source] = (record["frozen"],)
            yield Design(TRANSFERRED, f"the frozen plan of {source}", plans)


def _rows(
    design: Design,
    cells: Mapping[tuple[str, str], Cell],
    frozen: Mapping[str, Frozen],
    parameters: Mapping[str, int],
    order: list[str],
    rules: Statistics,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a design on one task, the smallest model first."""
    found = {}
    for model in order:
        references = {frozen[model]["reference_quantization"]: None} if model in frozen else {}
        for _, quantization in (case for case in cells if case[0] == model):
            if design.kind == TRANSFERRED and quantization not in references:
                continue
            gained = cells[model, quantization].gained(design.plans.get(model, ("",)))
            if gained is not None:
                found[model, quantization] = gained
    if not found:
        return
    smallest = next(model for model in order if model in {model for model, _ in found})
    home = frozen[smallest]["reference_quantization"]
    for (model, quantization), gained in found.items():
        effect = gained.paired(rules)
        (low,), (high,) = effect.interval(0.95)
        texts = design.plans[model]
        row = cells[model, quantization].facts | {
            "parameters": parameters[model],
            "design": design.kind,
            "label": design.label,
            "plan": texts[0] if len(texts) == 1 else None,
            "plans": len(texts),
            "n": len(gained.measured.documents),
            "effect": effect.effect[0],
            "low": low,
            "high": high,
            "p": np.nan,
        }
        other = found.get((smallest, quantization)) or found.get((smallest, home))
        compared = None
        if model != smallest and other is not None:
            compared = gained.minus(other, rules)
        if compared is not None:
            shared, difference = compared
            (low,), (high,) = difference.interval(0.95)
            row |= {
                "against": smallest,
                "against_parameters": parameters[smallest],
                "shared": shared,
                "difference": difference.effect[0],
                "difference_low": low,
                "difference_high": high,
                "p": difference.p[0],
            }
        yield row
