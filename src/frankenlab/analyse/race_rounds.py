"""A race round by round: which plans go on, and what the race saved."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pydantic import NonNegativeInt, PositiveInt
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.analyse.comparisons import concatenated
from frankenlab.analyse.outcomes import Task, outcomes
from frankenlab.analyse.paired_tests import by_cluster
from frankenlab.analyse.race_rule import Rule, Sample, stand
from frankenlab.analyse.selection import mean_effects
from frankenlab.plans.plan import BASE, parse
from frankenlab.plans.trie import layer_passes, plan_trie


class Dropped(TypedDict):
    """Why a round dropped a plan."""

    behind: float
    ahead_at_most: float


class Round(TypedDict):
    """The file that describes a round: what `decide` returns, with the model and the round."""

    model: str
    round: PositiveInt
    documents: dict[str, NonNegativeInt]
    passes: float
    leaders: list[str]
    leader: str
    kept: list[str]
    dropped: dict[str, Dropped]


def decide(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    limits: Mapping[str, tuple[int, int | None]],
    leaders: Sequence[str],
    rule: Rule,
    n_layers: int,
) -> dict[str, Any]:
    """Return what is written of a round: who leads, who goes on, and who was dropped and why.

    Args:
        scores: of one model, every plan on the same documents of a task.
        limits: task -> documents that the round asked for, and most documents of the stage, None
            where there is no limit.
        leaders: of earlier rounds.
    """
    # Where plans tie the first leads: the base, then the same one whatever the shards are.
    plans = sorted(scores["plan"].unique(), key=lambda plan: (plan != BASE, plan))
    by_task = dict(list(scores.groupby("task", sort=False, observed=True)))
    samples = [
        sample(rows, tasks[task].metric, plans, *limits[task]) for task, rows in by_task.items()
    ]
    safe = [plans.index(plan) for plan in dict.fromkeys([BASE, *leaders])]
    standing = stand(samples, rule, safe)
    leader = plans[standing.leader]
    return {
        "documents": {task: int(rows["document"].nunique()) for task, rows in by_task.items()},
        "passes": _passes(plans, n_layers),
        "leaders": list(dict.fromkeys([*leaders, leader])),
        "leader": leader,
        "kept": [plan for plan, kept in zip(plans, standing.kept, strict=True) if kept],
        "dropped": {
            plan: {"behind": round(float(behind), 3), "ahead_at_most": round(float(ahead), 3)}
            for plan, behind, ahead, kept in zip(
                plans, standing.behind, standing.ahead, standing.kept, strict=True
            )
            if not kept
        },
    }


def sample(
    scores: pd.DataFrame, metric: str, plans: Sequence[str], asked: int, total: int | None
) -> Sample:
    """Return what `plans` scored on one task in a round.

    Where the task has fewer documents than the round asked for, these are all.
    """
    measured = outcomes(scores, metric)
    order = [measured.plans.index(plan) for plan in plans]
    summed = by_cluster(measured.scores[order], measured.clusters)
    weights = by_cluster(measured.weights, measured.clusters)
    documents = len(measured.documents)
    most = documents if documents < asked else math.inf if total is None else total
    return Sample(summed, weights, most * weights.size / documents)


def dropped(records: Iterable[Round]) -> dict[str, int]:
    """Map each dropped plan to the round after which it was, from all rounds in order."""
    return {plan: number for number, record in enumerate(records, 1) for plan in record["dropped"]}


def all_rounds(
    records: Iterable[Round], table: pd.DataFrame, depths: Mapping[str, int]
) -> pd.DataFrame:
    """Return the rounds of every model's race, a row each; columns as `rounds` has them.

    Args:
        records: of the rounds of all models, each with its model and round.
        table: comparisons of all stages and models.
        depths: model -> its number of layers.
    """
    records = sorted(records, key=lambda record: record["round"])
    found = []
    for model, n_layers in depths.items():
        search = table[(table["model"] == model) & (table["stage"] == "search")]
        own = rounds([r for r in records if r["model"] == model], search, n_layers)
        own.insert(0, "model", model)
        own.insert(1, "quantization", search["quantization"].iloc[0])
        found.append(own)
    return concatenated(found)


def rounds(records: Sequence[Round], table: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    """Return a row for each round of one model's race.

    Args:
        records: of the rounds that dropped plans, in order.
        table: comparisons of the search stage of the same model.

    Returns:
        Columns round, documents (of all tasks together, seen by a plan after the round), plans
        (that ran in it, the base among them), dropped (after it), leader, passes (layer passes of
        those plans for each token, common prefixes once), share (of an exhaustive search's passes,
        counted by documents, up to and with the round).
    """
    entered = [set(table["plan"]), *(set(record["kept"]) for record in records)]
    last = table[(table["plan"] == BASE) & (table["role"] == "search")]
    best = mean_effects(table[table["dropped"].isna()])
    ahead = len(best) and best["mean_effect"].iloc[0] > 0
    passes = [*(record["passes"] for record in records), _passes(entered[-1], n_layers)]
    documents = [*(sum(r["documents"].values()) for r in records), int(last["n"].sum())]
    new = np.diff([0, *documents])
    return pd.DataFrame(
        {
            "round": np.arange(1, len(passes) + 1),
            "documents": documents,
            "plans": [len(plans) for plans in entered],
            "dropped": [*(len(record["dropped"]) for record in records), 0],
            "leader": [*(r["leader"] for r in records), best["plan"].iloc[0] if ahead else BASE],
            "passes": passes,
            "share": np.cumsum(new * passes) / (documents[-1] * passes[0]),
        }
    )


def _passes(plans: Iterable[str], n_layers: int) -> float:
    return layer_passes(plan_trie(parse(text, n_layers) for text in plans))
