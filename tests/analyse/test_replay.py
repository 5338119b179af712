"""Replays of racing searches: what they count, and that they choose well on an easy grid."""

from functools import partial

import numpy as np
import pytest
import racing as replays

from frankenlab.analyse.race_rule import Rule
from frankenlab.plans.grid import expand
from frankenlab.plans.repeats import Rys
from frankenlab.plans.trie import layer_passes, plan_trie

PLANS = [item.plan for item in expand([Rys()], 6).plans]


@pytest.fixture
def run() -> replays.Exhaustive:
    """Plans on two tasks: the last is the best by far, half of the others are hopeless."""
    rng = np.random.default_rng(0)
    rates = np.where(np.arange(len(PLANS)) % 2, 0.2, 0.6)
    rates[-1] = 0.95
    correct = [rng.random((len(PLANS), 120)) < rates[:, None] for _ in range(2)]
    return replays.exhaustive(PLANS, correct, [rng.integers(5, 50, 120) for _ in range(2)])


@pytest.mark.parametrize("left", [[0], [0, 3, 7], list(range(len(PLANS)))])
def test_passes_are_those_of_the_sweep(run: replays.Exhaustive, left: list[int]):
    trie = plan_trie(PLANS[i] for i in left)
    assert replays.passes(run, np.array(left)) == layer_passes(trie)


def test_without_a_race_nothing_is_saved_or_lost(run: replays.Exhaustive):
    drawn = [np.arange(120)] * 2
    found = replays.replay(run, drawn, (), None)
    assert (found.behind, found.same, found.left) == (0, True, (len(PLANS),))
    assert found.share == pytest.approx(1)


@pytest.mark.parametrize(
    "drop",
    [
        partial(replays.race, rule=Rule(0.05, 1.0, 2, keep=3), total=120),
        partial(replays.halve, share=0.5),
    ],
    ids=["race", "halve"],
)
def test_the_best_is_found_for_less(run: replays.Exhaustive, drop: replays.Drop):
    drawn = [np.random.default_rng(i).permutation(120) for i in range(2)]
    found = replays.replay(run, drawn, (30, 60), drop)
    assert found.same and found.behind == 0
    assert found.left[0] == len(PLANS) > found.left[1] >= found.left[2]
    # The first round alone is a quarter.
    assert 0.2 < found.share < 0.75


def test_a_search_that_drops_the_best_is_seen_as_such(run: replays.Exhaustive):
    def worst(samples, left, leaders):
        return left[:-1]

    found = replays.replay(run, [np.arange(120)] * 2, (30,), worst)
    assert not found.same and found.behind > 10
