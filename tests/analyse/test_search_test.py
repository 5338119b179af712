"""The global test of a search: its level with and without a race, and what its table says."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.gains import Gains, mean_gains
from frankenlab.analyse.paired_tests import standard_error
from frankenlab.analyse.race_rule import Rule, Sample, stand
from frankenlab.analyse.search_test import max_t, search
from frankenlab.analyse.settings import Statistics

LEVEL = 0.05


def flipped(rng: np.random.Generator, plans: int, documents: int) -> np.ndarray:
    """Differences [plans, documents] of plans that are no better than the base: where it is right
    they can only lose, and hard documents flip for many plans at once."""
    right = np.where(rng.random(documents) < 0.5, -1.0, 1.0)
    hard = 0.6 * rng.standard_normal(documents) + 0.8 * rng.standard_normal((plans, documents))
    return np.where(hard > 1, right, 0.0)


def p_of(values: np.ndarray, ran=None, seen=None, seed: int = 1) -> float:
    ran = np.ones(len(values), bool) if ran is None else ran
    task = Gains(values, np.ones(values.shape[1]), seen)
    return max_t([task], ran, level=LEVEL, seed=seed, resamples=100).p


def race(values: np.ndarray, first: int) -> np.ndarray:
    """Which plans go on after a round of `first` documents; the base takes part."""
    scores = np.vstack([np.zeros(first), values[:, :first]])
    rule = Rule(error=0.2, margin=1.0, decisions=1, keep=4)
    return stand([Sample(scores, np.ones(first), values.shape[1])], rule, safe=[0]).kept[1:]


def test_dropped_plans_count_in_the_correction():
    values = flipped(np.random.default_rng(1), 40, 60)
    ran = race(values, 30)
    seen = ran[:, None] | (np.arange(60) < 30)
    assert 4 <= ran.sum() < 20
    assert p_of(np.where(seen, values, 0.0), ran, seen) > 1.5 * p_of(values[ran])


def test_the_best_of_many_plans_without_effect_is_as_good_as_its_luck():
    rng = np.random.default_rng(3)
    values = [rng.choice([-1.0, 0.0, 1.0], size=(30, 200), p=[0.1, 0.8, 0.1]) for _ in range(2)]
    ran, tasks = np.ones(30, bool), [Gains(v, np.ones(200)) for v in values]
    found = max_t(tasks, ran, level=LEVEL, seed=1, resamples=500)
    # Both tasks' means have the error sqrt(.2 / 200); the highest of 30 normal numbers is 2.04.
    assert found.luck == pytest.approx(100 * 2.04 * np.sqrt(0.2 / 200) / np.sqrt(2), rel=0.08)


@pytest.mark.slow
def test_a_race_keeps_the_level_because_dropped_plans_count():
    """Survivors were chosen for what the same documents say: on their own they reject too often."""
    counted, alone = [], []
    for seed in range(150):
        values = flipped(np.random.default_rng(seed), 40, 60)
        ran = race(values, 30)
        seen = ran[:, None] | (np.arange(60) < 30)
        counted.append(p_of(np.where(seen, values, 0.0), ran, seen))
        alone.append(p_of(values[ran]))
    assert np.mean(np.array(counted) <= LEVEL) <= 0.08
    assert np.mean(np.array(alone) <= LEVEL) >= 0.11


@pytest.mark.slow
def test_skewed_perplexities_with_a_mean_of_0_are_not_an_improvement():
    """A few passages lose much and most gain a little: flips of signs alone call that better."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        skewed = np.exp(0.5) - rng.lognormal(size=(8, 60))
        found.append(p_of(skewed) <= LEVEL)
    # Flips alone reject in 41 % of 300 draws.
    assert np.mean(found) <= 0.12


def test_a_good_plan_is_found_and_its_limit_says_the_same_as_p():
    rng = np.random.default_rng(0)
    values = flipped(rng, 30, 200)
    values[7] = np.where(rng.random(200) < 0.12, 1.0, 0.0)
    ran = np.ones(30, bool)
    found = max_t([Gains(values, np.ones(200))], ran, level=LEVEL, seed=1, resamples=1000)
    assert found.best == 7 and found.p <= LEVEL and 0 < found.lows[7] < found.effects[7]
    assert found.effects == pytest.approx(100 * values.mean(axis=1))
    assert np.delete(found.lows, 7).max() < 0
    # As a dropped plan it cannot be found, however good it looked.
    ran[7] = False
    found = max_t([Gains(values, np.ones(200))], ran, level=LEVEL, seed=1, resamples=1000)
    assert found.best != 7 and found.p > LEVEL and np.isnan(found.lows[7])


def test_copies_of_a_plan_cost_nothing():
    one = flipped(np.random.default_rng(3), 1, 100)
    assert p_of(np.repeat(one, 50, axis=0)) == pytest.approx(p_of(one))
    others = np.vstack([one, -np.abs(flipped(np.random.default_rng(4), 50, 100))])
    assert p_of(others) > 1.1 * p_of(one)


def test_a_plan_with_broken_scores_is_passed_over():
    values = flipped(np.random.default_rng(0), 5, 50)
    broken = np.vstack([values, np.full(50, np.nan)])
    assert p_of(broken) == p_of(values)
    with pytest.raises(ValueError, match="no plan has an effect"):
        p_of(broken[5:])


def test_unseen_clusters_are_filled_with_seen_ones_in_turn():
    values = np.array([[1.0, 2, 3, 4, 5], [1.0, 2, 0, 0, 0]])
    seen = np.array([[True] * 5, [True, True, False, False, False]])
    weights = np.array([[1.0, 1, 1, 1, 2], [1.0, 3, 0, 0, 0]])
    filled = Gains(values, weights, seen).filled()
    assert filled.values.tolist() == [[1, 2, 3, 4, 5], [1, 2, 1, 2, 1]]
    assert filled.weights.tolist() == [[1, 1, 1, 1, 2], [1, 3, 1, 3, 1]]


def rows(task: str, base: list[float], **plans: list[float]) -> pd.DataFrame:
    """Scores of one task; a plan with fewer scores saw only the first documents."""
    made = [
        {"plan": plan, "document": number, "acc": score, "cluster": f"{task}{number}"}
        for plan, scores in ({"base": base} | plans).items()
        for number, score in enumerate(scores)
    ]
    common = {"model": "m", "quantization": "none", "stage": "search", "hardware": "one"}
    return pd.DataFrame(made).assign(task=task, **common)


def test_the_table_of_a_race_compares_all_plans_on_what_all_saw():
    scores = pd.concat(
        [
            rows("a", [0, 0, 1, 1] * 5, good=[1, 1, 1, 1] * 5, bad=[0, 0, 0, 0]),
            rows("b", [0, 1] * 10, good=[1, 1] * 10, bad=[0, 0, 0, 1]),
        ]
    )
    tasks = {task: SimpleNamespace(metric="acc", role="search") for task in ("a", "b")}
    rules = Statistics(resamples=1000)
    # In a later round of a race a document can be there again.
    found = search(pd.concat([scores, scores]), tasks, 0.01, rules)
    row = found.iloc[0]
    assert (row["plans"], row["dropped"], row["tasks"], row["documents"]) == (2, 1, 2, 40)
    assert (row["best_plan"], row["best_effect"]) == ("good", 50) and row["significant"]
    assert row["p"] <= row["level"] == 0.01 and row["best_low"] > 0
    assert row["shared_documents"] == 8
    # On the first four documents: +50 and -50 on task a, +50 and -25 on task b.
    assert row["mean_effect"] == pytest.approx((0 + 12.5) / 2)
    assert row["mean_low"] < row["mean_effect"] < row["mean_high"]
    assert row["share_better"] == 0.5


def test_a_plan_that_was_grown_counts_in_the_correction_and_is_not_found_better():
    rng = np.random.default_rng(5)
    base = [0.0, 1.0] * 30
    some = {name: list((rng.random(60) < 0.55) * 1.0) for name in ("one", "two", "three")}
    scores = rows("a", base, **some, child=[1.0] * 60)
    tasks = {"a": SimpleNamespace(metric="acc", role="search")}
    rules = Statistics(resamples=2000)
    found, grown, alone = (
        search(table, tasks, 0.01, rules, added).iloc[0]
        for table, added in (
            (scores, None),
            (scores, {"m": {"child"}}),
            (scores[scores["plan"] != "child"], None),
        )
    )
    assert found["best_plan"] == "child" and found["grown"] == 0 and found["significant"]
    assert grown["best_plan"] == alone["best_plan"] != "child"
    assert (grown["plans"], grown["grown"], grown["dropped"]) == (4, 1, 0)
    assert (grown["best_grown"], grown["best_grown_effect"]) == ("child", 50)
    assert alone["best_grown"] == "" and np.isnan(alone["best_grown_effect"])
    # One more plan makes the limit stricter, and does not touch the mean of the grid.
    assert grown["p"] > alone["p"] and grown["best_low"] < alone["best_low"]
    assert grown["mean_effect"] == alone["mean_effect"]
    assert grown["share_better"] == alone["share_better"]


def test_mean_gains_are_those_of_the_tables():
    rng = np.random.default_rng(0)
    tasks = [(rng.standard_normal((3, n)), rng.uniform(1, 5, n)) for n in (20, 30)]
    effects, errors = mean_gains([Gains(values, weights) for values, weights in tasks])
    each = [100 * values.sum(axis=1) / weights.sum() for values, weights in tasks]
    assert effects == pytest.approx(np.mean(each, axis=0))
    squares = [(100 * standard_error(*task)) ** 2 for task in tasks]
    assert errors == pytest.approx(np.sqrt(np.sum(squares, axis=0)) / 2)
