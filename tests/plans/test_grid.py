"""Generators: the plans that they are documented to make, each once."""

import pytest

from frankenlab.io.errors import UserError
from frankenlab.plans import grid
from frankenlab.plans.generators import (
    Blocks,
    DepthUpScaling,
    Explicit,
    Layers,
    RandomBlocks,
    Rys,
    equal_cost_controls,
    numbers,
    random_blocks,
)
from frankenlab.plans.grid import expand, notices
from frankenlab.plans.plan import Plan, base, looped, parse
from tests.support.models import parse_all


def frankens(*generators, n_layers=4) -> list[Plan]:
    """The plans of a grid, after a check that the base is the first of them."""
    first, *others = expand(generators, n_layers).plans
    assert (first.plan, first.group) == (base(n_layers), "base")
    return [item.plan for item in others]


@pytest.mark.parametrize(
    ("generator", "expected"),
    [
        (Layers(), ["0x2,1:4", "0:2,1:4", "0:3,2:4", "0:4,3"]),
        (Layers(layer=[0, 3], times=3), ["0x3,1:4", "0:4,3x2"]),
        (Layers(layer=1, times="2:4"), ["0:2,1:4", "0:2,1x2,2:4"]),
        (Blocks(length=3), ["0:3,0:4", "0:4,1:4"]),
        (Blocks(length=[2, 4], start=[0, 3]), ["0:2,0:4", "0:4x2"]),
        (Rys(min_length=3), ["0:3,0:4", "0:4x2", "0:4,1:4"]),
        (DepthUpScaling(drop=1), ["0:3,1:4"]),
        (DepthUpScaling(drop=[3, 0]), ["0,3", "0:4x2"]),
        (Explicit(plans=["3,0", "0:4*1,1@attn"]), ["3,0", "0:4,1@attn"]),
    ],
)  # fmt: skip
def test_a_generator_makes_its_plans_in_order(generator, expected):
    assert frankens(generator) == parse_all(expected)


def test_rys_without_limits_is_every_block_twice():
    plans = frankens(Rys(), n_layers=5)
    assert len(plans) == 15
    assert set(plans) == {looped(i, j, 2, 5) for i in range(5) for j in range(i + 1, 6)}


def test_a_plan_listed_twice_is_folded_into_the_first_and_reported():
    grid = expand(
        [
            Layers(layer=[1, 2]),
            Blocks(length=1, start=1),
            Explicit(plans=["base", "0:2,1:4", "0:4,3"]),
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
        [Rys(min_length=5)],
        [Layers(layer="2:2")],
        [Layers(times=1)],
        [Explicit(plans=["base", "0:4"])],
    ],
)
def test_an_empty_grid_is_refused(generators):
    with pytest.raises(UserError, match="^config: plans: the grid is empty"):
        expand(generators, 4)


@pytest.mark.parametrize(
    ("generator", "fault"),
    [
        (Layers(layer=[0, 4]), "layer 4: the model has 4 layers, 0 to 3"),
        (Layers(times=0), "times must be 1 or more"),
        (Blocks(length=1, start=4), "start 4: the model has 4 layers"),
        (Blocks(length=5), "length 5: the model has 4 layers"),
        (Blocks(length=0), "length 0"),
        (RandomBlocks(length=5, count=1), "length 5: the model has 4"),
        (DepthUpScaling(drop=4), "drop 4 leaves nothing of the model's 4"),
        (Explicit(plans=["0:5"]), "the model has 4 layers, 0 to 3"),
        (Layers(layer="0:99999999999"), "0:99999999999 is too large"),
        (Layers(layer="0:" + "9" * 5000), "is too large"),
        (Layers(times=9998), "would run 10,001 layers, at most 10,000"),
        (Layers(times="2:10:0"), "its step is 0"),
        (RandomBlocks(length=4, times=9000, count=1), "36,000 layers"),
    ],
)
def test_a_layer_that_the_model_lacks_is_refused_with_its_place_and_the_depth(generator, fault):
    with pytest.raises(UserError) as error:
        expand([Layers(), generator], 4)
    assert str(error.value).startswith(f"config: plans.1 ({generator.generator}): ")
    assert fault in str(error.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, [3]), ((4, 1), [4, 1]), ("2:5", [2, 3, 4]), ("0:10:4", [0, 4, 8]), ("3:3", [])],
)
def test_numbers_are_written_as_in_python(value, expected):
    assert list(numbers(value)) == expected


def test_random_blocks_are_distinct_repeatable_and_no_more_than_there_are():
    settings = RandomBlocks(length=2, count=3, seed=5)
    assert frankens(settings, n_layers=9) == frankens(settings, n_layers=9)
    assert frankens(settings, n_layers=9) != frankens(settings.changed(seed=6), n_layers=9)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "generator",
    [
        Layers(times="1:9990"),
        Rys(),
        RandomBlocks(length=1, times="2:9000", count=1),
        Blocks(length=[900] * 9999, start=[899] * 9999, times="1:50"),
    ],
)
def test_a_grid_of_a_size_that_nobody_means_is_refused_before_it_takes_long(generator, monkeypatch):
    monkeypatch.setattr(grid, "MAX_PLANS", 2000)
    monkeypatch.setattr(grid, "MAX_GRID_STEPS", 10**6)
    grid._expand.cache_clear()
    with pytest.raises(UserError, match="the grid is too large, at most 2,000 plans"):
        expand([generator], 900)


@pytest.mark.slow
def test_all_blocks_of_the_deepest_published_model_are_made():
    assert len(expand([Rys()], 126).plans) == 1 + 126 * 127 // 2


def test_plans_that_leave_layers_out_are_noticed_one_by_one_or_all_at_once():
    few = Explicit(plans=["0:3", "0:4,2", "0:4x2"])
    lines = list(notices(expand([few], 4)))
    assert [line.split(" (the model")[0] for line in lines] == [
        "plan 0:3 (explicit) never runs the layer 3 and ends with layer 2",
        "plan 0:4,2 (explicit) ends with layer 2",
    ]
    many = DepthUpScaling(drop="16:30")
    (line,) = notices(expand([many], 30))
    assert line.startswith("14 plans of depth_up_scaling never run some layers or end before the ")
    assert "0:14,16:30, never runs the layers 14:16" in line
