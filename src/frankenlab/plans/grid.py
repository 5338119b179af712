"""The grid of a config: the plans of all its generators, each once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from frankenlab.io.errors import UserError, excerpt
from frankenlab.plans.generators import Generator
from frankenlab.plans.kinds import Kind, kind_of
from frankenlab.plans.plan import Plan, base, omissions
from frankenlab.plans.rearrangements import Reverse, Skip, Swap
from frankenlab.plans.repeats import MAX_PLANS

# Far beyond what any machine evaluates: all (i, j) of 126 layers run 1.3 million layers. More is a
# slip, and refused before it takes minutes and gigabytes.
MAX_GRID_STEPS = 5_000_000

# A generator with more plans than these that are there already, or leave layers out, has one notice
# for all of them.
NOTICES = 5
# Plans of these generators leave layers out, or end with another one, because they are asked to.
DELIBERATE = [kind.model_fields["generator"].default for kind in (Skip, Swap, Reverse)]


@dataclass(frozen=True)
class GridPlan:
    """A plan and the generator that made it first ("base" for the base)."""

    plan: Plan
    group: str


@dataclass(frozen=True)
class Grid:
    """Distinct plans, the base first.

    Attributes:
        folded: (canonical text, group) of every plan that was there already.
    """

    plans: tuple[GridPlan, ...]
    folded: tuple[tuple[str, str], ...]

    @cached_property
    def kinds(self) -> frozenset[Kind]:
        """Return the kinds of its plans."""
        return frozenset(kind_of(item.plan, item.group) for item in self.plans[1:])


def expand(generators: Sequence[Generator], n_layers: int, where: str = "plans") -> Grid:
    """Return all plans of a config for a model of `n_layers` layers.

    Args:
        where: the key of the config that has the generators, for messages.

    Raises:
        UserError: a layer that the model does not have, or a grid without any franken.
    """
    return _expand(tuple(generators), n_layers, where)


@cache  # The same grid is asked for by many; large ones take seconds.
def _expand(generators: tuple[Generator, ...], n_layers: int, where: str) -> Grid:
    found: dict[Plan, str] = {base(n_layers): "base"}
    folded = []
    asked = steps = 0
    for place, entry in enumerate(generators):
        group = entry.generator
        try:
            for plan in entry.make(n_layers):
                asked += 1
                steps += len(plan.steps) if plan else 0
                if asked > MAX_PLANS or steps > MAX_GRID_STEPS:
                    raise UserError(
                        f"the grid is too large, at most {MAX_PLANS:,} plans that run "
                        f"{MAX_GRID_STEPS:,} layers are made"
                    )
                if plan in found:
                    folded.append((plan.text, group))
                elif plan:
                    found[plan] = group
        except UserError as error:
            raise UserError(f"config: {where}.{place} ({group}): {error}") from None
    if len(found) == 1:
        raise UserError(
            f"config: {where}: the grid is empty, no generator gives a plan other than the base"
        )
    return Grid(tuple(GridPlan(plan, group) for plan, group in found.items()), tuple(folded))


def notices(grid: Grid) -> Iterator[str]:
    """Yield a line for every plan that is in the grid twice, or that leaves layers of its model out
    and was not asked to.

    A generator with many of either has one line for all of them.
    """
    twice = [(text, group, "is there already") for text, group in grid.folded]
    yield from _notices(twice, "are there already")
    short = [
        (item.plan.text, item.group, what)
        for item in grid.plans
        if item.group not in DELIBERATE and (what := omissions(item.plan))
    ]
    yield from _notices(short, "never run some layers or end before the last")


def _notices(found: Sequence[tuple[str, str, str]], many: str) -> Iterator[str]:
    """Yield lines about plans.

    Args:
        found: (text, group, what is to be said of the plan).
        many: what is said of many plans of one generator.
    """
    counts = Counter(group for _, group, _ in found)
    seen = set()
    for text, group, what in found:
        if counts[group] <= NOTICES:
            yield f"plan {excerpt(text)} ({group}) {what}"
        elif group not in seen:
            seen.add(group)
            yield f"{counts[group]} plans of {group} {many}; the first, {excerpt(text)}, {what}"
