"""Which documents a plan flipped."""

from types import SimpleNamespace

import pandas as pd
import pytest

from frankenlab.analyse.flips import flips

TASKS = {
    "right": SimpleNamespace(metric="acc", role="search"),
    "worse": SimpleNamespace(metric="brier", role="search"),
    "text": SimpleNamespace(metric="word_perplexity", role="guard"),
}
FROZEN = {"m": "b"}


def scores(metric: str, values: dict[str, list[float]], stage="search", task="right", **more):
    """Rows of plans on documents 10, 11, …; None where a race dropped the plan before."""
    rows = [
        {
            "model": "m",
            "quantization": "none",
            "stage": stage,
            "task": task,
            "plan": plan,
            "document": 10 + place,
            "cluster": str(place),
            "hardware": "h",
            metric: value,
        }
        | more
        for plan, found in values.items()
        for place, value in enumerate(found)
        if value is not None
    ]
    return pd.DataFrame(rows)


def changes(table: pd.DataFrame) -> list[tuple]:
    return list(table[["stage", "plan", "document", "change"]].itertuples(index=False, name=None))


def test_documents_that_became_right_or_wrong_are_found_the_best_plan_first():
    table = scores("acc", {"base": [0, 1, 1], "a": [1, 1, 1], "b": [0, 0, 1], "c": [0, 0, 0]})
    assert changes(flips([table], TASKS, FROZEN)) == [
        ("search", "b", 11, -1),
        ("search", "a", 10, 1),
        ("search", "c", 11, -1),
        ("search", "c", 12, -1),
    ]


def test_shards_share_the_base_that_is_in_one_of_them():
    whole = scores("acc", {"base": [0, 1, 1], "a": [1, 1, 1], "b": [0, 0, 1]})
    shards = [whole[whole["plan"] == "b"], whole[whole["plan"] != "b"], whole[:0]]
    assert changes(flips(shards, TASKS, FROZEN)) == changes(flips([whole], TASKS, FROZEN))


def test_tasks_with_the_same_metric_keep_their_own_direction():
    tasks = {"right": TASKS["right"], "turned": TASKS["right"]}
    values = {"base": [0, 1], "a": [1, 1]}
    turned = scores("acc", values, task="turned", acc_sign=-1.0)
    found = flips([scores("acc", values), turned], tasks, {"m": "a"})
    assert list(found[["task", "change"]].itertuples(index=False, name=None)) == [
        ("right", 1),
        ("turned", -1),
    ]


def test_at_confirm_only_the_frozen_plan_is_kept():
    table = scores("acc", {"base": [0, 1], "a": [1, 1], "b": [1, 1]}, stage="confirm")
    assert changes(flips([table], TASKS, FROZEN)) == [("confirm", "b", 10, 1)]


def test_where_lower_is_better_a_lower_score_became_better():
    table = scores("brier", {"base": [0, 1], "a": [1, 0]}, task="worse", brier_sign=-1.0)
    assert changes(flips([table], TASKS, FROZEN)) == [
        ("search", "a", 10, -1),
        ("search", "a", 11, 1),
    ]


def test_a_plan_that_a_race_dropped_flipped_nothing_that_it_did_not_see():
    table = scores("acc", {"base": [0, 1, 0], "a": [1, None, None]})
    again = pd.concat([table, table[table["document"] == 10]])
    assert changes(flips([again], TASKS, FROZEN)) == [("search", "a", 10, 1)]


def test_perplexities_have_no_flips():
    table = scores(
        "word_perplexity",
        {"base": [9.0, 8.0], "a": [7.0, 9.0]},
        task="text",
        word_perplexity_weight=3,
    )
    found = flips([table], TASKS, FROZEN)
    assert found.empty and list(found.columns)[-2:] == ["document", "change"]
    assert flips([], TASKS, FROZEN).empty


@pytest.mark.parametrize(("most", "kept"), [(100, {"a", "b", "c"}), (2, {"b", "a"}), (0, {"b"})])
def test_the_frozen_plan_is_kept_and_then_whole_plans_as_far_as_they_fit(most, kept):
    table = scores("acc", {"base": [0, 1, 1], "a": [1, 1, 1], "b": [0, 0, 1], "c": [0, 0, 0]})
    assert set(flips([table], TASKS, FROZEN, most)["plan"]) == kept
