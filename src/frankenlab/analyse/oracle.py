"""Say what an oracle would get that picks the best plan for each document, and what the same oracle
gets from other prompts of the base: nobody can pick like that, and luck alone makes it large."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy

from frankenlab.analyse.comparisons import paired
from frankenlab.analyse.gains import seen_by
from frankenlab.analyse.outcomes import UNITS, Outcomes, Task, metric_value, outcomes
from frankenlab.analyse.paired_tests import Floats
from frankenlab.analyse.prompts import OWN, Variants, by_prompt, confirmed
from frankenlab.analyse.selection import Frozen
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import BASE

PLANS, PROMPTS = "plans", "prompts"
COLUMNS = (
    *("model", "quantization", "stage", "task", "role", "metric", "kind", "unit", "set", "k"),
    *("options", "n", "base_value", "best_value", "best", "oracle_value", "gain", "low", "high"),
    *("more", "more_low", "more_high"),
)
# Numbers of options that have a row each; beyond them there is one for all options.
MOST_STEPS = 8


def oracle(
    scores: pd.DataFrame,
    prompted: pd.DataFrame,
    variants: Variants,
    tasks: Mapping[str, Task],
    frozen: Mapping[str, Frozen],
    rules: Statistics,
) -> pd.DataFrame:
    """Return what an oracle gains over the base that has it and `k` other options for each
    document, and always takes the best: plans, or the base under other prompts.

    With fewer than all options it is the mean over all choices of `k` of them, so that plans and
    prompts can be compared at the same `k`. The plans of confirm are those that ran beside the base
    there, those of the search all that saw every document.

    Args:
        scores: of the stages search and confirm, all models.
        prompted, variants, frozen: see `prompts.prompts`.

    Returns:
        Of each set the best single one on the same documents, which chose it, the oracle, and its
        gain with a 95 % interval. `more` is what plans gain beyond as many prompts; NaN where none
        ran.
    """
    rows: list[dict[str, Any]] = []
    for model, record in frozen.items():
        where = {"model": model, "quantization": record["reference_quantization"]}
        at = scores[(scores[list(where)] == list(where.values())).all(axis=1)]
        for (stage, task), own in at.groupby(["stage", "task"], sort=False, observed=True):
            metric = tasks[task].metric
            others: Floats | None = None
            if stage == "confirm":
                measured = by_prompt(own, prompted, variants, where, task, metric)
                whole = measured.pop(OWN)
                plans = list(confirmed(record, whole))
                if measured:
                    others = np.array([each.row(BASE) for each in measured.values()])
            else:
                whole, plans = _searched(own, metric)
            if not plans:
                continue
            cell = where | {"stage": stage, "task": task, "role": tasks[task].role}
            cell |= {"metric": metric, "kind": whole.kind, "unit": UNITS[whole.kind]}
            options = np.array([whole.row(plan) for plan in plans])
            rows += [cell | row for row in _rows(options, others, whole, metric, rules)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _searched(scores: pd.DataFrame, metric: str) -> tuple[Outcomes, list[str]]:
    """Return the outcomes of a search on one task, and the plans that saw every document."""
    scores = scores.drop_duplicates(["plan", "document"])
    plans = [plan for plan in scores["plan"].unique() if plan != BASE]
    seen = seen_by(scores, plans)
    whole = [plan for plan, documents in zip(plans, seen, strict=True) if documents.all()]
    return outcomes(scores, metric), whole


def _rows(
    options: Floats, others: Floats | None, measured: Outcomes, metric: str, rules: Statistics
) -> list[dict[str, Any]]:
    """Return the rows of one task: of plans, and of the base's other prompts where there are any.

    Args:
        options, others: [options, documents] scores of the plans, and of the base's other prompts.
    """
    base, total, rows = measured.row(BASE), measured.weights.sum(), []
    sets = {PLANS: options} | ({} if others is None else {PROMPTS: others})
    whole = {name: scores.sum(axis=1) / total for name, scores in sets.items()}
    for name, scores in sets.items():
        count = len(scores)
        for k in sorted({*range(1, min(count, MOST_STEPS) + 1), count}):
            best, single = best_of(scores, base, k), best_of(whole[name], base.sum() / total, k)
            row: dict[str, Any] = {
                "set": name,
                "k": k,
                "options": count,
                "n": len(base),
                "base_value": metric_value(base, measured, metric),
                "best_value": metric_value(np.full(1, single * total), measured, metric),
                "best": 100 * (single - base.sum() / total),
                "oracle_value": metric_value(best, measured, metric),
                **_interval(best - base, measured, rules, ("gain", "low", "high")),
            }
            if name == PLANS and others is not None and k <= len(others):
                apart, names = best - best_of(others, base, k), ("more", "more_low", "more_high")
                row |= _interval(apart, measured, rules, names)
            rows.append(row)
    return rows


def best_of(options: Floats, base: Floats | float, k: int) -> Floats:
    """Return the best score [...] of the base and of `k` options, on average over all choices of
    `k` of the options [options, ...]."""
    rising = np.sort(np.maximum(options - base, 0), axis=0)
    below = np.arange(len(options))
    # The chance that the highest of those chosen is each: as many ways to choose from below it.
    logs = _log_choices(below, k - 1) - _log_choices(np.array(len(options)), k)
    found: Floats = base + np.tensordot(np.exp(logs), rising, axes=1)
    return found


def _log_choices(count: Any, k: int) -> Floats:
    """Return the logarithm of the number of choices of k of `count`."""
    few = count < k
    rest = np.where(few, 0, count - k)
    logs = (
        scipy.special.gammaln(count + 1)
        - scipy.special.gammaln(k + 1)
        - scipy.special.gammaln(rest + 1)
    )
    return np.where(few, -np.inf, logs)


def _interval(
    differences: Floats, measured: Outcomes, rules: Statistics, names: tuple[str, str, str]
) -> dict[str, float]:
    found = paired(differences[None], measured, rules)
    low, high = found.interval(0.95)
    return dict(zip(names, (found.effect[0], low[0], high[0]), strict=True))
