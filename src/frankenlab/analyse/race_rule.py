"""Racing: which plans of a search can be dropped before they have seen every document.

All plans see the same documents, in rounds of a growing number of them, in random order. After a
round every plan is compared with the leader, document by document, and dropped if it can hardly
end up ahead of it. This is a Hoeffding race (Maron and Moore 1997) with the paired variance in the
place of Hoeffding's range (Moore and Lee 1994).

A plan is dropped where the one-sided upper limit of its final lead over the leader is at most
`margin`; the limit has level 1 - error / decisions, which holds the error over all decisions below
`error` (Bonferroni). The n documents of a round are a sample without replacement of the N that a
plan may see, so that what they say about the rest has the factor 1 - n / N in its variance (Cochran
1977, chapter 2). docs/statistics/search.md says what this controls and what not;
benchmarks/racing.md measures it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from frankenlab.analyse.paired_tests import Floats, residuals

# Weight of the plans' common variance in each plan's own, in documents.
PRIOR_DOCUMENTS = 10.0


@dataclass(frozen=True)
class Sample:
    """What the plans of a race scored on one task so far.

    Attributes:
        scores: [plans, clusters], higher is better, before the base is taken off.
        weights: [clusters]: 1, or the words, bytes or tokens that a log-likelihood is over.
        total: clusters that a plan sees if it is never dropped; infinite where that is unknown,
            which keeps more plans.
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
    kept: NDArray[np.bool_]


def stand(samples: Sequence[Sample], rule: Rule, safe: ArrayLike = ()) -> Standing:
    """Return where the plans stand after a round, and which of them go on.

    Args:
        samples: one per task, of the same plans.
        safe: numbers of plans that are never dropped: the base, and the leaders of earlier rounds.
            Plans were dropped because of these leaders, so margins would add up if they left.
    """
    means = np.mean([100 * s.scores.sum(axis=1) / s.weights.sum() for s in samples], axis=0)
    leader = int(np.argmax(means))
    variance = sum(_variance(sample, leader) for sample in samples) / len(samples) ** 2
    behind = means[leader] - means
    z = scipy.stats.norm.isf(rule.error / rule.decisions)
    ahead = z * np.sqrt(variance) - behind
    kept = ahead > rule.margin
    kept[np.asarray(safe, dtype=int)] = True
    kept[np.argsort(behind, kind="stable")[: rule.keep]] = True
    return Standing(leader, behind, ahead, kept)


def _variance(sample: Sample, leader: int) -> Floats:
    """Return the variance [plans] of what a plan's effect behind the leader will be at the end.

    The variance of a few documents is itself uncertain (it is 0 where two plans agreed on all):
    each plan's is moderated by that of all plans (Smyth 2004), as if `PRIOR_DOCUMENTS` more had
    been seen with it.
    """
    differences = sample.scores[leader] - sample.scores
    n = sample.weights.size
    squares = (residuals(differences, sample.weights) ** 2).sum(axis=1)
    common = np.delete(squares, leader).mean() / (n - 1) if len(squares) > 1 else 0.0
    own = (squares + PRIOR_DOCUMENTS * common) / (n - 1 + PRIOR_DOCUMENTS)
    share = 1e4 * own / sample.weights.mean() ** 2
    return share * (1 / n - 1 / max(sample.total, n))
