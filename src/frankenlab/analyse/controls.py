"""Does the choice of layers matter: a frozen plan against random plans of the same cost."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from frankenlab.analyse import error_budget
from frankenlab.analyse.comparisons import paired
from frankenlab.analyse.outcomes import UNITS, Outcomes, Task, outcomes
from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.verdicts import judge
from frankenlab.plans.plan import BASE

COLUMNS = (
    *("model", "quantization", "task", "role", "metric", "kind", "unit", "plan", "controls", "n"),
    *("effect", "low", "high", "verdict_low", "verdict_high", "p", "p_corrected", "level"),
    "verdict",
)
WORDS = {"improved": "better", "harmed": "worse"}


def against_controls(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    frozen: Mapping[str, str],
    rules: Statistics,
) -> pd.DataFrame:
    """Return each frozen plan minus the mean of its controls, where controls ran.

    Each document is compared with its mean over the controls. The tests have a budget of their own.

    Args:
        scores: of the confirm stage, all models.
        frozen: model -> frozen plan; every other plan but the base is a control.

    Returns:
        One row a model, quantization and task; "verdict" is better, worse or inconclusive.
    """
    cells: list[tuple[dict[str, str], Outcomes, list[str]]] = []
    keys = ["model", "quantization", "task"]
    for key, own in scores.groupby(keys, sort=False, observed=True):
        plan = frozen[key[0]]
        others = sorted(set(own["plan"]) - {BASE, plan})
        if others and plan in set(own["plan"]):
            metric = tasks[key[2]].metric
            cells.append((dict(zip(keys, key, strict=True)), outcomes(own, metric), others))
    level = error_budget.level(rules.alpha, "controls", len(cells))
    rows = []
    for cell, measured, others in cells:
        plan, task = frozen[cell["model"]], tasks[cell["task"]]
        mean = np.mean([measured.row(other) for other in others], axis=0)
        enough = error_budget.resamples(rules.resamples, level)
        found = paired((measured.row(plan) - mean)[None], measured, rules, enough)
        shown, (low, high) = judge(found, level, rules.margin), found.interval(0.95)
        rows.append(
            cell
            | {
                "role": task.role,
                "metric": task.metric,
                "kind": measured.kind,
                "unit": UNITS[measured.kind],
                "plan": plan,
                "controls": "; ".join(others),
                "n": len(measured.documents),
                "effect": found.effect[0],
                "low": low[0],
                "high": high[0],
                "verdict_low": shown.low[0],
                "verdict_high": shown.high[0],
                "p": found.p[0],
                "p_corrected": error_budget.corrected(found.p, rules.alpha, level)[0],
                "level": level,
                "verdict": WORDS.get(shown.verdict[0], "inconclusive"),
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))
