"""What an oracle gains that picks the best plan, or the best prompt, for each document."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.oracle import best_of, oracle
from tests.analyse.test_comparisons import accuracy_scores
from tests.analyse.test_prompts import (
    CONTROL,
    FINALIST,
    FROZEN,
    RECORD,
    RULES,
    TASKS,
    VARIANTS,
    answers,
    confirm,
)


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_the_best_of_k_is_the_mean_over_all_choices_of_k(k):
    options, base = np.random.default_rng(0).random((5, 7)), np.full(7, 0.4)
    by_hand = np.mean(
        [np.vstack([options[list(c)], base]).max(axis=0) for c in combinations(range(5), k)],
        axis=0,
    )
    np.testing.assert_allclose(best_of(options, base, k), by_hand)
    np.testing.assert_array_equal(best_of(options * 0, base, k), base)


def table_of(scores: pd.DataFrame, prompted=None, variants=None) -> pd.DataFrame:
    prompted = pd.DataFrame() if prompted is None else prompted
    return oracle(scores, prompted, variants or {}, TASKS, {"m": RECORD}, RULES)


def test_plans_and_prompts_are_compared_at_the_same_number_of_options():
    own = answers(40, base=range(20), frozen=range(4, 24), finalist=range(19), control=range(25))
    terse = confirm("a@terse", answers(40, base=range(10, 30)))
    two = confirm("a@two", answers(40, base=range(5, 25)), range(2, 40))
    table = table_of(confirm("a", own), pd.concat([terse, two]), VARIANTS)
    assert set(table["n"]) == {38} and set(table["stage"]) == {"confirm"}
    sets = table.groupby("set")["k"].agg(list).to_dict()
    assert sets == {"plans": [1, 2, 3], "prompts": [1, 2]}
    at = table.set_index(["set", "k"])
    # Documents 2 to 19 are wrong; 2 and 3 are right with the frozen plan, 19 with the finalist.
    assert at.loc[("plans", 3), "gain"] == pytest.approx(300 / 38)
    assert at.loc[("plans", 1), "gain"] == pytest.approx((200 + 100 + 0) / 3 / 38)
    assert at.loc[("prompts", 2), "gain"] == pytest.approx(100 * 8 / 38)
    assert at.loc[("prompts", 2), "base_value"] == pytest.approx(20 / 38)
    assert at.loc[("prompts", 2), "oracle_value"] == pytest.approx(28 / 38)
    one = at.loc[("plans", 1), "gain"] - at.loc[("prompts", 1), "gain"]
    assert at.loc[("plans", 1), "more"] == pytest.approx(one)
    assert at.loc[("plans", 1), "more_low"] < one < at.loc[("plans", 1), "more_high"]
    assert pd.isna(at.loc[("plans", 3), "more"]) and at.loc["prompts", "more"].isna().all()
    assert (table["low"] <= table["gain"]).all() and (table["gain"] <= table["high"]).all()


def test_the_best_single_option_is_the_best_as_a_whole():
    own = answers(40, base=range(20), frozen=range(18), finalist=range(22), control=range(30))
    at = table_of(confirm("a", own)).set_index("k")
    assert at.loc[3, "best"] == pytest.approx(100 * 2 / 40)
    assert at.loc[3, "best_value"] == pytest.approx(22 / 40)
    # The base stays where both choices are worse.
    assert at.loc[1, "best"] == pytest.approx(100 * (2 + 0 + 0) / 3 / 40)


def test_of_a_search_all_plans_count_that_saw_every_document():
    scores = accuracy_scores(answers(30, base=range(10)), task="a", stage="search")
    dropped = scores[(scores["plan"] != CONTROL) | (scores["document"] < 10)]
    # A race scores the first documents again in its second round.
    table = table_of(pd.concat([dropped, dropped[dropped["document"] < 10]]))
    assert set(table["options"]) == {2} and table["k"].tolist() == [1, 2]
    assert table["gain"].tolist() == pytest.approx([1000 / 30] * 2) and set(table["n"]) == {30}
    assert {FROZEN, FINALIST} < set(scores["plan"])
