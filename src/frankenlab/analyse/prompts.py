"""Compare the confirmed plans with the base under each prompt, and say how much the prompt matters.

This is exploration: there are intervals, and no verdicts. Those are on each task's own prompt.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy

from frankenlab.analyse.comparisons import compare
from frankenlab.analyse.outcomes import UNITS, Outcomes, Task, metric_value, outcomes
from frankenlab.analyse.paired_tests import Floats, by_cluster, standard_error
from frankenlab.analyse.selection import Frozen
from frankenlab.analyse.settings import Statistics
from frankenlab.models.franken import CONTROL, FINALIST
from frankenlab.plans.plan import BASE

# The name of a task's own prompt.
OWN = "own"
COLUMNS = (
    *("model", "quantization", "task", "role", "metric", "kind", "unit", "prompt", "plan", "group"),
    *("n", "base_value", "value", "effect", "low", "high", "standard_error", "prompts"),
    *("mean", "spread", "spread_low", "spread_high", "noise", "spread_p"),
)
# This maps the name that a task under a prompt has in the scores to the task and the prompt.
Variants = Mapping[str, tuple[str, str]]


class Spread(NamedTuple):
    """The standard deviation of an effect between prompts, with the limits of its 95 % interval.

    `noise` is the standard deviation that the documents alone would give, and `p` that of the
    hypothesis that they are all there is.
    """

    deviation: float
    low: float
    high: float
    noise: float
    p: float


def prompts(
    scores: pd.DataFrame,
    prompted: pd.DataFrame,
    variants: Variants,
    tasks: Mapping[str, Task],
    frozen: Mapping[str, Frozen],
    rules: Statistics,
) -> pd.DataFrame:
    """Return the effect of each confirmed plan under each prompt, on the documents that all prompts
    of the task have, at the reference quantizations.

    Args:
        scores: of the confirm stage, all models.
        prompted: of the same plans under other prompts; `task` is a name in `variants`.
        variants: name -> task and prompt.
        frozen: model -> what `selection.freeze` made.

    Returns:
        A row a plan and prompt. `mean` is the plan's mean effect over the prompts, `spread` the
        standard deviation between them (see `spread`).
    """
    rows: list[dict[str, Any]] = []
    for model, record in frozen.items():
        where = {"model": model, "quantization": record["reference_quantization"]}
        for task in dict.fromkeys(task for task, _ in variants.values()):
            cell = where | {"task": task, "role": tasks[task].role, "metric": tasks[task].metric}
            measured = by_prompt(scores, prompted, variants, where, task, tasks[task].metric)
            plans = confirmed(record, measured[OWN])
            differences = {
                prompt: np.array([own.row(plan) - own.row(BASE) for plan in plans])
                for prompt, own in measured.items()
            }
            compared = {p: compare(differences[p], measured[p], rules) for p in measured}
            for place, (plan, group) in enumerate(plans.items()):
                found = spread([differences[p][place] for p in measured], measured[OWN])
                effects = [compared[p]["effect"].iloc[place] for p in measured]
                rows += [
                    {
                        **cell,
                        "kind": own.kind,
                        "unit": UNITS[own.kind],
                        "prompt": prompt,
                        "plan": plan,
                        "group": group,
                        "n": len(own.documents),
                        "base_value": metric_value(own.row(BASE), own, cell["metric"]),
                        "value": metric_value(own.row(plan), own, cell["metric"]),
                        **compared[prompt].iloc[place],
                        "prompts": len(measured),
                        "mean": float(np.mean(effects)),
                        **dict(zip(COLUMNS[-5:], found, strict=True)),
                    }
                    for prompt, own in measured.items()
                ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def by_prompt(
    scores: pd.DataFrame,
    prompted: pd.DataFrame,
    variants: Variants,
    where: Mapping[str, str],
    task: str,
    metric: str,
) -> dict[str, Outcomes]:
    """Return a task's outcomes under each of its prompts, the task's own first, on the documents
    that all of them have: those that one shows as worked examples are left out."""
    parts = {OWN: _at(scores, {**where, "task": task})}
    for name, (own, prompt) in variants.items():
        if own == task:
            parts[prompt] = _at(prompted, {**where, "task": name})
    measured = {prompt: outcomes(part, metric) for prompt, part in parts.items()}
    common = reduce(np.intersect1d, (each.documents for each in measured.values()))
    return {p: each.at(np.isin(each.documents, common)) for p, each in measured.items()}


def confirmed(record: Frozen, measured: Outcomes) -> dict[str, str]:
    """Return plan -> group of the confirmed plans that ran: frozen, then finalists, controls."""
    groups = {record["frozen"]: "frozen"}
    groups |= dict.fromkeys(record.get("finalists", ()), FINALIST)
    groups |= dict.fromkeys(record["controls"], CONTROL)
    return {plan: group for plan, group in groups.items() if plan in measured.plans}


def spread(differences: Sequence[Floats], measured: Outcomes) -> Spread:
    """Return the standard deviation between prompts of an effect, from what a plan gained on each
    document under each of them: a variance component, from which the documents' noise is taken.

    All prompts have the same documents, so that a document on which a plan gains under every prompt
    is no noise between them. The square of the difference of two prompts' effects is on average
    twice the variance between prompts, and the square of that difference's standard error.

    The interval takes the prompts as a sample of all that one could write, with normal effects, and
    the noise as known: the observed variance over the true one is then chi-squared with one degree
    of freedom fewer than prompts. An observed variance below the noise counts as the noise, without
    which a lucky one would give an interval that is too narrow, or empty.
    """
    values = by_cluster(np.array(differences), measured.clusters)
    weights = by_cluster(measured.weights, measured.clusters)
    effects = 100 * values.sum(axis=1) / weights.sum()
    pairs = list(combinations(range(len(values)), 2))
    apart = np.array([values[a] - values[b] for a, b in pairs])
    noise = float(np.mean((100 * standard_error(apart, weights)) ** 2) / 2)
    observed, df = float(effects.var(ddof=1)), len(effects) - 1
    low, high = (
        max(0.0, df * variance / scipy.stats.chi2.ppf(tail, df) - noise)
        for variance, tail in ((observed, 0.975), (max(observed, noise), 0.025))
    )
    p = float(scipy.stats.chi2.sf(df * observed / noise, df)) if noise > 0 else float(observed == 0)
    if measured.kind == "mean":
        # No effect in points is beyond 100.
        high = min(high, 100.0**2)
    deviation = max(0.0, observed - noise)
    root = [float(np.sqrt(variance)) for variance in (deviation, low, high, noise)]
    return Spread(root[0], root[1], root[2], root[3], p)


def _at(rows: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
    return rows[(rows[list(where)] == list(where.values())).all(axis=1)]
