"""The shortlist and the frozen plan."""

import math

import pandas as pd
import pytest

from frankenlab.analyse.comparisons import with_shapes
from frankenlab.analyse.selection import (
    confirm_plans,
    freeze,
    mean_effects,
    select_plans,
    shortlist,
)

NAN = float("nan")


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


def test_the_frozen_plan_is_the_cheapest_within_one_standard_error_of_the_best():
    table = selected({"base": (0, 0), "0:6,2:8": (4, 4), "0:3,2:8": (3, 3), "0:5,4:8": (1, 1)})
    frozen = freeze(table, "m", 8, "none", controls=3, seed=1)
    assert frozen["frozen"] == "0:3,2:8"
    assert len(set(frozen["controls"])) == 3
    assert "0:3,2:8" not in frozen["controls"] and "0:6,2:8" in frozen["reason"]


def test_select_runs_the_shortlist_and_confirm_the_frozen_plan_with_its_controls():
    table = selected({"base": (0, 0), "0:6,2:8": (4, 4), "0:3,2:8": (3, 3)})
    chosen = select_plans({"plans": shortlist(table, 1)})
    assert chosen == [("base", "base"), ("0:6,2:8", "block")]
    frozen = freeze(table, "m", 8, "none", controls=2, seed=1)
    assert len(confirm_plans(frozen, with_controls=False)) == 2
    base, own, *controls = confirm_plans(frozen, with_controls=True)
    assert (base, own) == (("base", "base"), ("0:3,2:8", "block"))
    assert controls == [(plan, "control") for plan in frozen["controls"]]


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        # Both tasks have a standard error of 2 points, their mean has one of 1.4.
        ({"0:6,4:8": 1.0, "0:7,1:8": 3.0, "0:5,2:8": 2.0}, "0:5,2:8"),
        ({"0:6,4:8": 1.0, "0:7,1:8": 3.0, "0:5,2:8": 1.5}, "0:7,1:8"),
        ({"0:6,4:8": 2.0, "0:7,1:8": 3.0, "0:5,2:8": 2.5}, "0:6,4:8"),
        ({"0:5,2:8": 2.0, "0:7,1:8": 3.0, "0:4,1:8": 2.5}, "0:4,1:8"),
        ({"0:5,2:8": 2.5, "0:7,1:8": 3.0, "0:4,1:8": 2.5}, "0:4,1:8"),
        ({"0:6,4:8": NAN, "0:7,1:8": 3.0, "0:5,2:8": 2.5}, "0:5,2:8"),
    ],
)
def test_the_choice_is_by_depth_then_by_effect_then_by_the_text(effects, expected):
    table = selected({plan: (effect, effect) for plan, effect in effects.items()})
    assert freeze(table, "m", 8, "none", controls=0, seed=1)["frozen"] == expected


def test_no_plan_no_choice():
    with pytest.raises(ValueError, match="no plan"):
        freeze(selected({"0:6,4:8": (NAN, NAN)}), "m", 8, "none", controls=0, seed=1)
