"""The shortlist and the frozen plan."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.comparisons import with_shapes
from frankenlab.analyse.search_test import search
from frankenlab.analyse.selection import (
    as_good,
    best_of,
    choose,
    confirm_plans,
    freeze,
    mean_effects,
    select_plans,
    shortlist,
    without_finalists,
)
from frankenlab.analyse.settings import Statistics

NAN = float("nan")
TASKS = {task: SimpleNamespace(metric="acc", role="search") for task in "ab"}
SEED = 1
RULES = Statistics(resamples=500, seed=SEED)


def selected(effects: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """A comparisons table: plan -> effects on two search tasks, both with standard error 2."""
    rows = [
        {
            "plan": plan,
            "model": "m",
            "quantization": "none",
            "task": task,
            "role": "search",
            "group": "block",
            "effect": effect,
            "standard_error": 2.0,
            "dropped": pd.NA,
        }
        for plan, both in effects.items()
        for task, effect in zip(("a", "b"), both, strict=True)
    ]
    return with_shapes(pd.DataFrame(rows), {"m": 8})


def test_the_shortlist_takes_the_highest_mean_change():
    table = selected({"base": (0, 0), "0:4,2:8": (3, 1), "0:3,2:8": (5, 1), "0:5,4:8": (9, -9)})
    assert [row["plan"] for row in shortlist(table, 2)] == ["0:3,2:8", "0:4,2:8"]
    errors = mean_effects(table)["standard_error"]
    assert errors.tolist() == pytest.approx([math.sqrt(2)] * 3)


def scores(gains: dict[str, tuple[int, int]], documents: int = 60) -> pd.DataFrame:
    """Scores of both search tasks: plan -> documents that it wins against the base in search and in
    select (a negative number loses them). The base is right on every other document."""
    rows = []
    for task in "ab":
        for place, stage in enumerate(("search", "select")):
            base = np.arange(documents) % 2
            for plan, won in {"base": (0, 0), **gains}.items():
                right = base.astype(float)
                flips = np.flatnonzero(base == (won[place] < 0))[: abs(won[place])]
                right[flips] = 1 - right[flips]
                rows += [
                    {
                        "task": task,
                        "stage": stage,
                        "plan": plan,
                        "document": 1000 * place + i,
                        "acc": x,
                    }
                    for i, x in enumerate(right)
                ]
    table = pd.DataFrame(rows)
    return table.assign(cluster=table["document"].astype(str), hardware="one")


def frozen_of(gains, controls: int = 0, finalists: int = 0, more=()):
    listed = [{"plan": plan, "group": "block"} for plan in gains]
    rest = (controls, SEED, finalists, more)
    return freeze(scores(gains), TASKS, listed, "m", 8, "none", *rest)


def test_the_frozen_plan_is_the_cheapest_within_one_standard_error_of_the_best():
    frozen = frozen_of({"0:6,2:8": (4, 4), "0:3,2:8": (3, 4), "0:5,4:8": (-2, 0)}, controls=3)
    assert (frozen["frozen"], frozen["group"]) == ("0:3,2:8", "block")
    assert frozen["as_good"] == ["0:6,2:8", "0:3,2:8"]
    assert len(set(frozen["controls"])) == 3 and "0:3,2:8" not in frozen["controls"]
    assert "is that of plan 0:6,2:8 (+6.7, standard error" in frozen["reason"]
    assert "2 plans are within one standard error of it" in frozen["reason"]
    assert 0.5 < frozen["same_plan"] < 1
    assert f"{100 * frozen['same_plan']:.0f} % of resamples" in frozen["reason"]


def test_search_and_select_choose_together():
    """On the select documents alone the deeper plan is better by more than a standard error."""
    frozen = frozen_of({"0:6,2:8": (0, 6), "0:3,2:8": (9, 2)})
    assert frozen["frozen"] == "0:3,2:8" and frozen["as_good"] == ["0:3,2:8"]
    assert "No other plan is within one standard error" in frozen["reason"]


def test_whether_any_plan_beats_the_base_is_asked_of_the_select_documents():
    """The search documents have chosen these plans, so that their best is partly lucky."""

    def found(gains, level=0.05):
        rows = scores(gains).assign(model="m", quantization="none")
        parts = [rows[rows["stage"] == stage] for stage in ("search", "select")]
        return search(parts[0], TASKS, level, RULES, None, parts[1]).iloc[0]

    lucky = found({"0:6,2:8": (20, 0), "0:3,2:8": (-3, -4)})
    assert lucky["significant"] and not lucky["select_significant"]
    # Eight documents won and none lost: p is 0.004.
    gains = {"0:6,2:8": (0, 4), "0:3,2:8": (-3, -4)}
    good = found(gains)
    assert good["select_significant"] and good["select_plan"] == "0:6,2:8"
    assert good["select_effect"] > good["select_low"] > 0
    assert not found(gains, level=0.002)["select_significant"]


def test_a_clear_choice_is_stable_and_a_close_one_is_not():
    assert frozen_of({"0:6,2:8": (12, 12), "0:3,2:8": (-9, -9)})["same_plan"] == 1
    # They differ by about a standard error.
    assert frozen_of({"0:6,2:8": (9, 9), "0:3,2:8": (8, 7)})["same_plan"] < 0.8


def test_a_document_scored_in_several_rounds_counts_once():
    gains = {"0:6,2:8": (4, 4), "0:3,2:8": (3, 4)}
    listed = [{"plan": plan, "group": "block"} for plan in gains]
    once = scores(gains)
    raced = pd.concat([once[once["document"] < 20], once])
    arguments = (TASKS, listed, "m", 8, "none", 0, SEED)
    assert freeze(raced, *arguments) == freeze(once, *arguments)


def test_finalists_are_the_best_other_plans_and_no_controls():
    gains = {"0:6,2:8": (-9, -9), "0:3,2:8": (9, 9), "0:5,4:8": (2, 2), "0:7,6:8": (4, 4)}
    frozen = frozen_of(gains, finalists=2)
    assert frozen["frozen"] == "0:3,2:8" and frozen["finalists"] == ["0:7,6:8", "0:5,4:8"]
    assert frozen_of(gains)["finalists"] == []
    # Every other single layer runs twice as a control.
    assert frozen_of(gains, controls=7, finalists=3)["finalists"] == ["0:6,2:8"]
    confirmed = confirm_plans(frozen | {"controls": ["0:2,0:8"]}, at_reference=True)
    groups = ["base", "block", "finalist", "finalist", "control"]
    assert [group for _, group in confirmed] == groups
    assert len(confirm_plans(frozen, at_reference=False)) == 2


def test_the_best_plan_of_each_kind_is_of_those_that_saw_the_most_documents():
    plans = ["base", "0:6,5:8", "0:4,5:8", "0:3,4:8", "0:2,3:8", "0:8,7*0.5"]
    table = pd.DataFrame(
        {
            "plan": plans,
            "role": "search",
            "group": ["base", "layer", "skip", "skip", "skip", "layer"],
            "effect": [0.0, 1.0, 9.0, -2.0, -3.0, 0.5],
            "standard_error": 1.0,
            "depth": 8.0,
            "dropped": pd.array([None, None, 1, 2, 2, None], "Int64"),
        }
    )
    found = best_of(table, ["skipped", "spread", "repeated", "damped"], 8)
    assert found == ["0:3,4:8", "0:6,5:8", "0:8,7*0.5"]
    assert best_of(table, [], 8) == []


def test_the_best_of_kinds_are_finalists_where_they_are_confirmed_as_nothing_else():
    gains = {"0:3,2:8": (9, 9), "0:7,6:8": (4, 4)}
    more = ["0:3,2:8", "0:4,5:8", "0:7,6:8", "0:4,5:8"]
    assert frozen_of(gains, finalists=1, more=more)["finalists"] == ["0:7,6:8", "0:4,5:8"]
    assert frozen_of(gains, more=more)["finalists"] == ["0:4,5:8", "0:7,6:8"]
    assert frozen_of(gains, controls=7, more=more)["finalists"] == ["0:4,5:8"]


def test_nothing_is_claimed_of_finalists():
    record = {"finalists": ["0:7,6:8"]}
    rows = pd.DataFrame({"model": ["m", "m", "n"], "plan": ["base", "0:7,6:8", "0:7,6:8"]})
    kept = without_finalists(rows, {"m": record, "n": {"finalists": []}})
    assert kept.index.tolist() == [0, 2]


def test_select_runs_the_shortlist_and_confirm_the_frozen_plan_with_its_controls():
    table = selected({"base": (0, 0), "0:6,2:8": (4, 4), "0:3,2:8": (3, 3)})
    chosen = select_plans({"plans": shortlist(table, 1)})
    assert chosen == [("base", "base"), ("0:6,2:8", "block")]
    frozen = frozen_of({"0:6,2:8": (4, 4), "0:3,2:8": (4, 4)}, controls=2)
    assert len(confirm_plans(frozen, at_reference=False)) == 2
    base, own, *controls = confirm_plans(frozen, at_reference=True)
    assert (base, own) == (("base", "base"), ("0:3,2:8", "block"))
    assert controls == [(plan, "control") for plan in frozen["controls"]]


@pytest.mark.parametrize(
    ("effects", "depths", "expected"),
    [
        # All have a standard error of 1.4.
        ([1.0, 3.0, 2.0], [10, 14, 11], 2),
        ([1.0, 3.0, 1.5], [10, 14, 11], 1),
        ([2.0, 3.0, 2.5], [10, 14, 11], 0),
        ([2.5, 3.0, 2.5], [11, 14, 11], 0),
        ([2.0, 3.0, 2.5], [11, 14, 11], 2),
        ([NAN, 3.0, 2.5], [10, 14, 11], 2),
    ],
)
def test_the_choice_is_by_depth_then_by_effect_then_by_place(effects, depths, expected):
    errors = np.full(3, 1.4)
    assert choose(effects, errors, depths) == expected
    # And the same for many at once.
    many = choose([effects, [9.0, 0, 0]], [errors, errors], depths)
    assert many.tolist() == [expected, 0]
    assert as_good(effects, errors)[expected]


def test_no_plan_no_choice():
    broken = scores({"0:6,4:8": (1, 1)})
    broken.loc[broken["plan"] != "base", "acc"] = np.inf
    listed = [{"plan": "0:6,4:8", "group": "block"}]
    with pytest.raises(ValueError, match="no plan"):
        freeze(broken, TASKS, listed, "m", 8, "none", 0, SEED)
