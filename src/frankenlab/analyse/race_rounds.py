"""A race round by round: score tables -> which plans go on, and what the race saved."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pydantic import NonNegativeInt, PositiveInt
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.analyse import paired_tests as statistics
from frankenlab.analyse import race_rule as racing
from frankenlab.analyse.comparisons import mean_effects
from frankenlab.analyse.outcomes import outcomes
from frankenlab.plans.plan import BASE, parse
from frankenlab.plans.trie import layer_passes, plan_trie


class Dropped(TypedDict):
    """Why a round dropped a plan."""

    behind: float
    ahead_at_most: float


class Round(TypedDict):
    """The file that describes a round: what `record` returns, with the model and the round."""

    model: str
    round: PositiveInt
    documents: dict[str, NonNegativeInt]
    passes: float
    leaders: list[str]
    leader: str
    kept: list[str]
    dropped: dict[str, Dropped]


def sample(
    scores: pd.DataFrame, metric: str, plans: Sequence[str], asked: int, total: int | None
) -> racing.Sample:
    """What `plans` scored on one task in a round, for `racing.stand`.

    Args:
        scores: of one task, every plan on the same documents.
        asked: documents that the round asked for; where the task has fewer, these are all.
        total: most documents of the stage, None where there is no limit.
    """
    measured = outcomes(scores, metric)
    order = [measured.plans.index(plan) for plan in plans]
    summed = statistics.by_cluster(measured.scores[order], measured.clusters)
    weights = statistics.by_cluster(measured.weights, measured.clusters)
    documents = len(measured.documents)
    left = documents if documents < asked else math.inf if total is None else total
    return racing.Sample(summed, weights, left * weights.size / documents)


def record(
    samples: Mapping[str, racing.Sample],
    documents: Mapping[str, int],
    plans: Sequence[str],
    leaders: Sequence[str],
    rule: racing.Rule,
    n_layers: int,
) -> dict[str, Any]:
    """A round, JSON-able: who entered, who leads, who goes on, and who was dropped and why.

    Args:
        samples: task -> sample of `plans`.
        documents: task -> documents seen so far.
        leaders: of earlier rounds.
    """
    safe = [plans.index(plan) for plan in dict.fromkeys([BASE, *leaders])]
    stood = racing.stand(list(samples.values()), rule, safe)
    leader = plans[stood.leader]
    return {
        "documents": dict(documents),
        "passes": layer_passes(plan_trie(parse(text, n_layers) for text in plans)),
        "leaders": list(dict.fromkeys([*leaders, leader])),
        "leader": leader,
        "kept": [plan for plan, kept in zip(plans, stood.kept, strict=True) if kept],
        "dropped": {
            plans[i]: {
                "behind": round(float(stood.behind[i]), 3),
                "ahead_at_most": round(float(stood.ahead[i]), 3),
            }
            for i in np.flatnonzero(~stood.kept)
        },
    }


def summary(
    records: Sequence[Mapping[str, Any]], table: pd.DataFrame, n_layers: int
) -> pd.DataFrame:
    """A row a round: documents, plans, who led, and the layer passes of the race so far.

    Args:
        records: of the rounds that dropped plans, in order.
        table: comparisons of the search stage of the same model.

    Returns:
        Columns round, documents (of all tasks together, seen by a plan after the round), plans
        (that ran in it, the base among them), dropped (after it), leader, passes (layer passes of
        those plans for each token, common prefixes once), share (of an exhaustive search's passes,
        counted by documents, up to and with the round).
    """
    entered = [set(table["plan"])]
    for round_ in records:
        entered.append(set(round_["kept"]))
    last = table[(table["plan"] == BASE) & (table["role"] == "search")]
    best = mean_effects(table[table["dropped"].isna()])
    passes = [round_["passes"] for round_ in records]
    passes.append(layer_passes(plan_trie(parse(text, n_layers) for text in entered[-1])))
    documents = [sum(round_["documents"].values()) for round_ in records] + [int(last["n"].sum())]
    leaders = [round_["leader"] for round_ in records]
    leads = len(best) and best["mean_effect"].iloc[0] > 0
    leaders.append(best["plan"].iloc[0] if leads else BASE)
    new = np.diff([0, *documents])
    return pd.DataFrame(
        {
            "round": np.arange(1, len(passes) + 1),
            "documents": documents,
            "plans": [len(plans) for plans in entered],
            "dropped": [*(len(round_["dropped"]) for round_ in records), 0],
            "leader": leaders,
            "passes": passes,
            "share": np.cumsum(new * passes) / (documents[-1] * passes[0]),
        }
    )
