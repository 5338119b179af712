"""How many documents a verdict needs, and what a number of documents can show."""

import numpy as np
import pytest
from scipy import stats

from frankenlab.analyse.paired_effects import paired_effects
from frankenlab.analyse.power import (
    can_be_equivalent,
    deviation_of_flips,
    documents_needed,
    smallest_detectable,
)
from frankenlab.analyse.verdicts import judge
from tests.analyse.test_paired_tests import flips

NAN = float("nan")


def claims(d, level, margin=3.0, kind="mean"):
    """How often differences [experiments, n] end in a claim of a change, and of equivalence."""
    found = paired_effects(d, np.ones(d.shape[1]), kind=kind, seed=1)
    verdict = judge(found, level, margin).verdict
    return np.isin(verdict, ["improved", "harmed"]).mean(), np.mean(verdict == "equivalent")


@pytest.mark.parametrize(
    "gain, loss, level, claim",
    [
        (0.12, 0.04, 0.05, 0),
        (0.06, 0.0, 0.01, 0),
        (0.03, 0.03, 0.05, 1),
        (0.01, 0.01, 0.05, 1),
    ],
)
def test_documents_needed_give_the_power_they_promise(gain, loss, level, claim):
    effect = 100 * (gain - loss)
    deviation = 100 * np.sqrt(gain + loss - (gain - loss) ** 2)
    n = documents_needed(effect, deviation, kind="mean", margin=3.0, level=level)
    assert 0.74 <= claims(flips(800, n, gain, loss, seed=51), level)[claim] <= 0.95
    assert max(claims(flips(800, int(0.6 * n), gain, loss, seed=52), level)) < 0.70


def test_documents_needed_for_perplexities_give_the_power_they_promise():
    n = documents_needed(5.0, 20.0, kind="perplexity", margin=3.0, level=0.01)
    normal = ((stats.norm.ppf(0.995) + stats.norm.ppf(0.8)) * 20 / 5) ** 2
    assert normal < n < normal + 5
    d = np.random.default_rng(53).normal(0.05, 0.20, (800, n))
    assert 0.75 <= claims(d, 0.01, kind="perplexity")[0] <= 0.85


def test_documents_needed_is_the_smaller_of_two_questions():
    def needed(effect, deviation, kind="mean", margin=3.0, level=0.05):
        return documents_needed(effect, deviation, kind=kind, margin=margin, level=level)

    assert needed(0.0, 30.0) < needed(1.5, 30.0) > needed(4.0, 30.0)
    assert needed(4.0, 30.0) < needed(4.0, 30.0, level=0.005)
    assert needed(-4.0, 30.0) == needed(4.0, 30.0)
    assert needed(0.0, 30.0, margin=6.0) < needed(0.0, 30.0)


def test_documents_needed_at_the_edges():
    def needed(effect, deviation, kind, margin=3.0):
        return documents_needed(effect, deviation, kind=kind, margin=margin, level=0.05)

    # Without one discordant document, the rule of three decides; without any loss, 2 * 0.5**6.
    assert needed(0.0, 0.0, "mean") == 99
    assert needed(100.0, 0.0, "mean") == 6
    assert needed(5.0, 0.0, "perplexity") == 2
    assert needed(0.0, 0.0, "perplexity") == 2
    assert needed(0.0, 30.0, "mean", margin=0.0) is None
    assert needed(0.0001, 30.0, "perplexity", margin=0.0) is None
    assert needed(NAN, 30.0, "mean") is None
    assert needed(1.0, NAN, "perplexity") is None


@pytest.mark.parametrize(
    "n, share, level", [(150, 0.1, 0.05), (570, 0.2, 0.004), (800, 0.02, 0.01)]
)
def test_the_smallest_detectable_effect_is_detected_with_its_power(n, share, level):
    effect = smallest_detectable(n, deviation_of_flips(share), kind="mean", level=level) / 100
    flipped = max(effect, share + effect**2)
    d = flips(3000, n, (flipped + effect) / 2, (flipped - effect) / 2, seed=54)
    assert 0.76 <= claims(d, level)[0] <= 0.84
    half = flips(3000, n, flipped / 2 + effect / 4, flipped / 2 - effect / 4, seed=55)
    assert claims(half, level)[0] < 0.5


def test_the_smallest_detectable_change_of_a_perplexity_is_detected_with_its_power():
    effect = smallest_detectable(40, 25.0, kind="perplexity", level=0.004)
    d = np.random.default_rng(56).normal(-effect / 100, 0.25, (2000, 40))
    assert 0.74 <= claims(d, 0.004, kind="perplexity")[0] <= 0.84


def test_more_documents_detect_less_and_too_few_nothing():
    found = [smallest_detectable(n, 30.0, kind="mean", level=0.004) for n in (50, 150, 600, 2400)]
    assert found == sorted(found, reverse=True)
    strict = smallest_detectable(150, 30.0, kind="mean", level=0.0004)
    assert strict > found[1]
    # Five gains of five documents have p = 0.0625.
    assert smallest_detectable(5, 0.0, kind="mean", level=0.05) is None
    assert smallest_detectable(6, 0.0, kind="mean", level=0.05) == pytest.approx(96, abs=2)
    assert smallest_detectable(150, NAN, kind="mean", level=0.05) is None
    assert smallest_detectable(1, 20.0, kind="perplexity", level=0.05) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "n, share, reached",
    [(150, 0.1, False), (800, 0.04, True), (2500, 0.2, False), (3600, 0.2, True)],
)
def test_a_dry_run_knows_whether_equivalence_can_be_shown(n, share, reached):
    deviation = deviation_of_flips(share)
    assert can_be_equivalent(n, deviation, kind="mean", margin=3.0, level=0.004) == reached
    d = flips(1000, n, share / 2, share / 2, seed=57)
    assert (claims(d, 0.004)[1] >= 0.78) == reached
    needed = documents_needed(0.0, deviation, kind="mean", margin=3.0, level=0.004)
    assert (n >= needed) == reached
