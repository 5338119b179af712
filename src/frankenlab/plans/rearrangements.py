"""Generators of plans that run no layer again: what duplication is to be compared with."""

from collections.abc import Iterator, Sequence
from typing import Literal

from frankenlab.io.errors import UserError
from frankenlab.io.sections import OptionalKey, Section
from frankenlab.plans.numbers import LayerNumbers, Parts, lengths, parts, positions
from frankenlab.plans.plan import Change, Plan, from_steps
from frankenlab.plans.steps import Step


class Skip(Section):
    """The model without a block of `length` layers, or without their attention or MLP."""

    generator: Literal["skip"] = "skip"
    start: OptionalKey[LayerNumbers] = None
    """First layers; by default all, as far as the block does not reach past the last layer."""
    length: LayerNumbers = 1
    part: Parts = "block"

    def make(self, n_layers: int) -> Iterator[Plan | None]:
        """Yield the plans; None for a block that reaches past the last layer."""
        for part in parts(self.part):
            for length in lengths(self.length, n_layers):
                if length == n_layers and part == "block":
                    raise UserError(
                        f"length {length} leaves nothing of the model's {n_layers} layers"
                    )
                for start in positions(self.start, n_layers):
                    fits = start + length <= n_layers
                    change = Change(start, start + length, 0, part)
                    yield change.plan(n_layers) if fits else None


class Swap(Section):
    """Two neighbouring layers, or blocks of `length` layers, in each other's place."""

    generator: Literal["swap"] = "swap"
    start: OptionalKey[LayerNumbers] = None
    """First layers of the first block; by default all, as far as the second block does not reach
    past the last layer."""
    length: LayerNumbers = 1

    def make(self, n_layers: int) -> Iterator[Plan | None]:
        """Yield the plans; None where the second block reaches past the last layer."""
        for length in lengths(self.length, n_layers):
            order = [*range(length, 2 * length), *range(length)]
            yield from _reordered(positions(self.start, n_layers), order, n_layers)


class Reverse(Section):
    """A block of `length` layers in reverse order."""

    generator: Literal["reverse"] = "reverse"
    start: OptionalKey[LayerNumbers] = None
    """First layers; by default all, as far as the block does not reach past the last layer."""
    length: LayerNumbers

    def make(self, n_layers: int) -> Iterator[Plan | None]:
        """Yield the plans; None for a block that reaches past the last layer."""
        for length in lengths(self.length, n_layers):
            order = range(length)[::-1]
            yield from _reordered(positions(self.start, n_layers), order, n_layers)


def _reordered(starts: Sequence[int], order: Sequence[int], n_layers: int) -> Iterator[Plan | None]:
    """Yield the base with the layers from each start in another order, None where they reach past
    the last layer.

    Args:
        order: of the layers, counted from their start.
    """
    for start in starts:
        stop = start + len(order)
        layers = [*range(start), *(start + place for place in order), *range(stop, n_layers)]
        yield from_steps(map(Step, layers), n_layers) if stop <= n_layers else None
