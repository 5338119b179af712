"""The grid of a config: generators -> plans, each once."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from frankenlab.errors import UserError
from frankenlab.plans import Plan, Step, base, from_steps, looped, parse


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
    for number, settings in enumerate(json.loads(generators)):
        group = settings["generator"]
        try:
            for plan in GENERATORS[group](settings, n_layers):
                if plan in found:
                    folded.append((plan.text, group))
                found.setdefault(plan, group)
        except UserError as error:
            raise UserError(f"config: plans.{number} ({group}): {error}") from None
    if len(found) == 1:
        raise UserError(
            "config: plans: the grid is empty, no generator gives a plan other than the base"
        )
    return Grid(tuple(GridPlan(plan, group) for plan, group in found.items()), tuple(folded))


def numbers(value: int | str | Sequence[int]) -> list[int]:
    """A number, a list of numbers or "start:stop[:step]" as in Python -> list of numbers."""
    if isinstance(value, str):
        return list(range(*map(int, value.split(":"))))
    return [value] if isinstance(value, int) else list(value)


def random_blocks(
    length: int, times: int, count: int, seed: int, n_layers: int, without: Sequence[Plan] = ()
) -> list[Plan]:
    """Up to `count` distinct blocks of one length at random places: controls of equal cost."""
    candidates = [looped(s, s + length, times, n_layers) for s in range(n_layers - length + 1)]
    allowed = [plan for plan in candidates if plan not in without]
    return random.Random(seed).sample(allowed, min(count, len(allowed)))


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
            yield looped(layer, layer + 1, times, n_layers)


def _block(settings: Mapping[str, Any], n_layers: int) -> Iterator[Plan]:
    """Blocks of `length` layers from `start`; those that reach past the last layer are left out."""
    for times in _times(settings):
        for length in numbers(settings["length"]):
            _check_length(length, n_layers)
            for start in numbers(settings.get("start", f"0:{n_layers}")):
                _check_layer("start", start, n_layers)
                if start + length <= n_layers:
                    yield looped(start, start + length, times, n_layers)


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


def _check_layer(name: str, layer: int, n_layers: int) -> None:
    if layer >= n_layers:
        raise UserError(f"{name} {layer}: the model has {n_layers} layers, 0 to {n_layers - 1}")


def _check_length(length: int, n_layers: int) -> None:
    if not 1 <= length <= n_layers:
        raise UserError(f"length {length}: the model has {n_layers} layers")
