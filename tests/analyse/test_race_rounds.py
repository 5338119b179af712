"""Rounds of a race from score tables, and the table of its rounds."""

import math

import pandas as pd
import pytest

from frankenlab.analyse import race_rounds
from frankenlab.analyse.beam import beam
from frankenlab.analyse.comparisons import comparisons, with_shapes
from frankenlab.analyse.race_rule import Rule
from frankenlab.analyse.selection import shortlist
from frankenlab.plans.plan import parse
from frankenlab.plans.trie import layer_passes, plan_trie
from tests.analyse.test_comparisons import RULES, TASKS, accuracy_scores

GROUPS = {"base": "base", "0:2,1:4": "block", "0:3,2:4": "block", "0:4,0:4": "block"}
# The third plan is hopeless, the second as good as the base, the fourth best.
ANSWERS = {
    "base": [1, 0] * 50,
    "0:2,1:4": [1, 0, 0, 1] * 25,
    "0:3,2:4": [0] * 95 + [1] * 5,
    "0:4,0:4": [1, 1, 1, 0] * 25,
}


def first_round() -> dict:
    seen = accuracy_scores({plan: rights[:40] for plan, rights in ANSWERS.items()})
    rule = Rule(0.05, 1.0, 1)
    return race_rounds.decide(seen, TASKS, {"t": (40, 100)}, leaders=[], rule=rule, n_layers=4)


def raced_table() -> pd.DataFrame:
    """Comparisons of the search, with the third plan dropped after 40 documents."""
    scores = accuracy_scores(ANSWERS)
    scores = scores[(scores["plan"] != "0:3,2:4") | (scores["document"] < 40)]
    table = comparisons(scores, "acc", "search", GROUPS, RULES, {"0:3,2:4": 1})
    return with_shapes(table, {"m": 4})


def test_a_round_records_who_goes_on_and_why_others_do_not():
    record = first_round()
    assert record["leader"] == "0:4,0:4" and record["leaders"] == ["0:4,0:4"]
    assert "base" in record["kept"] and "0:4,0:4" in record["kept"]
    assert record["dropped"]["0:3,2:4"]["behind"] == 75.0
    assert record["dropped"]["0:3,2:4"]["ahead_at_most"] < 1.0
    # 4 of the base, 4 more at its end, 3 after its second layer, 2 after its third.
    assert record["passes"] == 4 + 4 + 3 + 2


@pytest.mark.parametrize(
    ("asked", "limit", "total"), [(40, 100, 100), (40, None, math.inf), (60, None, 40)]
)
def test_documents_still_to_come(asked: int, limit: int | None, total: float):
    seen = accuracy_scores({plan: rights[:40] for plan, rights in ANSWERS.items()})
    assert race_rounds.sample(seen, "acc", list(ANSWERS), asked, limit).total == total


def test_a_dropped_plan_is_compared_on_what_it_saw_and_not_tested():
    table = raced_table().set_index("plan")
    assert table["n"].to_dict() == dict.fromkeys(ANSWERS, 100) | {"0:3,2:4": 40}
    row = table.loc["0:3,2:4"]
    assert row["dropped"] == 1 and row["effect"] == -50.0 and row["base_value"] == 0.5
    assert pd.isna(row["p"]) and pd.isna(row["q"]) and not row["significant"]


def test_the_correction_counts_dropped_plans():
    whole = comparisons(
        accuracy_scores({p: a for p, a in ANSWERS.items() if p != "0:3,2:4"}),
        *("acc", "search", GROUPS, RULES),
    ).set_index("plan")
    raced = raced_table().set_index("plan")
    best = "0:4,0:4"
    assert raced.loc[best, "p"] == whole.loc[best, "p"]
    assert raced.loc[best, "q"] == pytest.approx(raced.loc[best, "p"] * 3)
    assert whole.loc[best, "q"] == pytest.approx(whole.loc[best, "p"] * 2)


def test_the_shortlist_is_of_plans_that_saw_all_documents():
    assert [item["plan"] for item in shortlist(raced_table(), 3)] == ["0:4,0:4", "0:2,1:4"]


def test_the_summary_counts_passes_of_the_plans_that_ran():
    table = race_rounds.rounds([first_round()], raced_table(), 4)
    assert table["documents"].tolist() == [40, 100]
    assert table["plans"].tolist() == [4, len(first_round()["kept"])]
    assert table["leader"].tolist() == ["0:4,0:4", "0:4,0:4"]
    first, last = table["passes"]
    assert last < first
    assert table["share"].iloc[-1] == pytest.approx((40 * first + 60 * last) / (100 * first))


def test_a_plan_is_dropped_after_one_round():
    records = [{"dropped": {"a": {}, "b": {}}}, {"dropped": {}}, {"dropped": {"c": {}}}]
    assert race_rounds.dropped(records) == {"a": 1, "b": 1, "c": 3}


# The second best of four plans, and one that leads.
RIVALS = {
    "base": [1, 0] * 20,
    "0:3,2:5,4:6": [0] * 40,
    "0:4,2:6": [1, 1, 1, 0] * 10,
    "0:5,4:6": [1, 1, 0, 1] * 9 + [1, 0, 0, 0],
}


def step(number: int, kept: float = 5.0, grown=(), answers=None) -> dict:
    scores = accuracy_scores(answers or RIVALS)
    grid = [parse(plan, 6) for plan in RIVALS]
    return race_rounds.decide(
        scores,
        TASKS,
        {"t": (40, 100)},
        leaders=[],
        rule=Rule(0.05, kept, 1),
        n_layers=6,
        grown=grown,
        step=race_rounds.Step(number, grid, width=2, most=3),
    )


def test_a_round_grows_new_plans_from_the_best_that_go_on():
    record = step(1)
    assert record["grown"] == [
        {"plan": "0:4,2:4@attn,4:6", "parent": "0:4,2:6", "other": "", "round": 1},
        {"plan": "0:5,4@attn,5", "parent": "0:5,4:6", "other": "", "round": 1},
        {"plan": "0:4,2:4@mlp,4:6", "parent": "0:4,2:6", "other": "", "round": 1},
    ]
    assert set(record["kept"]) > {item["plan"] for item in record["grown"]}
    assert "0:3,2:5,4:6" in record["dropped"]
    # The next step grows others, and keeps those that were.
    second = step(2, grown=record["grown"])
    assert second["grown"][:3] == record["grown"] and len(second["grown"]) == 5
    assert second["grown"][4] == {
        "plan": "0:4,2:5,4:6",
        "parent": "0:4,2:6",
        "other": "0:5,4:6",
        "round": 2,
    }
    assert len({item["plan"] for item in second["grown"]} | set(RIVALS)) == 9


def test_the_best_plan_of_the_grid_stays_for_the_test_of_the_search():
    grown = [{"plan": "0:4,2:4@attn,4:6", "parent": "0:4,2:6", "other": "", "round": 1}]
    answers = {"base": [0] * 40, "0:4,2:6": [0] * 40, "0:5,4:6": [0] * 38 + [1] * 2}
    record = step(2, grown=grown, answers=answers | {"0:4,2:4@attn,4:6": [1] * 40})
    assert "0:5,4:6" in record["kept"] and "0:4,2:6" in record["dropped"]
    assert record["leader"] == "0:4,2:4@attn,4:6"


def test_the_rounds_count_the_documents_that_grown_plans_catch_up_with():
    first = step(1)
    kept = [parse(plan, 6) for plan in first["kept"]]
    table = pd.DataFrame({"plan": [*RIVALS, *(item["plan"] for item in first["grown"])]})
    table = table.assign(role="search", stage="search", n=100, dropped=pd.NA, effect=1.0)
    table = table.assign(group="block", standard_error=1.0, depth=7)
    rows = race_rounds.rounds([first], table, 6)
    assert rows["plans"].tolist() == [4, len(kept)] and rows["grown"].tolist() == [3, 0]
    new = layer_passes(plan_trie(parse(item["plan"], 6) for item in first["grown"]))
    before, after = rows["passes"]
    work = 40 * before + 60 * after + 40 * new
    assert rows["share"].iloc[-1] == pytest.approx(work / (100 * before))


def test_all_grown_plans_are_those_of_the_last_round():
    one = {"plan": "a", "parent": "b", "other": "", "round": 1}
    two = one | {"plan": "c", "round": 2}
    records = [{"model": "m", "grown": [one, two]}, {"model": "m", "grown": [one]}]
    assert race_rounds.all_grown(records) == [one, two]
    assert race_rounds.grown_plans(records) == {"m": {"a", "c"}}
    assert race_rounds.all_grown([]) == []


def test_a_grown_plan_is_set_beside_the_base_and_its_parent():
    grown = {"plan": "0:4,2:4@attn,4:6", "parent": "0:4,2:6", "other": "", "round": 1}
    answers = {plan: RIVALS[plan] for plan in ("base", "0:4,2:6")}
    answers[grown["plan"]] = [1] * 30 + [0] * 10
    scores = accuracy_scores(answers)
    # The parent saw fewer documents: both are compared on these.
    scores = scores[(scores["plan"] != "0:4,2:6") | (scores["document"] < 20)]
    scores = scores.assign(model="m", quantization="none")
    records = [{"model": "m", "round": 1, "grown": [grown], "dropped": {"0:4,2:6": {}}}]
    (row,) = beam(scores, TASKS, records, RULES).to_dict("records")
    assert (row["plan"], row["parent"], row["n"]) == (grown["plan"], "0:4,2:6", 20)
    assert (row["effect"], row["over_parent"]) == (50.0, 25.0)
    assert row["low"] < 50 < row["high"] and row["over_parent_low"] < 25 < row["over_parent_high"]
    assert pd.isna(row["dropped"])
