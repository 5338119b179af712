"""Generators: the plans that they are documented to make."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frankenlab.plans.generators import Explicit
from frankenlab.plans.grid import expand
from frankenlab.plans.plan import Change, Plan, base, looped
from frankenlab.plans.rearrangements import Reverse, Skip, Swap
from frankenlab.plans.repeats import (
    Blocks,
    DepthUpScaling,
    Layers,
    MultiBlock,
    RandomBlocks,
    Rys,
    Spread,
    disjoint,
)
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
        (Layers(layer=1, part=["attn", "mlp"]), ["0:2,1@attn,2:4", "0:2,1@mlp,2:4"]),
        (Layers(layer=1, times=[2, 3], part="attn", in_place=True),
         ["0,1@attn,1:4", "0,1x2@attn,1:4"]),
        (Layers(layer=1, scale=[0.5, -1.0]), ["0:2,1*0.5,2:4", "0:2,1*-1,2:4"]),
        (Layers(layer=[0.0, 0.5, 1.0]), ["0x2,1:4", "0:3,2:4", "0:4,3"]),
        (Blocks(start=0.25, length=0.5, part="attn", scale=0.5), ["0:3,1:3@attn*0.5,3"]),
        (Blocks(start=1, length=2, part="attn", scale=0.5, in_place=True),
         ["0,1@attn,1@attn*0.5,1@mlp,2@attn,2@attn*0.5,2@mlp,3"]),
        (Blocks(start=1, length=2, part="mlp", in_place=True), ["0:2,1@mlp,2,2@mlp,3"]),
        (Blocks(start=1, length=2, in_place=True), ["0,1x2,2x2,3"]),
        (Rys(min_length=0.75, part="mlp"), ["0:3,0:3@mlp,3", "0:4,0:4@mlp", "0:4,1:4@mlp"]),
        (DepthUpScaling(drop=0.25, part="attn"), ["0:3,1:3@attn,3"]),
        (DepthUpScaling(drop=3, part="attn"), ["0,1:3@mlp,3"]),
        (Spread(length=2), ["0x2,1,2x2,3"]),
        (Spread(length=2, times=3, part="mlp"), ["0,0@mlp,1,1@mlp,2,2@mlp,3,3@mlp"]),
        (Spread(length=0.75, times=3), ["0x3,1x2,2x3,3x2"]),
        (MultiBlock(length=1, start=[0, 1, 3], count=9),
         ["0x2,1x2,2:4", "0x2,1:4,3", "0:2,1:4,3"]),
        (MultiBlock(length=2, count=9, part="attn"), ["0:2,0:2@attn,2:4,2:4@attn"]),
        (Skip(), ["1:4", "0,2:4", "0:2,3", "0:3"]),
        (Skip(start=1, length=[1, 0.5], part=["attn", "mlp"]),
         ["0,1@mlp,2:4", "0,1:3@mlp,3", "0,1@attn,2:4", "0,1:3@attn,3"]),
        (Swap(), ["1,0,2:4", "0,2,1,3", "0:2,3,2"]),
        (Swap(length=2), ["2:4,0:2"]),
        (Reverse(length=3), ["2,1,0,3", "0,3,2,1"]),
        (Explicit(plans=["3,0", "0:4*1,1@attn"]), ["3,0", "0:4,1@attn"]),
    ],
)  # fmt: skip
def test_a_generator_makes_its_plans_in_order(generator, expected):
    assert frankens(generator) == parse_all(expected)


def test_rys_without_limits_is_every_block_twice():
    plans = frankens(Rys(), n_layers=5)
    assert len(plans) == 15
    assert set(plans) == {looped(i, j, 2, 5) for i in range(5) for j in range(i + 1, 6)}


def test_random_blocks_are_distinct_repeatable_and_no_more_than_there_are():
    settings = RandomBlocks(length=2, count=3, seed=5)
    assert frankens(settings, n_layers=9) == frankens(settings, n_layers=9)
    assert frankens(settings, n_layers=9) != frankens(settings.changed(seed=6), n_layers=9)
    everything = frankens(RandomBlocks(length=2, times=3, count=99), n_layers=5)
    assert set(everything) == {looped(i, i + 2, 3, 5) for i in range(4)}


@given(
    st.integers(1, 20),
    st.integers(2, 6),
    st.integers(1, 20),
    st.sampled_from(["block", "attn", "mlp"]),
)
def test_spread_costs_what_the_block_costs_and_is_even(length, times, n_layers, part):
    length = min(length, n_layers)
    (plan,) = Spread(length=length, times=times, part=part).make(n_layers)
    assert plan.depth == Change(0, length, times, part).plan(n_layers).depth
    runs = Counter(step.layer for step in plan.steps)
    assert max(runs.values()) - min(runs.values()) <= 1
    # The added layers lie as far from the front as from the back.
    added = [layer for layer in runs for _ in range(runs[layer] - min(runs.values()))]
    if added:
        assert abs(sum(added) / len(added) - (n_layers - 1) / 2) <= 0.5


def test_one_design_means_the_same_stretch_of_every_model():
    design = Blocks(start=[0.25, 0.5], length=0.25)
    for n_layers in (16, 28, 80):
        starts = [plan.change.start for plan in frankens(design, n_layers=n_layers)]
        assert starts == [n_layers // 4, n_layers // 2]


@given(
    st.lists(st.integers(0, 11), unique=True),
    st.integers(1, 3),
    st.integers(2, 4),
    st.integers(1, 9),
)
def test_blocks_are_placed_in_all_ways_or_in_as_many_as_are_asked_for(
    starts, length, blocks, count
):
    ways = {
        chosen
        for chosen in combinations(sorted(starts), blocks)
        if all(b - a >= length for a, b in zip(chosen, chosen[1:], strict=False))
    }
    found = [tuple(way) for way in disjoint(starts, length, blocks, 10**5, seed=1)]
    assert set(found) == ways and len(found) == len(ways)
    some = [tuple(way) for way in disjoint(starts, length, blocks, count, seed=1)]
    assert set(some) <= ways and len(set(some)) == len(some) == min(count, len(ways))


def test_a_sample_of_placed_blocks_depends_on_its_seed_and_is_not_its_beginning():
    settings = MultiBlock(length=3, blocks=3, count=20, seed=5)
    plans = frankens(settings, n_layers=60)
    assert plans == frankens(settings, n_layers=60) and len(plans) == 20
    assert plans != frankens(settings.changed(seed=6), n_layers=60)
    assert max(plan.changes[0].start for plan in plans) > 10
    assert all([c[2:] for c in plan.changes] == [(2, "block", 1.0, False)] * 3 for plan in plans)
