"""Effects of plans against what they are paired with: p, and intervals at any confidence.

docs/statistics/tests.md says why these methods were chosen, and from how many documents they hold.
"""

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from frankenlab.analyse.paired_tests import (
    Floats,
    Kind,
    by_cluster,
    checked,
    clopper_pearson_upper,
    discordant,
    mcnemar_exact,
    residuals,
    sign_flip_test,
    standard_error,
)

# A sample's skewness falls short of the population's where a tail is long, and all the more the
# fewer documents there are. With this factor the one-sided error of a perplexity holds from 150
# documents on. Scores are bounded and have no long tail; the factor would only make the intervals
# of few documents endless.
SKEWNESS_FACTORS: dict[Kind, float] = {"mean": 1.0, "perplexity": 1.5}


@dataclass(frozen=True, eq=False)
class PairedEffects:
    """The effects of several comparisons over the same clusters of documents.

    Attributes:
        differences: [comparisons, clusters]; higher is better.
        weights: [clusters].
        effect: [comparisons] in points or log-percent.
        standard_error: [comparisons] of the effect, in its unit.
        p: [comparisons] two-sided.
        binary: whether these are means of single documents that are right or wrong.
    """

    kind: Kind
    binary: bool
    differences: Floats
    weights: Floats
    effect: Floats
    standard_error: Floats
    p: Floats

    @property
    def n_clusters(self) -> int:
        return self.weights.size

    def interval(self, confidence: float) -> tuple[Floats, Floats]:
        """Return the limits [comparisons] of two-sided intervals.

        An interval always holds 0 where p > 1 - confidence. NaN where a single cluster says
        nothing about the spread, or where a value is not finite.
        """
        tail = (1 - confidence) / 2
        t = scipy.special.stdtrit(self.n_clusters - 1, 1 - tail)
        low, high = self.effect - t * self.standard_error, self.effect + t * self.standard_error
        if not self.binary:
            bends, shift = _skewness_terms(self.differences, self.weights, self.kind)
            furthest = _unbent(t, bends, shift).max(axis=0), _unbent(-t, bends, shift).min(axis=0)
            low = np.minimum(low, self.effect - furthest[0] * self.standard_error)
            high = np.maximum(high, self.effect - furthest[1] * self.standard_error)
        if self.kind == "mean":
            exact = _exact_limits(self.differences, self.weights, tail)
            low, high = np.fmin(low, exact[0]), np.fmax(high, exact[1])
        open_ = self.p > 1 - confidence
        return np.where(open_, np.fmin(low, 0), low), np.where(open_, np.fmax(high, 0), high)


def paired_effects(
    differences: ArrayLike,
    weights: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    kind: Kind,
    seed: int,
    resamples: int = 10_000,
) -> PairedEffects:
    """Return effects with two-sided p, from differences and weights of documents.

    - A mean over single documents that are right or wrong: McNemar's exact test.
    - All else: the larger p of the t-test with and without a correction for skewness (Hall 1992).
    - Of these, a mean (documents that share a text or are right in part, differences of
      differences) also has the p of the sign-flip test at least, which is right for few flips.

    Args:
        differences: [comparisons, documents]; higher is better.
        weights: [documents], none negative, not all 0.
        clusters: [documents] labels of what was sampled as one; None: each document on its own.
        seed: of the random sign flips of documents that are right in part; `resamples` of them.
    """
    d, w = checked(differences, weights)
    single = True
    if clusters is not None and len(np.unique(np.asarray(clusters))) < w.size:
        d, w, single = by_cluster(d, clusters), by_cluster(w, clusters), False
    effect, error = 100 * d.sum(axis=1) / w.sum(), 100 * standard_error(d, w)
    whole = (np.isin(d, (-1.0, 0.0, 1.0)) | np.isnan(d)).all()
    binary = bool(kind == "mean" and single and whole)
    if binary:
        p = np.where(np.isnan(effect), np.nan, mcnemar_exact(*discordant(d)))
    else:
        p = _corrected_p(d, w, effect, error, kind)
        if kind == "mean":
            p = np.fmax(p, sign_flip_test(d, seed=seed, resamples=resamples))
    return PairedEffects(kind, binary, d, w, effect, error, p)


def _corrected_p(d: Floats, w: Floats, effect: Floats, error: Floats, kind: Kind) -> Floats:
    # Without any spread every effect but 0 is certain.
    t = np.divide(effect, error, out=np.copysign(np.inf, effect), where=error != 0)
    t = np.where(effect == 0, 0.0, t)
    bent = _bent(np.abs(t), *(np.sign(t) * term for term in _skewness_terms(d, w, kind)))
    least = np.minimum(np.abs(t), np.fmax(bent.min(axis=0), 0))
    return 2 * scipy.special.stdtr(w.size - 1, -least)


def _skewness_terms(d: Floats, w: Floats, kind: Kind) -> tuple[Floats, Floats]:
    """Return what turns a t statistic towards a t-distribution under skewness: coefficients
    [2, plans] of its square, and a constant [plans].

    For a mean they are skewness / (3 sqrt(n)) and skewness / (6 sqrt(n)) (Johnson 1978, Hall 1992).
    In a ratio of sums the estimated spread moves with the estimated ratio, which takes something
    from the first or adds to it. Both are estimates, and where they nearly cancel the sum is too
    small, so there are two coefficients, without and with it: the limit that is further out holds.
    """
    left = residuals(d, w)
    spread = np.sqrt((left**2).mean(axis=1))
    moves = spread > 0
    third = (left**3).mean(axis=1)
    with_weight = (left * (w - w.mean())).mean(axis=1) / w.mean()
    zeros = np.zeros(len(d))
    skewness = np.divide(third, spread**3, out=zeros.copy(), where=moves)
    drift = np.divide(with_weight, spread, out=zeros.copy(), where=moves)
    factor = SKEWNESS_FACTORS[kind] / np.sqrt(w.size)
    bends = np.array([skewness / 3, skewness / 3 - drift])
    return factor * bends, factor * skewness / 6


def _bent(t: Floats, bend: Floats, shift: Floats) -> Floats:
    """Return t corrected for skewness, by Hall's cubic, which rises everywhere."""
    t = np.minimum(t, 1e9)
    return t + bend * t**2 + bend**2 * t**3 / 3 + shift


def _unbent(t: float, bend: Floats, shift: Floats) -> Floats:
    """Return the inverse of `_bent`."""
    straight = np.abs(bend) < 1e-9
    divisor = np.where(straight, 1.0, bend)
    return np.where(straight, t - shift, (np.cbrt(1 + 3 * divisor * (t - shift)) - 1) / divisor)


def _exact_limits(d: Floats, w: Floats, tail: float) -> tuple[Floats, Floats]:
    """Return the limits of a mean effect if only its gains, or only its losses, were uncertain.

    The upper limit lets the share of clusters that gain rise to its one-sided Clopper-Pearson
    (1934) limit and leaves the losses as observed; the lower limit is its mirror. With no
    discordant cluster this is the rule of three (Hanley and Lippman-Hand 1983):
    +-100 * (1 - tail**(1/n)), as an unseen gain could move a cluster as a whole. A cluster is taken
    to move by the mean share of its weight by which the observed ones moved: 1 for single
    documents.
    """
    n = w.size
    mass = (d != 0) @ w
    share = np.divide(np.abs(d).sum(axis=1), mass, out=np.ones(len(d)), where=mass > 0)
    effect = d.sum(axis=1) / w.sum()
    gains, losses = discordant(d)
    upper = effect + share * (clopper_pearson_upper(gains, n, tail) - gains / n)
    lower = effect - share * (clopper_pearson_upper(losses, n, tail) - losses / n)
    return 100 * lower, 100 * upper
