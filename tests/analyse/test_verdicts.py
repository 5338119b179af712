"""What may be claimed, and at how many documents."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from frankenlab.analyse.comparisons import comparisons, with_shapes
from frankenlab.analyse.paired_tests import (
    discordant,
    mcnemar_exact,
    paired_bootstrap,
    sign_flip_test,
)
from frankenlab.analyse.verdicts import documents_needed, verdict, verdicts
from tests.analyse.test_comparisons import RULES, accuracy_scores
from tests.analyse.test_paired_tests import flips, rows

NAN = float("nan")


@pytest.mark.parametrize(
    "effect, p, low, high, expected",
    [
        (5.0, 0.01, 2.0, 8.0, "improved"),
        (-5.0, 0.01, -8.0, -2.0, "harmed"),
        (1.0, 0.01, 0.3, 1.7, "improved"),
        (-1.0, 0.01, -1.7, -0.3, "harmed"),
        (1.0, 0.05, 0.1, 1.9, "equivalent"),
        (0.2, 0.80, -2.9, 2.9, "equivalent"),
        (0.2, 0.80, -2.9, 3.0, "inconclusive"),
        (0.2, 0.80, -3.0, 2.9, "inconclusive"),
        (4.0, 0.30, -1.0, 9.0, "inconclusive"),
        (3.5, 0.06, 3.1, 3.9, "inconclusive"),
        (0.0, 1.00, -0.5, 0.5, "equivalent"),
        (NAN, NAN, NAN, NAN, "inconclusive"),
        (0.2, NAN, -1.0, 1.0, "equivalent"),
    ],
)
def test_verdicts(effect, p, low, high, expected):
    assert verdict(effect, p, low, high, RULES) == expected


@pytest.mark.parametrize(
    "n, expected", [(20, "inconclusive"), (98, "inconclusive"), (99, "equivalent")]
)
def test_no_flip_at_all_is_equivalence_from_99_documents_on(n, expected):
    effects = paired_bootstrap(rows(n, 0, 0), np.ones(n), kind="mean", seed=1, resamples=200)
    assert verdict(0.0, 1.0, effects.low90[0], effects.high90[0], RULES) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "n, gain, loss", [(100, 0.03, 0.0), (300, 0.035, 0.005), (900, 0.06, 0.03)]
)
def test_equivalence_is_seldom_claimed_at_the_margin(n, gain, loss):
    d = flips(1200, n, gain, loss, seed=41)
    effects = paired_bootstrap(d, np.ones(n), kind="mean", seed=1, resamples=1000)
    given = [
        verdict(0, 1, *both, RULES) for both in zip(effects.low90, effects.high90, strict=True)
    ]
    assert np.mean(np.array(given) == "equivalent") <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1200)


def reached(n, gain, loss, margin, alpha, seed):
    """How often n documents end in a claim of a change, and of equivalence."""
    d = flips(800, n, gain, loss, seed)
    changed = mcnemar_exact(*discordant(d)) < alpha
    effects = paired_bootstrap(d, np.ones(n), kind="mean", seed=1, resamples=600)
    inside = (effects.low90 > -margin) & (effects.high90 < margin)
    return changed.mean(), inside.mean()


@pytest.mark.parametrize(
    "gain, loss, alpha, claim",
    [
        (0.12, 0.04, 0.05, 0),
        (0.06, 0.0, 0.01, 0),
        (0.03, 0.03, 0.05, 1),
        (0.01, 0.01, 0.05, 1),
    ],
)
def test_documents_needed_give_the_power_they_promise(gain, loss, alpha, claim):
    effect = 100 * (gain - loss)
    deviation = 100 * np.sqrt(gain + loss - (gain - loss) ** 2)
    n = documents_needed(effect, deviation, kind="mean", margin=3.0, alpha=alpha)
    assert 0.74 <= reached(n, gain, loss, 3.0, alpha, seed=51)[claim] <= 0.95
    assert max(reached(int(0.6 * n), gain, loss, 3.0, alpha, seed=52)) < 0.70


def test_documents_needed_for_perplexities_give_the_power_they_promise():
    n = documents_needed(5.0, 20.0, kind="perplexity", margin=3.0, alpha=0.01)
    # Connor's (1987) form of the sample size, whose null variance holds the effect too.
    normal = ((stats.norm.ppf(0.995) * np.hypot(20, 5) + stats.norm.ppf(0.8) * 20) / 5) ** 2
    assert n == int(np.ceil(normal))
    d = np.random.default_rng(53).normal(0.05, 0.20, (800, n))
    assert 0.75 <= np.mean(sign_flip_test(d, seed=1, resamples=1999) < 0.01) <= 0.85


def test_documents_needed_is_the_smaller_of_two_questions():
    def needed(effect, deviation, kind="mean", margin=3.0, alpha=0.05):
        return documents_needed(effect, deviation, kind=kind, margin=margin, alpha=alpha)

    assert needed(0.0, 30.0) < needed(1.5, 30.0) > needed(4.0, 30.0)
    assert needed(4.0, 30.0) < needed(4.0, 30.0, alpha=0.005)
    assert needed(-4.0, 30.0) == needed(4.0, 30.0)
    assert needed(0.0, 30.0, margin=6.0) < needed(0.0, 30.0)


def test_documents_needed_at_the_edges():
    def needed(effect, deviation, kind, margin=3.0):
        return documents_needed(effect, deviation, kind=kind, margin=margin, alpha=0.05)

    # Without one discordant document, the rule of three decides; without any loss, 2 * 0.5**6.
    assert needed(0.0, 0.0, "mean") == 99
    assert needed(100.0, 0.0, "mean") == 6
    assert needed(5.0, 0.0, "perplexity") == 6
    assert needed(0.0, 0.0, "perplexity") == 2
    assert needed(0.0, 30.0, "mean", margin=0.0) is None
    assert needed(0.0001, 30.0, "perplexity", margin=0.0) is None
    assert needed(NAN, 30.0, "mean") is None
    assert needed(1.0, NAN, "perplexity") is None


def confirmed(outcome: dict[str, tuple[list[int], list[int]]]) -> pd.DataFrame:
    """Comparisons of the confirm stage: task -> (base, franken) right answers."""
    tables = [
        comparisons(
            accuracy_scores({"base": base, "0:3,1:4": franken}, stage="confirm", task=task),
            "acc",
            "search",
            {"base": "base", "0:3,1:4": "block"},
            RULES,
        )
        for task, (base, franken) in outcome.items()
    ]
    return with_shapes(pd.concat(tables, ignore_index=True), {"m": 4})


@pytest.mark.slow
def test_every_verdict_can_be_given():
    half = [1, 0] * 300
    table = confirmed(
        {
            "better": ([0] * 600, [1] * 60 + [0] * 540),
            "worse": ([1] * 600, [0] * 60 + [1] * 540),
            "same": (half, half),
            "unclear": ([1, 0] * 20, [1, 1, 0, 0, 1, 0, 1, 0] * 5),
        }
    )
    made = verdicts(table, {"m": "0:3,1:4"}, RULES).set_index("task")
    assert made["verdict"].to_dict() == {
        "better": "improved",
        "worse": "harmed",
        "same": "equivalent",
        "unclear": "inconclusive",
    }
    assert set(made["group"]) == {"frozen"}
    assert made.loc["unclear", "documents_needed"] > 40


@pytest.mark.slow
def test_holm_corrects_over_all_confirm_tests():
    """One test at p = 0.031 is significant alone, and not among ten."""
    one = {"t0": ([0] * 100, [1] * 6 + [0] * 94)}
    table = verdicts(confirmed(one), {"m": "0:3,1:4"}, RULES)
    assert table["verdict"].tolist() == ["improved"]
    ten = one | {f"t{i}": ([1, 0] * 50, [1, 0] * 50) for i in range(1, 10)}
    table = verdicts(confirmed(ten), {"m": "0:3,1:4"}, RULES).set_index("task")
    assert table.loc["t0", "p_holm"] == pytest.approx(10 * table.loc["t0", "p"])
    assert table.loc["t0", "verdict"] == "inconclusive"
