"""What may be claimed, and of what."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from frankenlab.analyse import error_budget
from frankenlab.analyse.comparisons import comparisons, with_shapes
from frankenlab.analyse.paired_effects import paired_effects
from frankenlab.analyse.verdicts import judge, verdicts
from tests.analyse.test_comparisons import RULES, TASKS, accuracy_scores
from tests.analyse.test_paired_effects import at_most, skewed
from tests.analyse.test_paired_tests import flips, rows

FRANKEN, CONTROL = "0:3,1:4", "0:2,0:4"


def judged(d, level=0.05, margin=3.0, kind="mean"):
    found = paired_effects(d, np.ones(np.shape(d)[1]), kind=kind, seed=1)
    return judge(found, level, margin)


@pytest.mark.parametrize(
    "n, gains, losses, expected",
    [
        (100, 6, 0, "improved"),  # p = 0.03
        (100, 0, 6, "harmed"),
        (100, 5, 0, "inconclusive"),
        (2000, 20, 5, "improved"),  # a small change for certain
        (2000, 40, 40, "equivalent"),
        (2000, 100, 60, "improved"),
        (300, 30, 30, "inconclusive"),
        (98, 0, 0, "inconclusive"),  # the rule of three
        (99, 0, 0, "equivalent"),
    ],
)
def test_a_verdict(n, gains, losses, expected):
    assert judged(rows(n, gains, losses)).verdict.tolist() == [expected]


def test_nothing_follows_from_nan():
    broken = np.array([[float("nan"), 1.0, 0.0, 1.0]])
    for kind in ("mean", "perplexity"):
        assert judged(broken, kind=kind).verdict.tolist() == ["inconclusive"]


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    arrays(float, (4, 60), elements=st.sampled_from([-1.0, -0.5, 0.0, 0.0, 0.0, 0.0, 0.5, 1.0])),
    st.sampled_from([0.05, 0.004]),
    st.sampled_from([1.0, 10.0, 30.0]),
    st.sampled_from(["mean", "perplexity"]),
    st.floats(-0.2, 0.2),
)
def test_a_verdict_is_what_its_intervals_show(d, level, margin, kind, bias):
    """Whoever sees the two intervals and the margin can say the verdict."""
    d = d + bias if kind == "perplexity" else d
    shown = judged(d, level, margin, kind)
    for low, high, inner_low, inner_high, verdict in zip(
        shown.low,
        shown.high,
        shown.equivalence_low,
        shown.equivalence_high,
        shown.verdict,
        strict=True,
    ):
        assert low <= inner_low <= inner_high <= high
        above, below = low > 0, high < 0
        inside = -margin < inner_low and inner_high < margin
        read = "improved" if above else "harmed" if below else "inconclusive"
        assert verdict == ("equivalent" if inside and not (above or below) else read)


@pytest.mark.slow
@pytest.mark.parametrize(
    "n, gain, loss", [(100, 0.03, 0.0), (300, 0.035, 0.005), (900, 0.06, 0.03)]
)
def test_equivalence_is_seldom_claimed_at_the_margin(n, gain, loss):
    given = judged(flips(3000, n, gain, loss, seed=41)).verdict
    assert np.mean(given == "equivalent") <= at_most(0.05, 3000)


@pytest.mark.slow
@pytest.mark.parametrize("turn", [1, -1])
def test_skewed_perplexities_at_the_margin_are_seldom_equivalent_or_falsely_changed(turn):
    for truth in (0.0, 3.0, -3.0):
        d = turn * skewed(5.8, (1500, 300), seed=42) * 0.05 + truth / 100
        for level in (0.05, 0.004):
            given = judged(d, level, kind="perplexity").verdict
            right = "improved" if truth > 0 else "harmed" if truth < 0 else "equivalent"
            assert np.mean(~np.isin(given, [right, "inconclusive"])) <= at_most(level, 1500)


def confirmed(outcome: dict[str, dict[str, list[int]]], **columns) -> pd.DataFrame:
    """Verdicts of the confirm stage, from task -> plan -> right answers."""
    scores = [
        accuracy_scores(answers, **{"stage": "confirm", "task": task} | columns)
        for task, answers in outcome.items()
    ]
    groups = dict.fromkeys(("base", FRANKEN, CONTROL), "block")
    tables = [comparisons(own, "acc", "search", groups, RULES) for own in scores]
    compared = with_shapes(pd.concat(tables, ignore_index=True), {"m": 4})
    tasks = dict.fromkeys(outcome, TASKS["t"])
    return verdicts(compared, pd.concat(scores), tasks, {"m": FRANKEN}, RULES)


@pytest.mark.slow
def test_every_verdict_can_be_given():
    half = [1, 0] * 300
    table = confirmed(
        {
            "better": {"base": [0] * 600, FRANKEN: [1] * 60 + [0] * 540},
            "worse": {"base": [1] * 600, FRANKEN: [0] * 60 + [1] * 540},
            "same": {"base": half, FRANKEN: half},
            "unclear": {"base": [1, 0] * 20, FRANKEN: [1, 1, 0, 0, 1, 0, 1, 0] * 5},
        },
        available=900,
    )
    made = table.set_index("task")
    assert made["verdict"].to_dict() == {
        "better": "improved",
        "worse": "harmed",
        "same": "equivalent",
        "unclear": "inconclusive",
    }
    assert set(made["group"]) == {"frozen"} and set(made["available"]) == {900}
    assert made.loc["unclear", "documents_needed"] > 40
    assert made.loc["unclear", "smallest_detectable"] > 20 > made.loc["better", "effect"]
    # Single documents that flip or not have equal shares, and no passage to name.
    assert made["dominance"].isna().all()
    assert list(made["level"]) == pytest.approx([0.05 * 0.8 / 4] * 4)


@pytest.mark.slow
def test_the_budget_is_shared_by_the_frozen_plans_alone():
    """One test at p = 0.031 is significant alone, and not among ten; controls have no share."""
    control = {CONTROL: [0] * 100}
    one = {"t0": {"base": [0] * 100, FRANKEN: [1] * 6 + [0] * 94} | control}
    table = confirmed(one)
    assert table["group"].tolist() == ["frozen", "control"]
    assert table["verdict"].tolist()[0] == "improved" and pd.isna(table["verdict"][1])
    assert table["p_corrected"][0] == pytest.approx(table["p"][0] / 0.8)
    assert table["verdict_low"][1] < 0 and pd.isna(table["p_corrected"][1])
    same = {"base": [1, 0] * 50, FRANKEN: [1, 0] * 50} | control
    ten = one | {f"t{i}": same for i in range(1, 10)}
    row = confirmed(ten).set_index(["group", "task"]).loc[("frozen", "t0")]
    assert row["p_corrected"] == pytest.approx(10 / 0.8 * row["p"])
    assert row["verdict"] == "inconclusive" and row["low"] > 0 >= row["verdict_low"]


def test_the_shares_of_the_budget_add_up_to_alpha():
    tests = {"verdicts": 7, "search": 2, "controls": 3, "bits": 11}
    spent = sum(n * error_budget.level(0.05, family, n) for family, n in tests.items())
    assert set(tests) == set(error_budget.SHARES) and spent == pytest.approx(0.05)
    assert error_budget.level(0.05, "bits", 0) == pytest.approx(0.05 * 0.04)
    level = error_budget.level(0.05, "verdicts", 7)
    assert error_budget.corrected([level, 1.0], 0.05, level) == pytest.approx([0.05, 1.0])


def test_a_random_test_can_reach_its_level():
    level = error_budget.level(0.05, "bits", 8)
    flips_drawn = error_budget.resamples(400, level)
    p = paired_effects(
        np.linspace(0.1, 0.2, 60)[None], np.ones(60), kind="mean", seed=1, resamples=flips_drawn
    ).p
    assert p[0] < level / 10
    assert error_budget.resamples(10_000, 0.05) == 10_000
