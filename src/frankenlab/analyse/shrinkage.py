"""The way of the frozen plan through the stages, with estimates that are shrunk for its luck.

The best of many plans is partly lucky, and its effect on the documents that chose it is too high.
Empirical Bayes (Efron and Morris 1975; Morris 1983) takes the plans' true effects as a normal
sample, whose mean and spread all plans of the search tell, and gives each plan's true effect from
that and from what was measured. The choice of the plan biases this no further: it depends on
nothing but the data.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from frankenlab.analyse.gains import Gains, gains, mean_gains, mean_limits
from frankenlab.analyse.outcomes import Task
from frankenlab.analyse.paired_tests import Floats
from frankenlab.analyse.selection import Frozen
from frankenlab.plans.plan import BASE

COLUMNS = (
    *("model", "quantization", "plan", "group", "stage", "n", "effect", "low", "high"),
    *("shrunken", "shrunken_low", "shrunken_high"),
)
# Standard deviations of a normal distribution to the limits of its 95 % interval.
Z95 = 1.959963984540054
# Spreads of the true effects that are averaged over.
SPREADS = 21
# Least standard error, of plans that all do the same to every passage.
TINY = 1e-6
# Most plans of a search whose effects are shrunk one by one: time and memory grow with the cube and
# the square of their number, and these take two minutes and a gigabyte.
MOST_PLANS = 4000
# Most of a plan's standard error that is common to all plans.
MOST_COMMON = 0.9


@dataclass(frozen=True, eq=False)
class Measured:
    """Mean effects over the search tasks, as one stage measured them.

    Attributes:
        plans: [measured] their numbers.
        effects: [measured] in points or log-percent.
        covariance: [measured, measured] of their errors.
    """

    plans: NDArray[np.intp]
    effects: Floats
    covariance: Floats


def measure(tasks: Sequence[Gains], plans: Sequence[int]) -> Measured:
    """Return what a stage measured, with the errors' covariance.

    Plans that saw equally many documents have the same error, the median of their own: a plan that
    harms much flips many answers, so that its own error is large. If that counted, the mean of the
    true effects would be that of the plans that change little.

    Plans share the base and the documents: documents on which the base is unlucky lift all of them.
    This common error has the mean covariance of the plans that saw all documents, and no plan has
    more of it than most of its own error. What a race showed a plan of fewer documents has the
    common error of these.

    Args:
        tasks: the gains of the same plans on each task.
        plans: their numbers.
    """
    effects, errors = mean_gains(tasks)
    seen = np.sum([task.clusters for task in tasks], axis=0)
    usual = np.nanmedian(errors * np.sqrt(seen)) / np.sqrt(seen)
    # Plans that change no answer have no spread, but might have changed the next one.
    least = 100 / seen if all(map(_counts, tasks)) else TINY
    errors = np.maximum(usual, least)
    parts = np.hstack([task.residuals[seen == seen.max()] for task in tasks])
    common = np.sqrt(_mean_covariance(100 / len(tasks) * parts))
    shared = np.minimum(common * np.sqrt(seen.max() / seen), MOST_COMMON * errors)
    order = np.sqrt(np.minimum.outer(seen, seen) / np.maximum.outer(seen, seen))
    covariance = order * np.outer(shared, shared)
    np.fill_diagonal(covariance, errors**2)
    return Measured(np.asarray(plans), effects, covariance)


def _counts(task: Gains) -> bool:
    """Tell whether all gains are numbers of documents that turned right or wrong."""
    values = task.values[np.isfinite(task.values)]
    return bool((values == np.rint(values)).all())


def _mean_covariance(parts: Floats) -> float:
    """Return the mean covariance of two sums over the columns, at least 0, from what each column
    [plans, columns] adds to them."""
    parts = parts[np.isfinite(parts).all(axis=1)]
    count = len(parts)
    if count < 2:
        return 0.0
    # The square of the total holds each pair twice, and each plan with itself.
    pairs = (parts.sum(axis=0) ** 2).sum() - (parts**2).sum()
    return float(max(0.0, pairs / (count * (count - 1))))


def shrunken(stages: Sequence[Measured], count: int) -> tuple[Floats, Floats]:
    """Return the mean and the standard deviation [plans] of each plan's true effect.

    True effects are normal with a mean and a spread of which nothing is known beforehand. Every
    spread counts with the likelihood that it has for what was measured (as REML does), so that its
    uncertainty is in the result. Each plan may be an exception, with a chance of 1 in `count`: its
    effect is then as far from the others' as the farthest was measured to be (Box and Tiao 1968).
    Without that, one good plan among many bad ones would be taken for luck however good it was.

    Args:
        stages: the first has all plans; the documents of stages are disjoint.
        count: of plans.
    """
    plans = np.concatenate([stage.plans for stage in stages])
    effects = np.concatenate([stage.effects for stage in stages])
    errors = scipy.linalg.block_diag(*(stage.covariance for stage in stages))
    known = np.isfinite(effects)
    plans, effects, errors = plans[known], effects[known], errors[np.ix_(known, known)]
    spread = stages[0].effects[np.isfinite(stages[0].effects)].std()
    centre = effects.mean()
    y = effects - centre
    far = max(float(np.abs(y).max()), 1.0) ** 2
    of_plan = np.eye(count)[plans]
    logs, means, variances = [], [], []
    for tau in np.linspace(0, 2 * spread, SPREADS):
        # A mean of which nothing is known is one with a very large variance.
        prior = 1e4 * far + tau**2 * np.eye(count)
        seen = prior[plans]
        factor = scipy.linalg.cho_factor(seen[:, plans] + errors, lower=True)
        solved, by_plan = scipy.linalg.cho_solve(factor, y), scipy.linalg.cho_solve(factor, of_plan)
        log = -np.log(np.diag(factor[0])).sum() - y @ solved / 2
        mean = centre + seen.T @ solved
        variance = np.diag(prior) - (seen * (by_plan @ prior)).sum(axis=0)
        # What an exception adds to a plan's own effect: its mean, variance and likelihood.
        room = 1 + far * (of_plan * by_plan).sum(axis=0)
        shift = far * (of_plan.T @ solved) / room
        own = 1 - (seen * by_plan).sum(axis=0)
        logs += [np.full(count, log), log + (shift**2 * room / far - np.log(room)) / 2]
        means += [mean, mean + own * shift]
        variances += [variance, variance + own**2 * far / room]
    chance = np.tile([1 - 1 / count, 1 / count], SPREADS)[:, None]
    weight = chance * np.exp(np.array(logs) - np.max(logs, axis=0))
    weight /= weight.sum(axis=0)
    mean = (weight * means).sum(axis=0)
    variance = (weight * (np.array(variances) + (np.array(means) - mean) ** 2)).sum(axis=0)
    return mean, np.sqrt(np.maximum(variance, 0))


def limits(mean: Floats, deviation: Floats) -> dict[str, Floats]:
    """Return the columns of shrunken effects: each with the limits of its 95 % interval."""
    ends = {"shrunken_low": mean - Z95 * deviation, "shrunken_high": mean + Z95 * deviation}
    return {"shrunken": mean, **ends}


def with_shrunken(
    compared: pd.DataFrame,
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    grown: Collection[str] = (),
) -> pd.DataFrame:
    """Add to the comparisons of a search each plan's shrunken effect on each task, with its limits.

    What a race dropped was seen on fewer documents, so that less of its own effect is left. The
    base has none, and searches of more than `MOST_PLANS` plans have none at all.

    Args:
        scores: of the search of one model, all its rounds.
        grown: plans that were grown on the way, which are no sample: the grid's are shrunk as if
            there were none of them, and they as if they were of the grid.
    """
    scores = scores.drop_duplicates(["quantization", "task", "plan", "document"])
    tables = []
    for (quantization, task), rows in scores.groupby(
        ["quantization", "task"], sort=False, observed=True
    ):
        plans = [plan for plan in rows["plan"].unique() if plan != BASE]
        grid = np.array([plan not in grown for plan in plans])
        estimates = np.full((2, len(plans)), np.nan)
        for own in [grid] if grid.all() else [~np.zeros_like(grid), grid]:
            if len(plans) <= MOST_PLANS:
                named = [plan for plan, used in zip(plans, own, strict=True) if used]
                stage = measure([gains(rows, tasks[task].metric, named)], range(len(named)))
                estimates[:, own] = shrunken([stage], len(named))
        where = {"quantization": quantization, "task": task, "plan": plans}
        tables.append(pd.DataFrame(where | limits(*estimates)))
    keys = ["quantization", "task", "plan"]
    return compared.merge(pd.concat(tables), how="left", on=keys, validate="one_to_one")


def paths(
    compared: pd.DataFrame,
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    frozen: Mapping[str, Frozen],
    grown: Mapping[str, Collection[str]] | None = None,
) -> pd.DataFrame:
    """Return the mean effects over the search tasks of each model's frozen plan in all stages, and
    of the other plans of the shortlist in search and select; of the finalists in confirm as well.

    Args:
        compared: comparisons of all stages and models.
        scores: of the stages search and select, all models.
        frozen: model -> what `selection.freeze` made.
        grown: model -> plans that were grown on the way (see `with_shrunken`).
    """
    rows: list[dict[str, Any]] = []
    for model, record in frozen.items():
        where = {"model": model, "quantization": record["reference_quantization"]}
        own = scores[(scores[list(where)] == list(where.values())).all(axis=1)]
        at = compared[(compared[list(where)] == list(where.values())).all(axis=1)]
        at = at[at["role"] == "search"]
        estimates = _estimates(own, tasks)
        added = own["plan"].isin((grown or {}).get(model, ()))
        if added.any():
            for stage, table in _estimates(own[~added], tasks).items():
                estimates[stage].update(table)
        ends = estimates["select"].sort_values("shrunken", ascending=False)
        others = [plan for plan in ends.index if plan != record["frozen"]]
        for plan in [record["frozen"], *others]:
            group = "runner-up" if plan in others else "frozen"
            for stage in ("search", "select", "confirm"):
                found = at[(at["stage"] == stage) & (at["plan"] == plan)]
                if found.empty:
                    continue
                low, high = mean_limits(found["effect"], found["low"], found["high"])
                rows.append(
                    {
                        **where,
                        "plan": plan,
                        "group": group,
                        "stage": stage,
                        "n": int(found["n"].sum()),
                        "effect": found["effect"].mean(),
                        "low": low,
                        "high": high,
                        **(estimates[stage].loc[plan] if stage in estimates else {}),
                    }
                )
    return pd.DataFrame(rows, columns=COLUMNS)


def _estimates(scores: pd.DataFrame, tasks: Mapping[str, Task]) -> dict[str, pd.DataFrame]:
    """Return shrunken effects with their limits by plan: after search, and after select for the
    plans that it ran."""
    stages: list[Measured] = []
    numbers: dict[str, int] = {}
    found = {}
    for stage in ("search", "select"):
        own = scores[scores["stage"] == stage].drop_duplicates(["task", "plan", "document"])
        plans = [plan for plan in own["plan"].unique() if plan != BASE]
        if not plans:  # All of the shortlist were grown.
            continue
        numbers = numbers or {plan: number for number, plan in enumerate(plans)}
        measured = [
            gains(rows, tasks[str(name)].metric, plans)
            for name, rows in own.groupby("task", sort=False, observed=True)
        ]
        stages.append(measure(measured, [numbers[plan] for plan in plans]))
        table = pd.DataFrame(limits(*shrunken(stages, len(numbers))), index=list(numbers))
        found[stage] = table.loc[plans]
    return found
