"""The grid of a config: generators -> plans, each once."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from frankenlab.io.errors import UserError, excerpt
from frankenlab.plans.plan import (
    MAX_STEPS,
    Plan,
    Step,
    base,
    from_steps,
    looped,
    number,
    omissions,
    parse,
)

# Far beyond what any machine evaluates: all (i, j) of 126 layers are 8,000 plans that run 1.3
# million layers. More is a slip, and is told before it takes minutes and gigabytes.
MAX_PLANS = 200_000
MAX_GRID_STEPS = 5_000_000

# A generator with more plans than these that leave layers out has one notice for all of them.
NOTICES = 5

_RANGE = re.compile(r"[0-9]+:[0-9]+(:[0-9]+)?")


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


def expand(generators: Sequence[Mapping[str, Any]], n_layers: int) -> Grid:
    """All plans of a config for a model of `n_layers` layers.

    Raises:
        UserError: a layer that the model does not have, or a grid without any franken.
    """
    # The same grid is asked for by many; large ones take seconds.
    return _expand(json.dumps(generators), n_layers)


@cache
def _expand(generators: str, n_layers: int) -> Grid:
    found: dict[Plan, str] = {base(n_layers): "base"}
    folded = []
    asked = steps = 0
    for place, settings in enumerate(json.loads(generators)):
        group = settings["generator"]
        try:
            for plan in GENERATORS[group](settings, n_layers):
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
    """Yield a line for every plan that is in the grid twice and for every plan that leaves layers
    of its model out; a generator with many of the latter has one line for all of them."""
    for text, group in grid.folded:
        yield f"plan {excerpt(text)} ({group}) is there already"
    short = [(item, omissions(item.plan)) for item in grid.plans]
    short = [(item, what) for item, what in short if what]
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


def numbers(value: int | str | Sequence[int]) -> list[int]:
    """Return the numbers that a config means by a number, a list of numbers or
    "start:stop[:step]" as in Python.

    Raises:
        UserError: the text is none of these, its step is 0, or a number is above `MAX_STEPS`.
    """
    if isinstance(value, str):
        if not _RANGE.fullmatch(value):
            raise UserError(f'"{excerpt(value)}" is not "start:stop" or "start:stop:step"')
        start, stop, step = [*map(number, value.split(":")), 1][:3]
        if step == 0:
            raise UserError(f'"{value}": its step is 0, at least 1 is expected')
        found: Sequence[int] = range(start, stop, step)
    else:
        found = [value] if isinstance(value, int) else value
    # Only the last number of a range is looked at, for a range may have billions.
    largest = max(found[-1:] if isinstance(found, range) else found, default=0)
    if largest > MAX_STEPS:
        raise UserError(f"{excerpt(value)} is too large, the largest number here is {MAX_STEPS:,}")
    return list(found)


def random_blocks(
    length: int, times: int, count: int, seed: int, n_layers: int, without: Sequence[Plan] = ()
) -> list[Plan]:
    """Return up to `count` distinct blocks of one length at random places: controls of equal
    cost."""

    def plan(start: int) -> Plan:
        return looped(start, start + length, times, n_layers)

    starts = range(n_layers - length + 1)
    allowed = [start for start in starts if not without or plan(start) not in without]
    return [plan(s) for s in random.Random(seed).sample(allowed, min(count, len(allowed)))]


def equal_cost_controls(plan: Plan, count: int, seed: int) -> list[Plan]:
    """Random plans that run as many layers as `plan` does: what its cost buys without a search.

    A looped block gets blocks of the same length and repetition elsewhere; any other plan gets
    single blocks, run twice, with as many extra layers.
    """
    if plan.loop:
        start, stop, times = plan.loop
        length = stop - start
    else:
        length, times = round(plan.depth) - plan.n_layers, 2
    if not 1 <= length <= plan.n_layers:
        return []
    return random_blocks(length, times, count, seed, plan.n_layers, without=[plan])


def _layer(settings: Mapping[str, Any], n_layers: int) -> Iterator[Plan]:
    """Each single layer, run `times` times."""
    for times in _times(settings):
        for layer in numbers(settings.get("layer", f"0:{n_layers}")):
            _check_layer("layer", layer, n_layers)
            yield _looped(layer, layer + 1, times, n_layers)


def _block(settings: Mapping[str, Any], n_layers: int) -> Iterator[Plan | None]:
    """Blocks of `length` layers from `start`; None for those that reach past the last layer."""
    for times in _times(settings):
        for length in numbers(settings["length"]):
            _check_length(length, n_layers)
            for start in numbers(settings.get("start", f"0:{n_layers}")):
                _check_layer("start", start, n_layers)
                fits = start + length <= n_layers
                yield _looped(start, start + length, times, n_layers) if fits else None


def _rys(settings: Mapping[str, Any], n_layers: int) -> Iterator[Plan]:
    """All (i, j) of RYS: layers 0 to j, then i to the end."""
    low, high = settings.get("min_length", 1), settings.get("max_length", n_layers)
    for i in range(n_layers):
        for j in range(i + low, min(i + high, n_layers) + 1):
            yield looped(i, j, 2, n_layers)


def _depth_up_scaling(settings: Mapping[str, Any], n_layers: int) -> Iterator[Plan]:
    """SOLAR (Kim et al. 2024): the model without its last `drop` layers, then without its first."""
    for drop in numbers(settings["drop"]):
        if drop >= n_layers:
            raise UserError(f"drop {drop} leaves nothing of the model's {n_layers} layers")
        layers = [*range(n_layers - drop), *range(drop, n_layers)]
        yield from_steps(map(Step, layers), n_layers)


def _random_block(settings: Mapping[str, Any], n_layers: int) -> Iterator[Plan]:
    """Blocks at random places."""
    for times in _times(settings):
        for length in numbers(settings["length"]):
            _check_length(length, n_layers)
            seed = settings.get("seed", 1)
            _check_steps(n_layers + length * (times - 1))
            yield from random_blocks(length, times, settings["count"], seed, n_layers)


def _explicit(settings: Mapping[str, Any], n_layers: int) -> Iterator[Plan]:
    """Plans written out."""
    for text in settings["plans"]:
        yield parse(text, n_layers)


GENERATORS = {
    "layer": _layer,
    "block": _block,
    "rys": _rys,
    "depth_up_scaling": _depth_up_scaling,
    "random_block": _random_block,
    "explicit": _explicit,
}


def _times(settings: Mapping[str, Any]) -> list[int]:
    times = numbers(settings.get("times", 2))
    if min(times, default=1) < 1:
        raise UserError("times must be 1 or more")
    return times


def _looped(start: int, stop: int, times: int, n_layers: int) -> Plan:
    """Return the loop, unless it runs more layers than a plan may."""
    _check_steps(n_layers + (stop - start) * (times - 1))
    return looped(start, stop, times, n_layers)


def _check_steps(count: int) -> None:
    if count > MAX_STEPS:
        raise UserError(f"a plan would run {count:,} layers, at most {MAX_STEPS:,} can be")


def _check_layer(name: str, layer: int, n_layers: int) -> None:
    if layer >= n_layers:
        raise UserError(f"{name} {layer}: the model has {n_layers} layers, 0 to {n_layers - 1}")


def _check_length(length: int, n_layers: int) -> None:
    if not 1 <= length <= n_layers:
        raise UserError(f"length {length}: the model has {n_layers} layers")
