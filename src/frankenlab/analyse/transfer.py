"""The frozen plan of each model on the other models, at the same shares of the depth.

Signs and units are those of `comparisons`. All of it is exploration, without verdicts.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from frankenlab.analyse.across import Cell
from frankenlab.analyse.outcomes import Task
from frankenlab.analyse.paired_tests import benjamini_hochberg
from frankenlab.analyse.selection import Frozen
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import parse
from frankenlab.plans.relative import transferred

COLUMNS = (
    *("model", "quantization", "source", "original", "plan", "own", "stage", "task", "role"),
    *("metric", "kind", "unit", "n", "effect", "low", "high", "difference", "difference_low"),
    *("difference_high", "p", "q", "significant"),
)


class Transfer(NamedTuple):
    """A plan that was frozen on the model `source`, as another model runs it."""

    source: str
    plan: str


def transfers(frozen: Mapping[str, Frozen], depths: Mapping[str, int]) -> dict[str, list[Transfer]]:
    """Return for each model the frozen plans of the others, as far as it has their counterparts.

    Args:
        frozen: model -> what `selection.freeze` made.
        depths: model -> its number of layers.
    """
    plans = {model: parse(record["frozen"], depths[model]) for model, record in frozen.items()}
    found: dict[str, list[Transfer]] = {}
    for model in frozen:
        moved = {
            source: transferred(plan, depths[model])
            for source, plan in plans.items()
            if source != model
        }
        found[model] = [Transfer(source, plan.text) for source, plan in moved.items() if plan]
    return found


def transfer(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    frozen: Mapping[str, Frozen],
    depths: Mapping[str, int],
    rules: Statistics,
) -> pd.DataFrame:
    """Return the effects of each model's own frozen plan and of those of the other models, on each
    task at its reference quantization.

    Args:
        scores: of the confirm stage, all models.
        frozen: model -> what `selection.freeze` made.
        depths: model -> its number of layers.

    Returns:
        `source` is the model on which `original` was frozen; `plan` is that plan on this model.
        `difference` is its effect minus that of the model's own plan, paired by document, with its
        95 % interval, p and q over all of the table (Benjamini and Hochberg); it is 0, without p,
        where both are the same plan.
    """
    rows: list[dict[str, Any]] = []
    for model, moved in transfers(frozen, depths).items():
        record = frozen[model]
        at = scores[
            (scores["model"] == model)
            & (scores["quantization"] == record["reference_quantization"])
        ]
        for task, own_rows in at.groupby("task", sort=False, observed=True):
            cell = Cell(own_rows, tasks[str(task)])
            own = cell.gained([record["frozen"]])
            for source, plan in [Transfer(model, record["frozen"]), *moved]:
                gained = cell.gained([plan])
                if gained is None or own is None:
                    continue
                effect = gained.paired(rules)
                (low,), (high,) = effect.interval(0.95)
                row = cell.facts | {
                    "source": source,
                    "original": frozen[source]["frozen"],
                    "plan": plan,
                    "own": record["frozen"],
                    "n": len(gained.measured.documents),
                    "effect": effect.effect[0],
                    "low": low,
                    "high": high,
                    **dict.fromkeys(("difference", "difference_low", "difference_high"), 0.0),
                    "p": np.nan,
                }
                compared = gained.minus(own, rules) if plan != record["frozen"] else None
                if compared is not None:
                    (low,), (high,) = compared[1].interval(0.95)
                    row |= {
                        "difference": compared[1].effect[0],
                        "difference_low": low,
                        "difference_high": high,
                        "p": compared[1].p[0],
                    }
                rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["q"] = benjamini_hochberg(table["p"].astype(float))
    return table.assign(significant=table["q"].astype(float) < rules.fdr)
