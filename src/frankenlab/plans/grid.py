"""The grid of a config: the plans of all its generators, each once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from frankenlab.io.errors import UserError, excerpt
from frankenlab.plans.generators import MAX_PLANS, Generator
from frankenlab.plans.plan import Plan, base, omissions

# Far beyond what any machine evaluates: all (i, j) of 126 layers run 1.3 million layers. More is a
# slip, and refused before it takes minutes and gigabytes.
MAX_GRID_STEPS = 5_000_000

# A generator with more plans than these that leave layers out has one notice for all of them.
NOTICES = 5


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


def expand(generators: Sequence[Generator], n_layers: int) -> Grid:
    """Return all plans of a config for a model of `n_layers` layers.

    Raises:
        UserError: a layer that the model does not have, or a grid without any franken.
    """
    return _expand(tuple(generators), n_layers)


@cache  # The same grid is asked for by many; large ones take seconds.
def _expand(generators: tuple[Generator, ...], n_layers: int) -> Grid:
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
            raise UserError(f"config: plans.{place} ({group}): {error}") from None
    if len(found) == 1:
        raise UserError(
            "config: plans: the grid is empty, no generator gives a plan other than the base"
        )
    return Grid(tuple(GridPlan(plan, group) for plan, group in found.items()), tuple(folded))


def notices(grid: Grid) -> Iterator[str]:
    """Yield a line for every plan that is in the grid twice or leaves layers of its model out.

    A generator with many of the latter has one line for all of them.
    """
    for text, group in grid.folded:
        yield f"plan {excerpt(text)} ({group}) is there already"
    short = [(item, what) for item in grid.plans if (what := omissions(item.plan))]
    counts = Counter(item.group for item, _ in short)
    seen = set()
    for item, what in short:
        count = counts[item.group]
        if count <= NOTICES:
            yield f"plan {excerpt(item.plan.text)} ({item.group}) {what}"
        elif item.group not in seen:
            seen.add(item.group)
            yield (
                f"{count} plans of {item.group} never run some layers or end before the last; "
                f"the first, {excerpt(item.plan.text)}, {what}"
            )
