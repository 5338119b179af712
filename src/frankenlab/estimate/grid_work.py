"""What it takes to run the plans of a model: layer passes and hidden states, shard by shard."""

from dataclasses import dataclass
from functools import cached_property

from frankenlab.config.settings import Beam
from frankenlab.models.memory import live_states
from frankenlab.plans.grid import Grid
from frankenlab.plans.shards import divide
from frankenlab.plans.trie import plan_trie


@dataclass(frozen=True)
class PlanWork:
    """Plans that a job runs, and the layer passes that they take for each token, common prefixes
    once and plan by plan."""

    count: int
    passes: float
    unshared: float


class GridWork:
    """The plans for models of one depth in their shards, and what running them takes.

    Args:
        beam: how the search grows more of them.
    """

    def __init__(self, grid: Grid, shards: int, beam: Beam | None = None) -> None:
        self.grid = grid
        self.shards = divide(grid.plans, shards)
        self.steps, self.most = (beam.steps, beam.most) if beam else (0, 0)

    @cached_property
    def whole(self) -> PlanWork:
        """The work of all shards together."""
        shards = self.shards.values()
        passes, unshared = (sum(getattr(s, x) for s in shards) for x in ("passes", "unshared"))
        return PlanWork(len(self.grid.plans), passes, unshared)

    @cached_property
    def live_states(self) -> int:
        """Most hidden states that are alive at once in a sweep of all plans."""
        found = live_states(plan_trie(item.plan for item in self.grid.plans))
        # Each grown plan has one that waits for it, and with it those that a window goes back to.
        grown = self.steps * self.most
        return min(found + grown * self._reach, max(found, self._longest + 2)) if grown else found

    def grown(self, shard: int, steps: int) -> PlanWork:
        """Return what the plans take that so many steps of the beam grow, at most, in one of the
        shards, each of which has its share of them.

        A plan that is grown is as deep as the mean of the grid with a second change, and has half
        of its own layers in common with others.
        """
        place, count = list(self.shards).index(shard), steps * self.most
        own = count // len(self.shards) + (place < count % len(self.shards))
        n = self.grid.plans[0].plan.n_layers
        depth = self.whole.unshared / self.whole.count
        deeper = depth + max(depth - n, 0)
        return PlanWork(own, own * deeper / 2, own * deeper)

    def states_of(self, plans: int) -> int:
        """Return the most hidden states alive at once in a sweep of so many plans of the grid.

        Every state that waits has a plan to come, and with it those that a window goes back to; all
        of them are on the path of one plan.
        """
        return 1 + min(plans * self._reach, self._longest + 1)

    @cached_property
    def _reach(self) -> int:
        """Most states that a step goes back: the steps of the longest damped window."""
        return max(step.span for item in self.grid.plans for step in item.plan.steps)

    @cached_property
    def _longest(self) -> int:
        """Most steps of a plan."""
        return self._grown(max(len(item.plan.steps) for item in self.grid.plans))

    def _grown(self, longest: int) -> int:
        """Return how long a plan can get that has one more change with each step of the beam."""
        return longest + self.steps * max(longest - self.grid.plans[0].plan.n_layers, 0)

    @cached_property
    def occurrences(self) -> int:
        """Most occurrences of a plan that attend, and so have a KV cache."""
        plans = (item.plan for item in self.grid.plans)
        return self._grown(max(sum(step.attends for step in plan.steps) for plan in plans))
