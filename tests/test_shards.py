"""A plan's shard depends on the plan alone, and shards keep prefixes together."""

import pytest

from frankenlab.grid import expand
from frankenlab.plans import BASE
from frankenlab.shards import members, shard_of
from frankenlab.sweep import layer_passes, plan_trie

GRID = expand([{"generator": "rys"}], 12).plans


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_plan_is_in_one_shard_and_the_base_in_each(count: int) -> None:
    shards = [members(GRID, count, shard) for shard in range(count)]
    assert all(shard[0].plan.text == BASE for shard in shards)
    texts = [item.plan.text for shard in shards for item in shard[1:]]
    assert sorted(texts) == sorted(item.plan.text for item in GRID[1:])


def test_an_added_plan_changes_one_shard() -> None:
    more = expand([{"generator": "rys"}, {"generator": "layer", "layer": 5, "times": 3}], 12).plans
    changed = [s for s in range(4) if members(GRID, 4, s) != members(more, 4, s)]
    assert len(changed) == 1


def test_plans_that_leave_the_base_at_the_same_place_stay_together() -> None:
    plans = [item.plan for item in GRID if item.plan.loop and item.plan.loop[1] == 8]
    assert len({shard_of(plan, 7) for plan in plans}) == 1


def test_sharding_keeps_most_of_the_sharing() -> None:
    whole = layer_passes(plan_trie(item.plan for item in GRID))
    parts = sum(
        layer_passes(plan_trie(item.plan for item in members(GRID, 3, shard))) for shard in range(3)
    )
    assert parts <= whole + 2 * 12
