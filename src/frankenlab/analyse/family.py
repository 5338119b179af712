"""The models of an experiment against each other: bases and frozen plans on the same documents.

Signs and units are those of `comparisons`. All of it is exploration, without verdicts.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.analyse.outcomes import Task
from frankenlab.analyse.paired_tests import benjamini_hochberg
from frankenlab.analyse.selection import Frozen
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE

SIDE = ("model", "parameters", "group", "plan")
COLUMNS = (
    *(f"{name}_{end}" for end in "ab" for name in SIDE),
    *("task", "role", "kind", "unit", "n", "effect", "low", "high", "p", "q", "significant"),
)


def family(
    pairs: pd.DataFrame,
    tasks: Mapping[str, Task],
    frozen: Mapping[str, Frozen],
    parameters: Mapping[str, int],
    rules: Statistics,
) -> pd.DataFrame:
    """Return each model's base and frozen plan minus those of each larger model, at the reference
    quantizations.

    Args:
        pairs: what `comparisons.pairs` returns.
        frozen: model -> what `selection.freeze` made.
        parameters: model -> how many its base has.

    Returns:
        A row a task, two models ("a" is the smaller) and a plan of each, with q over all of them
        (Benjamini and Hochberg).
    """
    groups = {(model, BASE): "base" for model in frozen}
    groups |= {(model, record["frozen"]): "frozen" for model, record in frozen.items()}
    rows: list[dict[str, Any]] = []
    for pair in pairs.to_dict("records"):
        sides = [{name: pair[f"{name}_{end}"] for name in _NAMED} for end in "ab"]
        one, other = sides
        if one["model"] == other["model"] or any(
            (side["model"], side["plan"]) not in groups
            or side["quantization"] != frozen[side["model"]]["reference_quantization"]
            for side in sides
        ):
            continue
        effect, low, high = (pair[name] for name in ("effect", "low", "high"))
        if parameters[one["model"]] > parameters[other["model"]]:
            one, other, effect, low, high = other, one, -effect, -high, -low
        row: dict[str, Any] = {}
        for end, side in (("a", one), ("b", other)):
            model, plan = side["model"], side["plan"]
            values = (model, parameters[model], groups[model, plan], plan)
            row |= {f"{name}_{end}": value for name, value in zip(SIDE, values, strict=True)}
        row |= {name: pair[name] for name in ("task", "kind", "unit", "n", "p")}
        row |= {"role": tasks[pair["task"]].role, "effect": effect, "low": low, "high": high}
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["q"] = benjamini_hochberg(table["p"].astype(float)) if len(table) else np.nan
    return table.assign(significant=table["q"].astype(float) < rules.fdr)


_NAMED = ("model", "quantization", "plan")
