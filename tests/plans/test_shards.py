"""A plan's shard depends on the plan alone, and shards keep prefixes together."""

import pytest

from frankenlab.plans.grid import GridPlan, expand
from frankenlab.plans.plan import BASE, parse
from frankenlab.plans.repeats import Layers, Rys
from frankenlab.plans.shards import Shard, divide, shard_among, shard_of
from frankenlab.plans.trie import plan_trie

GRID = expand([Rys()], 12).plans


def texts(shard: Shard) -> list[str]:
    return [item.plan.text for item in shard.items]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_plan_is_in_one_shard_the_base_too(count: int) -> None:
    found = [text for shard in divide(GRID, count).values() for text in texts(shard)]
    assert sorted(found) == sorted(item.plan.text for item in GRID)
    assert BASE in found


def test_shards_without_a_plan_are_left_out() -> None:
    few = GRID[:3]
    shards = divide(few, 1000)
    assert 1 <= len(shards) <= 3 and list(shards) == sorted(shards)
    assert all(shard.items for shard in shards.values())


def test_an_added_plan_changes_one_shard() -> None:
    more = expand([Rys(), Layers(layer=5, times=3)], 12).plans
    before, after = divide(GRID, 4), divide(more, 4)
    assert len(more) == len(GRID) + 1
    assert len([n for n in after if before.get(n) != after[n]]) == 1


@pytest.mark.parametrize(
    ("same", "other"),
    [
        (["0:8,4:12", "0:8,4:10,3:12", "0:8,4"], "0:8,5:12"),
        (["0:8,4:12@attn", "0:8,4@attn,9:12"], "0:8,4:12"),
        (["0:8", "0:8"], "0:9"),
    ],
)
def test_a_subtree_below_the_trunk_is_never_divided(same: list[str], other: str) -> None:
    shards = {shard_of(parse(text, 12), 10**9) for text in same}
    assert len(shards) == 1 and shard_of(parse(other, 12), 10**9) not in shards


def test_a_prefix_keeps_the_states_that_a_window_below_goes_back_to() -> None:
    """Of windows that end at the same place the longest decides, and none after it."""
    texts_ = ["0:12", "0:3,(3:6)*0.5,6:12", "0:4,(4:6)*0.5,6:12", "0:4,(4:6)*0.25,6:12"]
    node, reaches = plan_trie(parse(text, 12) for text in texts_), []
    for step in parse("0:8", 12).steps:
        reaches.append(node.reach)
        node = node.children[step]
    assert reaches == [1, 1, 1, 1, 2, 3, 1, 1]


def test_only_the_trunk_is_computed_again() -> None:
    nested = [f"0:8,4:12,{i}:12" for i in range(12)] + [f"0:6,2:12,{i}:12" for i in range(12)]
    plans = [GridPlan(parse(text, 12), "explicit") for text in nested]
    whole = Shard(tuple(plans)).passes
    shards = divide(plans, 1000)
    assert len(shards) == 2
    # Their trunks are 8 and 6 layers long; in one shard the longer holds both.
    assert sum(shard.passes for shard in shards.values()) == whole + 6


@pytest.mark.parametrize(("count", "passes", "largest"), [(8, 1.02, 1.23), (32, 1.08, 1.53)])
def test_passes_and_balance_of_all_blocks_of_32_layers(
    count: int, passes: float, largest: float
) -> None:
    grid = expand([Rys()], 32).plans
    sizes = [shard.passes for shard in divide(grid, count).values()]
    assert sum(sizes) / Shard(grid).passes == pytest.approx(passes, abs=0.006)
    assert max(sizes) * len(sizes) / sum(sizes) == pytest.approx(largest, abs=0.006)


def test_sharing_and_its_absence_are_counted() -> None:
    shard = Shard(tuple(GridPlan(parse(t, 12), "explicit") for t in ("base", "0:8,4:12")))
    assert (shard.passes, shard.unshared) == (12 + 8, 12 + 16)


def test_a_plan_beyond_the_grid_goes_to_a_shard_that_there_is():
    plans = [item.plan for item in expand([Rys()], 12).plans]
    for plan in plans:
        own = shard_of(plan, 8)
        assert shard_among(plan, 8, range(8)) == own
        assert shard_among(plan, 8, [own]) == own
        assert shard_among(plan, 8, [1, 4, 6]) in (1, 4, 6)
    assert {shard_among(plan, 8, [1, 4, 6]) for plan in plans} == {1, 4, 6}
