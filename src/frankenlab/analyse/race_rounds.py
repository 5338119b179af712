"""A search round by round: which plans go on, which are grown, and what a race saved."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from frankenlab.plans.growth import grow
from frankenlab.plans.plan import BASE, Plan, parse
from frankenlab.plans.trie import layer_passes, plan_trie


class Dropped(TypedDict):
    """Why a round dropped a plan."""

    behind: float
    ahead_at_most: float


class Grown(TypedDict):
    """A plan that was grown after a round (see `plans.growth`): `parent` is the plan that it was
    grown from, and `other` the one whose change it has besides, "" where it has a part of its
    parent's."""

    plan: str
    parent: str
    other: str
    round: PositiveInt


class Round(TypedDict):
    """The file that describes a round: what `decide` returns, with the model and the round.

    `grown` has the plans of all rounds so far; `kept` those that were grown after this one too.
    """

    model: str
    round: PositiveInt
    documents: dict[str, NonNegativeInt]
    passes: float
    leaders: list[str]
    leader: str
    kept: list[str]
    dropped: dict[str, Dropped]
    grown: list[Grown]


@dataclass(frozen=True)
class Step:
    """A step of the beam, after a round.

    Attributes:
        round: after which it is made.
        known: plans of the grid, which are not made again.
        width, most: as `plans.growth.grow` has them.
    """

    round: int
    known: Sequence[Plan]
    width: int
    most: int


def decide(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    limits: Mapping[str, tuple[int, int | None]],
    leaders: Sequence[str],
    rule: Rule,
    n_layers: int,
    grown: Sequence[Grown] = (),
    step: Step | None = None,
) -> dict[str, Any]:
    """Return what is written of a round: who leads, who goes on, who was dropped and why, and what
    was grown.

    Args:
        scores: of one model, every plan on the same documents of a task.
        limits: task -> documents that the round asked for, and most documents of the stage, None
            where there is no limit.
        leaders: of earlier rounds.
        grown: in earlier rounds.
        step: of the beam that follows the round; None where none does.
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
    order = np.argsort(standing.behind, kind="stable")
    # The best plan of the grid stays: of plans that were grown no test of the search is made.
    others = {BASE, *(item["plan"] for item in grown)}
    standing.kept[[i for i in order if plans[i] not in others][:1]] = True
    kept = [plan for plan, kept in zip(plans, standing.kept, strict=True) if kept]
    ranked = [parse(plans[i], n_layers) for i in order if standing.kept[i]]
    new = _grown(ranked, grown, step) if step else []
    return {
        "documents": {task: int(rows["document"].nunique()) for task, rows in by_task.items()},
        "passes": _passes(plans, n_layers),
        "leaders": list(dict.fromkeys([*leaders, leader])),
        "leader": leader,
        "kept": [*kept, *(item["plan"] for item in new)],
        "dropped": {
            plan: {"behind": round(float(behind), 3), "ahead_at_most": round(float(ahead), 3)}
            for plan, behind, ahead, kept in zip(
                plans, standing.behind, standing.ahead, standing.kept, strict=True
            )
            if not kept
        },
        "grown": [*grown, *new],
    }


def _grown(ranked: Sequence[Plan], before: Sequence[Grown], step: Step) -> list[Grown]:
    """Return what a step of the beam grows.

    Args:
        ranked: the plans that go on, best first.
        before: grown in earlier rounds.
    """
    known = {*step.known, *(parse(item["plan"], ranked[0].n_layers) for item in before)}
    return [
        {
            "plan": child.plan.text,
            "parent": child.parent.text,
            "other": child.other.text if child.other else "",
            "round": step.round,
        }
        for child in grow(ranked, known, step.width, step.most)
    ]


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


def all_grown(records: Iterable[Round]) -> list[Grown]:
    """Return the plans that were grown in the rounds of a search, given in any order."""
    return max((record["grown"] for record in records), key=len, default=[])


def grown_plans(records: Iterable[Round]) -> dict[str, set[str]]:
    """Map each model that has rounds to the plans that were grown in them."""
    found: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(record["model"], set()).update(item["plan"] for item in record["grown"])
    return found


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
        (that ran in it, the base among them), dropped and grown (after it), leader, passes (layer
        passes of those plans for each token, common prefixes once), share (of the passes that an
        exhaustive search of the grid takes, counted by documents, up to and with the round).
    """
    grown = all_grown(records)
    new = [
        {item["plan"] for item in grown if item["round"] == number}
        for number in range(len(records) + 1)
    ]
    grid = set(table["plan"]) - {item["plan"] for item in grown}
    entered = [grid, *(set(record["kept"]) for record in records)]
    last = table[(table["plan"] == BASE) & (table["role"] == "search")]
    best = mean_effects(table[table["dropped"].isna()])
    ahead = len(best) and best["mean_effect"].iloc[0] > 0
    passes = [*(record["passes"] for record in records), _passes(entered[-1], n_layers)]
    documents = [*(sum(r["documents"].values()) for r in records), int(last["n"].sum())]
    # Grown plans begin with the documents that the others have seen.
    work = np.diff([0, *documents]) * passes
    for number, added in enumerate(new[1:], 1):
        work[number] += documents[number - 1] * _passes(added, n_layers) if added else 0.0
    return pd.DataFrame(
        {
            "round": np.arange(1, len(passes) + 1),
            "documents": documents,
            "plans": [len(plans) for plans in entered],
            "dropped": [*(len(record["dropped"]) for record in records), 0],
            "grown": [*map(len, new[1:]), 0],
            "leader": [*(r["leader"] for r in records), best["plan"].iloc[0] if ahead else BASE],
            "passes": passes,
            "share": np.cumsum(work) / (documents[-1] * passes[0]),
        }
    )


def _passes(plans: Iterable[str], n_layers: int) -> float:
    return layer_passes(plan_trie(parse(text, n_layers) for text in plans))
