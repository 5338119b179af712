"""The names of a race's rounds, and how many documents each takes."""

import pytest

from frankenlab.config import stages as rounds
from frankenlab.io.errors import UserError

RACE = {"limit": 100, "racing": {"rounds": [25, 50], "error": 0.05, "margin": 1.0}}


def test_a_search_is_evaluated_once_or_once_a_round():
    assert rounds.evaluations({"limit": 100}) == ["search"]
    assert rounds.evaluations(RACE) == ["search-1", "search-2", "search-3"]
    assert [rounds.split(name) for name in ("search-2", "search", "confirm")] == [
        ("search", 2),
        ("search", None),
        ("confirm", None),
    ]


def test_a_round_comes_after_the_one_before():
    names = ["search", "search-1", "search-2", "search-3", "select"]
    assert [rounds.before(name) for name in names] == [None, None, "search-1", "search-2", None]


def test_the_last_round_takes_all_documents_of_the_stage():
    assert [rounds.limit(RACE, number) for number in (1, 2, 3)] == [25, 50, 100]
    assert rounds.limit(RACE | {"limit": None}, 3) is None


@pytest.mark.parametrize(("given", "limit"), [([25, 25], None), ([50, 25], 100), ([25, 100], 100)])
def test_a_round_without_new_documents_is_refused(given: list[int], limit: int | None):
    with pytest.raises(UserError, match=r"stages\.search\.racing\.rounds: \d+ documents after"):
        rounds.check({"limit": limit, "racing": {"rounds": given}})
