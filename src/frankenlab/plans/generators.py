"""Generators: what an entry of a config's `plans` may say, and the plans that it makes.

A new generator is one more class here, with a name of its own in `generator`, and one more member
of `Generator`. Its fields are the keys of its entry in a config, with their types, bounds and
defaults; `make` yields its plans. config/README.md lists the generators for users.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from frankenlab.io.errors import UserError, excerpt
from frankenlab.io.sections import OptionalKey, Section
from frankenlab.plans.plan import Plan, from_steps, looped, parse
from frankenlab.plans.steps import MAX_LAYERS, MAX_STEPS, Step, number

# Far beyond what any machine evaluates: all (i, j) of 126 layers are 8,000 plans.
MAX_PLANS = 200_000


def _one_error(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Raise one error where each member of a union would have its own."""
    try:
        return check(value)
    except ValidationError:
        raise PydanticCustomError("numbers", "none of these") from None


LayerCount = Annotated[int, Field(ge=1, le=MAX_LAYERS)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
# A list becomes a tuple, so that a generator can be the key of a cache.
_Number = Annotated[int, Field(ge=0, le=MAX_STEPS)]
Numbers = Annotated[
    _Number
    | Annotated[tuple[_Number, ...], Field(min_length=1, max_length=MAX_STEPS, strict=False)]
    | Annotated[str, Field(pattern="^[0-9]+:[0-9]+(:[0-9]+)?$")],
    WrapValidator(_one_error),
    Field(
        description=f"A number from 0 to {MAX_STEPS:,}, a list of such numbers, or "
        '"start:stop[:step]" as in Python.'
    ),
]


class Layers(Section):
    """Each single layer, run `times` times."""

    generator: Literal["layer"] = "layer"
    layer: OptionalKey[Numbers] = None
    """By default all."""
    times: Numbers = 2

    def make(self, n_layers: int) -> Iterator[Plan]:
        for times in _times(self.times):
            for layer in numbers(self.layer, n_layers):
                _check_layer("layer", layer, n_layers)
                yield looped(layer, layer + 1, times, n_layers)


class Blocks(Section):
    """Each block of `length` layers, run `times` times."""

    generator: Literal["block"] = "block"
    start: OptionalKey[Numbers] = None
    """First layers; by default all, as far as the block does not reach past the last layer."""
    length: Numbers
    times: Numbers = 2

    def make(self, n_layers: int) -> Iterator[Plan | None]:
        """Yield the plans; None for a block that reaches past the last layer."""
        for times in _times(self.times):
            for length in numbers(self.length):
                _check_length(length, n_layers)
                for start in numbers(self.start, n_layers):
                    _check_layer("start", start, n_layers)
                    fits = start + length <= n_layers
                    yield looped(start, start + length, times, n_layers) if fits else None


class Rys(Section):
    """All (i, j) of RYS: layers 0 to j, then i to the end."""

    generator: Literal["rys"] = "rys"
    min_length: LayerCount = 1
    max_length: OptionalKey[LayerCount] = None
    """By default the model's number of layers."""

    def make(self, n_layers: int) -> Iterator[Plan]:
        longest = self.max_length or n_layers
        for i in range(n_layers):
            for j in range(i + self.min_length, min(i + longest, n_layers) + 1):
                yield looped(i, j, 2, n_layers)


class DepthUpScaling(Section):
    """SOLAR (Kim et al. 2024): the model without its last `drop` layers, then without its first."""

    generator: Literal["depth_up_scaling"] = "depth_up_scaling"
    drop: Numbers

    def make(self, n_layers: int) -> Iterator[Plan]:
        for drop in numbers(self.drop):
            if drop >= n_layers:
                raise UserError(f"drop {drop} leaves nothing of the model's {n_layers} layers")
            layers = [*range(n_layers - drop), *range(drop, n_layers)]
            yield from_steps(map(Step, layers), n_layers)


class RandomBlocks(Section):
    """Up to `count` blocks of `length` layers at random places, run `times` times."""

    generator: Literal["random_block"] = "random_block"
    length: Numbers
    times: Numbers = 2
    count: int = Field(ge=1, le=MAX_PLANS)
    seed: Seed = 1

    def make(self, n_layers: int) -> Iterator[Plan]:
        for times in _times(self.times):
            for length in numbers(self.length):
                _check_length(length, n_layers)
                yield from random_blocks(length, times, self.count, self.seed, n_layers)


class Explicit(Section):
    """The plans that are written out."""

    generator: Literal["explicit"] = "explicit"
    plans: tuple[str, ...] = Field(min_length=1, max_length=MAX_PLANS, strict=False)

    def make(self, n_layers: int) -> Iterator[Plan]:
        for text in self.plans:
            yield parse(text, n_layers)


Generator = Annotated[
    Layers | Blocks | Rys | DepthUpScaling | RandomBlocks | Explicit,
    Field(discriminator="generator"),
]


def numbers(value: Numbers | None, n_layers: int = 0) -> Sequence[int]:
    """Return the numbers that a config means by `Numbers`; None means all layers.

    Raises:
        UserError: the step of a range is 0, or a number is above `MAX_STEPS`.
    """
    if value is None:
        return range(n_layers)
    if isinstance(value, int):
        return [value]
    if not isinstance(value, str):
        return value
    start, stop, step = [*map(number, value.split(":")), 1][:3]
    if step == 0:
        raise UserError(f'"{value}": its step is 0, at least 1 is expected')
    found = range(start, stop, step)
    if found and found[-1] > MAX_STEPS:
        raise UserError(f"{excerpt(value)} is too large, the largest number here is {MAX_STEPS:,}")
    return found


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
    """Return random plans that run as many layers as `plan` does: what its cost buys without a
    search.

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


def _times(value: Numbers) -> Sequence[int]:
    times = numbers(value)
    if min(times, default=1) < 1:
        raise UserError("times must be 1 or more")
    return times


def _check_layer(name: str, layer: int, n_layers: int) -> None:
    if layer >= n_layers:
        raise UserError(f"{name} {layer}: the model has {n_layers} layers, 0 to {n_layers - 1}")


def _check_length(length: int, n_layers: int) -> None:
    if not 1 <= length <= n_layers:
        raise UserError(f"length {length}: the model has {n_layers} layers")
