"""Generators: the plans that they are documented to make, each once."""

import pytest
import yaml
from conftest import parse_all

from frankenlab.config import SCHEMA
from frankenlab.errors import UserError
from frankenlab.grid import GENERATORS, equal_cost_controls, expand, numbers, random_blocks
from frankenlab.plans import Plan, base, looped, parse


def frankens(*generators, n_layers=4) -> list[Plan]:
    """The plans of a grid, after a check that the base is the first of them."""
    first, *others = expand(generators, n_layers).plans
    assert (first.plan, first.group) == (base(n_layers), "base")
    return [item.plan for item in others]


@pytest.mark.parametrize(
    ("generator", "expected"),
    [
        ({"generator": "layer"}, ["0x2,1:4", "0:2,1:4", "0:3,2:4", "0:4,3"]),
        ({"generator": "layer", "layer": [0, 3], "times": 3}, ["0x3,1:4", "0:4,3x2"]),
        ({"generator": "layer", "layer": 1, "times": "2:4"}, ["0:2,1:4", "0:2,1x2,2:4"]),
        ({"generator": "block", "length": 3}, ["0:3,0:4", "0:4,1:4"]),
        ({"generator": "block", "length": [2, 4], "start": [0, 3]}, ["0:2,0:4", "0:4x2"]),
        ({"generator": "rys", "min_length": 3}, ["0:3,0:4", "0:4x2", "0:4,1:4"]),
        ({"generator": "depth_up_scaling", "drop": 1}, ["0:3,1:4"]),
        ({"generator": "depth_up_scaling", "drop": [3, 0]}, ["0,3", "0:4x2"]),
        ({"generator": "explicit", "plans": ["3,0", "0:4*1,1@attn"]}, ["3,0", "0:4,1@attn"]),
    ],
)  # fmt: skip
def test_a_generator_makes_its_plans_in_order(generator, expected):
    assert frankens(generator) == parse_all(expected)


def test_rys_without_limits_is_every_block_twice():
    plans = frankens({"generator": "rys"}, n_layers=5)
    assert len(plans) == 15
    assert set(plans) == {looped(i, j, 2, 5) for i in range(5) for j in range(i + 1, 6)}


def test_a_plan_listed_twice_is_folded_into_the_first_and_reported():
    grid = expand(
        [
            {"generator": "layer", "layer": [1, 2]},
            {"generator": "block", "length": 1, "start": 1},
            {"generator": "explicit", "plans": ["base", "0:2,1:4", "0:4,3"]},
        ],
        4,
    )
    assert [(item.plan.text, item.group) for item in grid.plans] == [
        ("base", "base"),
        ("0:2,1:4", "layer"),
        ("0:3,2:4", "layer"),
        ("0:4,3", "explicit"),
    ]
    assert grid.folded == (("0:2,1:4", "block"), ("base", "explicit"), ("0:2,1:4", "explicit"))


@pytest.mark.parametrize(
    "generators",
    [
        [],
        [{"generator": "rys", "min_length": 5}],
        [{"generator": "layer", "layer": "2:2"}],
        [{"generator": "layer", "times": 1}],
        [{"generator": "explicit", "plans": ["base", "0:4"]}],
    ],
)
def test_an_empty_grid_is_refused(generators):
    with pytest.raises(UserError, match="^config: plans: the grid is empty"):
        expand(generators, 4)


@pytest.mark.parametrize(
    ("generator", "fault"),
    [
        ({"generator": "layer", "layer": [0, 4]}, "layer 4: the model has 4 layers, 0 to 3"),
        ({"generator": "layer", "times": 0}, "times must be 1 or more"),
        ({"generator": "block", "length": 1, "start": 4}, "start 4: the model has 4 layers"),
        ({"generator": "block", "length": 5}, "length 5: the model has 4 layers"),
        ({"generator": "block", "length": 0}, "length 0"),
        ({"generator": "random_block", "length": 5, "count": 1}, "length 5: the model has 4"),
        ({"generator": "depth_up_scaling", "drop": 4}, "drop 4 leaves nothing of the model's 4"),
        ({"generator": "explicit", "plans": ["0:5"]}, "the model has 4 layers, 0 to 3"),
    ],
)
def test_a_layer_that_the_model_lacks_is_refused_with_its_place_and_the_depth(generator, fault):
    with pytest.raises(UserError) as error:
        expand([{"generator": "layer"}, generator], 4)
    assert str(error.value).startswith(f"config: plans.1 ({generator['generator']}): ")
    assert fault in str(error.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, [3]), ([4, 1], [4, 1]), ("2:5", [2, 3, 4]), ("0:10:4", [0, 4, 8]), ("3:3", [])],
)
def test_numbers_are_written_as_in_python(value, expected):
    assert numbers(value) == expected


def test_random_blocks_are_distinct_repeatable_and_no_more_than_there_are():
    settings = {"generator": "random_block", "length": 2, "count": 3, "seed": 5}
    assert frankens(settings, n_layers=9) == frankens(settings, n_layers=9)
    assert frankens(settings, n_layers=9) != frankens(settings | {"seed": 6}, n_layers=9)
    everything = random_blocks(length=2, times=3, count=99, seed=1, n_layers=5)
    assert set(everything) == {looped(i, i + 2, 3, 5) for i in range(4)}
    assert len(everything) == 4


@pytest.mark.parametrize("text", ["0:6,3:8", "0:3,2x3,3:8", "0:6,2:8", "0:8,2@attn,4@mlp"])
def test_controls_cost_as_much_as_the_plan_and_are_not_it(text):
    plan = parse(text, 8)
    controls = equal_cost_controls(plan, count=3, seed=1)
    assert len(set(controls)) == 3 and plan not in controls
    assert {control.depth for control in controls} == {plan.depth}


def test_controls_of_a_loop_repeat_as_often():
    controls = equal_cost_controls(looped(2, 4, 3, 8), count=10, seed=1)
    assert {control.loop for control in controls} == {(i, i + 2, 3) for i in range(7) if i != 2}


@pytest.mark.parametrize("text", ["base", "0:3", "0:8x2,0:8"])
def test_a_plan_that_no_block_costs_as_much_as_has_no_controls(text):
    assert equal_cost_controls(parse(text, 8), count=3, seed=1) == []


def test_every_generator_of_the_schema_exists():
    plans = yaml.safe_load(SCHEMA.read_text())["properties"]["plans"]
    assert set(plans["items"]["properties"]["generator"]["enum"]) == set(GENERATORS)
