"""Racing: which plans of a search can be dropped before they have seen every document.

All plans see the same documents, in rounds of a growing number of them, in random order. After a
round every plan is compared with the leader, document by document, and dropped if it can hardly
end up ahead of it. This is a Hoeffding race (Maron and Moore 1997) with the paired variance in the
place of Hoeffding's range, as in Moore and Lee (1994) and, with bounds for any distribution, Mnih
et al. (2008); rounds of growing size are those of successive halving (Jamieson and Talwalkar 2016),
which drops a fixed share instead, whatever the evidence.

What is controlled. An exhaustive search would give every plan all N documents and choose the best.
Let b be that plan. Racing fails if the plan that it chooses is more than `margin` worse than b on
those N documents. The scores on the N documents are taken as fixed, and only their order as random:
the n documents of a round are a sample without replacement, so that what they tell about the rest
has the factor 1 - n / N in its variance (Cochran 1977, chapter 2; Bardenet and Maillard 2015). b is
then one fixed plan, and needs no correction for the number of plans. A plan is dropped where the
one-sided upper limit of its final lead over the leader is at most `margin`; the limit has level
1 - error / decisions, which holds the error over all decisions below `error` (Bonferroni). Every
leader stays to the end, as plans were dropped on its word: margins do not add up over rounds.

What is not. The limit is a normal one, and the leader is the best of many on the documents seen, so
that its lead is exaggerated. benchmarks/racing.md measures what is left of the error by replay.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Weight of the plans' common variance in each plan's own, in documents.
PRIOR_DOCUMENTS = 10.0


@dataclass(frozen=True)
class Sample:
    """What the plans of a race scored on one task so far.

    Attributes:
        scores: [plans, units], higher is better: as `statistics` has them, before the base is
            taken off.
        weights: [units]: 1, or the words, bytes or tokens that a log-likelihood is over.
        total: units that a plan sees if it is never dropped; infinite where that is unknown, which
            keeps more plans.
    """

    scores: Floats
    weights: Floats
    total: float


@dataclass(frozen=True)
class Rule:
    """When a plan is dropped.

    Attributes:
        error: probability with which the race may choose a plan that is more than `margin` worse
            than the one that an exhaustive search would.
        margin: in points, or log-percent.
        decisions: rounds after which plans are dropped: all but the last.
        keep: plans that stay however the tests end, the best of them so far.
    """

    error: float
    margin: float
    decisions: int
    keep: int = 1


@dataclass(frozen=True)
class Standing:
    """The plans after a round; arrays [plans].

    Attributes:
        leader: the plan with the best mean over the tasks.
        behind: how far each plan is behind the leader in the mean over the tasks, in points.
        ahead: the most by which it may end up ahead of the leader, in points.
        kept: whether it goes on.
    """

    leader: int
    behind: Floats
    ahead: Floats
    kept: Flags


def stand(samples: Sequence[Sample], rule: Rule, safe: ArrayLike = ()) -> Standing:
    """Where the plans stand after a round, and which of them go on.

    Args:
        samples: one per task, of the same plans.
        safe: numbers of plans that are never dropped: the base, and the leaders of earlier rounds.
    """
    means = np.mean([_effects(sample.scores, sample.weights) for sample in samples], axis=0)
    leader = int(np.argmax(means))
    variance = sum(_variance(sample, leader) for sample in samples) / len(samples) ** 2
    behind = means[leader] - means
    z = stats.norm.isf(rule.error / rule.decisions)
    ahead = z * np.sqrt(variance) - behind
    kept = ahead > rule.margin
    kept[np.asarray(safe, dtype=int)] = True
    kept[np.argsort(behind, kind="stable")[: rule.keep]] = True
    return Standing(leader, behind, ahead, kept)


def _effects(scores: Floats, weights: Floats) -> Floats:
    return 100 * scores.sum(axis=1) / weights.sum()


def _variance(sample: Sample, leader: int) -> Floats:
    """Variance [plans] of what a plan's effect behind the leader will be at the end, given now.

    The variance of a few documents is itself uncertain (it is 0 where two plans agreed on all):
    each plan's is moderated by that of all plans (Smyth 2004), as if `PRIOR_DOCUMENTS` more had
    been seen with it.
    """
    differences = sample.scores[leader] - sample.scores
    units = sample.weights.size
    residuals = differences - np.outer(
        differences.sum(axis=1) / sample.weights.sum(), sample.weights
    )
    squares = (residuals**2).sum(axis=1)
    common = np.delete(squares, leader).mean() / (units - 1) if len(squares) > 1 else 0.0
    unit = (squares + PRIOR_DOCUMENTS * common) / (units - 1 + PRIOR_DOCUMENTS)
    share = 1e4 * unit / sample.weights.mean() ** 2
    return share * (1 / units - 1 / max(sample.total, units))
