"""A stage, or a round of it, and its text in paths."""

import pytest

from frankenlab.config.stages import Stage
from frankenlab.io.errors import UserError


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("search", Stage("search")),
        ("search-2", Stage("search", 2)),
        ("search-12", Stage("search", 12)),
        ("confirm", Stage("confirm")),
    ],
)
def test_a_stage_is_written_in_paths_and_read_again(text, stage):
    assert Stage.parse(text) == stage and str(stage) == text == f"{stage}"


@pytest.mark.parametrize("text", ["", "search-", "search-0", "search-x", "select-1", "serch"])
def test_what_is_no_stage_is_refused(text):
    with pytest.raises(UserError, match="is no stage; allowed: search, select, confirm"):
        Stage.parse(text)


def test_a_round_comes_after_the_one_before():
    stages = [Stage("search"), Stage("search", 1), Stage("search", 3), Stage("select")]
    assert [stage.before for stage in stages] == [None, None, Stage("search", 2), None]
