"""The grid: the plans of all generators, each once, and what is refused or noticed."""

import pytest

from frankenlab.io.errors import UserError
from frankenlab.plans import grid
from frankenlab.plans.generators import Explicit
from frankenlab.plans.grid import expand, notices
from frankenlab.plans.rearrangements import Reverse, Skip, Swap
from frankenlab.plans.repeats import (
    Blocks,
    DepthUpScaling,
    Layers,
    MultiBlock,
    RandomBlocks,
    Rys,
)


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
        (Layers(layer="2:2"), 'layer "2:2" has no numbers'),
        (Layers(times="2:2"), 'times "2:2" has no numbers'),
        (Blocks(length=1, start=4), "start 4: the model has 4 layers"),
        (Blocks(length=5), "length 5: the model has 4 layers"),
        (Blocks(length=0), "length 0"),
        (
            MultiBlock(length=2, blocks=3, count=9),
            "3 blocks of length 2 do not fit into the model's 4",
        ),
        (MultiBlock(length=1, start=[2, 4], count=9), "start 4: the model has 4 layers"),
        (Skip(length=4), "length 4 leaves nothing of the model's 4 layers"),
        (Swap(length=5), "length 5: the model has 4 layers"),
        (Reverse(length=2, start=7), "start 7: the model has 4 layers"),
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


def test_the_messages_name_the_key_that_has_the_grid():
    with pytest.raises(UserError, match=r"^config: models\.m\.plans\.0 \(layer\): layer 4: "):
        expand([Layers(layer=4)], 4, "models.m.plans")
    with pytest.raises(UserError, match=r"^config: models\.m\.plans: the grid is empty"):
        expand([], 4, "models.m.plans")


def test_many_plans_that_are_there_already_have_one_notice():
    few, many = Layers(layer=[0.1, 0.2, 0.3]), Layers(layer=[i / 10 for i in range(10)])
    assert list(notices(expand([few], 4))) == ["plan 0,0:4 (layer) is there already"]
    assert list(notices(expand([many], 4))) == [
        "6 plans of layer are there already; the first, 0,0:4, is there already"
    ]


def test_plans_that_are_asked_to_leave_layers_out_are_no_slip():
    asked = [Skip(), Swap(), Reverse(length=3)]
    assert not list(notices(expand(asked, 4)))
    assert list(notices(expand([Explicit(plans=["1:4"])], 4)))


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
