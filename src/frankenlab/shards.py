"""Which plans go into which shard of a grid.

A shard is a set of subtrees of the trie of plans, so that sharing of prefixes is kept; a plan's
shard depends on the plan alone, so that an added plan changes one shard.
"""

from collections.abc import Iterable

from frankenlab.files import content_hash
from frankenlab.grid import GridPlan
from frankenlab.plans import BASE, Plan, base


def members(plans: Iterable[GridPlan], count: int, shard: int) -> list[GridPlan]:
    """The plans of one of `count` shards; the base is in each, as every comparison is with it."""
    return [item for item in plans if item.plan.text == BASE or shard_of(item.plan, count) == shard]


def shard_of(plan: Plan, count: int) -> int:
    """By the place and the step where the plan leaves the base: plans that share it, share most."""
    steps = base(plan.n_layers).steps
    leaves = next(
        (i for i, step in enumerate(plan.steps) if i >= len(steps) or step != steps[i]),
        len(plan.steps),
    )
    return int(content_hash(leaves), 16) % count
