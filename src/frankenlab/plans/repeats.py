"""Generators of plans that run layers, or a part of them, again.

`part` says what runs again: the whole layers, their attention or their MLP; `scale` is what the
updates of the added runs are multiplied by.
"""

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise, product
from typing import Annotated, Literal

from pydantic import Field

from frankenlab.io.errors import UserError
from frankenlab.io.sections import OptionalKey, Section
from frankenlab.plans.numbers import (
    LayerCount,
    LayerNumbers,
    Length,
    Numbers,
    Part,
    Parts,
    Scales,
    counts,
    lengths,
    parts,
    positions,
    scales,
)
from frankenlab.plans.plan import Change, Plan, changed

# Far beyond what any machine evaluates: all (i, j) of 126 layers are 8,000 plans.
MAX_PLANS = 200_000
# Blocks of one plan; the ways to place more are too many to count.
MAX_BLOCKS = 6

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
PlanCount = Annotated[int, Field(ge=1, le=MAX_PLANS)]


class Layers(Section):
    """Each single layer, run `times` times."""

    generator: Literal["layer"] = "layer"
    layer: OptionalKey[LayerNumbers] = None
    """By default all."""
    times: Numbers = 2
    part: Parts = "block"
    scale: Scales = 1.0
    in_place: bool = False
    """Attention runs again before the MLP of its layer, not after it."""

    def make(self, n_layers: int) -> Iterator[Plan]:
        for times, part, scale in _ways(self.times, self.part, self.scale):
            for layer in positions(self.layer, n_layers, "layer"):
                change = Change(layer, layer + 1, times, part, scale, self.in_place)
                yield change.plan(n_layers)


class Blocks(Section):
    """Each block of `length` layers, run `times` times."""

    generator: Literal["block"] = "block"
    start: OptionalKey[LayerNumbers] = None
    """First layers; by default all, as far as the block does not reach past the last layer."""
    length: LayerNumbers
    times: Numbers = 2
    part: Parts = "block"
    scale: Scales = 1.0
    in_place: bool = False
    """Each layer runs again before the next one runs, its attention before its MLP."""

    def make(self, n_layers: int) -> Iterator[Plan | None]:
        """Yield the plans; None for a block that reaches past the last layer."""
        for times, part, scale in _ways(self.times, self.part, self.scale):
            for length in lengths(self.length, n_layers):
                for start in positions(self.start, n_layers):
                    change = Change(start, start + length, times, part, scale, self.in_place)
                    yield change.plan(n_layers) if change.stop <= n_layers else None


class Rys(Section):
    """All (i, j) of RYS: layers 0 to j, then i to the end."""

    generator: Literal["rys"] = "rys"
    min_length: Length = 1
    max_length: OptionalKey[Length] = None
    """By default the model's number of layers."""
    part: Parts = "block"
    scale: Scales = 1.0

    def make(self, n_layers: int) -> Iterator[Plan]:
        # Limits may be beyond the model's depth: a grid is then empty, or has all blocks.
        shortest = _limit(self.min_length, n_layers)
        longest = _limit(self.max_length or n_layers, n_layers)
        for part, scale in product(parts(self.part), scales(self.scale)):
            for i in range(n_layers):
                for j in range(i + shortest, min(i + longest, n_layers) + 1):
                    yield Change(i, j, 2, part, scale).plan(n_layers)


class DepthUpScaling(Section):
    """SOLAR (Kim et al. 2024): the model without its last `drop` layers, then without its first.

    The layers in the middle run twice, or the part of them that `part` says; if `drop` is more than
    half of the layers, those in the middle never run.
    """

    generator: Literal["depth_up_scaling"] = "depth_up_scaling"
    drop: LayerNumbers
    part: Parts = "block"
    scale: Scales = 1.0

    def make(self, n_layers: int) -> Iterator[Plan]:
        for part, scale in product(parts(self.part), scales(self.scale)):
            for drop in lengths(self.drop, n_layers, "drop", least=0):
                if drop == n_layers:
                    raise UserError(f"drop {drop} leaves nothing of the model's {n_layers} layers")
                if 2 * drop <= n_layers:
                    yield Change(drop, n_layers - drop, 2, part, scale).plan(n_layers)
                else:
                    yield Change(n_layers - drop, drop, 0, part).plan(n_layers)


class RandomBlocks(Section):
    """Up to `count` blocks of `length` layers at random places, run `times` times."""

    generator: Literal["random_block"] = "random_block"
    length: LayerNumbers
    times: Numbers = 2
    count: PlanCount
    seed: Seed = 1
    part: Parts = "block"
    scale: Scales = 1.0

    def make(self, n_layers: int) -> Iterator[Plan]:
        for times, part, scale in _ways(self.times, self.part, self.scale):
            for length in lengths(self.length, n_layers):
                starts = range(n_layers - length + 1)
                for start in _some(starts, self.count, self.seed):
                    yield Change(start, start + length, times, part, scale).plan(n_layers)


class Spread(Section):
    """The cost of a block of `length` layers that runs `times` times, spent without a choice of
    layers: as many added runs, evenly over the depth, each after its own layer."""

    generator: Literal["spread"] = "spread"
    length: LayerNumbers
    times: Numbers = 2
    part: Parts = "block"
    scale: Scales = 1.0

    def make(self, n_layers: int) -> Iterator[Plan]:
        for times, part, scale in _ways(self.times, self.part, self.scale):
            for length in lengths(self.length, n_layers):
                added = length * (times - 1)
                # How many of the middles of so many equal stretches of the depth are passed.
                passed = [(2 * added * i + n_layers) // (2 * n_layers) for i in range(n_layers + 1)]
                changes = [
                    Change(layer, layer + 1, 1 + after - before, part, scale)
                    for layer, (before, after) in enumerate(pairwise(passed))
                ]
                yield changed(changes, n_layers)


class MultiBlock(Section):
    """Up to `count` plans in which `blocks` blocks of `length` layers, none of which overlap, run
    `times` times each: all ways to place them, or a random sample."""

    generator: Literal["multi_block"] = "multi_block"
    blocks: int = Field(default=2, ge=2, le=MAX_BLOCKS)
    start: OptionalKey[LayerNumbers] = None
    """First layers that blocks may have; by default all."""
    length: LayerNumbers
    times: Numbers = 2
    count: PlanCount
    seed: Seed = 1
    part: Parts = "block"
    scale: Scales = 1.0

    def make(self, n_layers: int) -> Iterator[Plan]:
        for length in lengths(self.length, n_layers):
            starts = [s for s in positions(self.start, n_layers) if s + length <= n_layers]
            placed = disjoint(starts, length, self.blocks, self.count, self.seed)
            if not placed:
                raise UserError(
                    f"{self.blocks} blocks of length {length} do not fit into the model's "
                    f"{n_layers} layers without an overlap"
                )
            for times, part, scale in _ways(self.times, self.part, self.scale):
                for chosen in placed:
                    blocks = [Change(start, start + length, times, part, scale) for start in chosen]
                    yield changed(blocks, n_layers)


def disjoint(
    starts: Sequence[int], length: int, blocks: int, count: int, seed: int
) -> list[list[int]]:
    """Return the starts of blocks that do not overlap: all ways to place them, or `count` at
    random, each as likely as any other.

    Args:
        starts: where a block may begin.
        length: of every block.
    """
    places = sorted(set(starts))
    following = [bisect_left(places, start + length) for start in places]

    @cache
    def ways(first: int, left: int) -> int:
        """Return in how many ways `left` blocks fit into the places from the number `first` on."""
        if left == 0 or first == len(places):
            return int(left == 0)
        return ways(first + 1, left) + ways(following[first], left - 1)

    # Filled from the end, so that the recursion stays flat.
    for first in reversed(range(len(places))):
        for left in range(blocks + 1):
            ways(first, left)
    found = []
    for rank in sorted(_some(range(ways(0, blocks)), count, seed)):
        first = 0
        chosen: list[int] = []
        while len(chosen) < blocks:
            taken = ways(following[first], blocks - len(chosen) - 1)
            if rank < taken:
                chosen.append(places[first])
                first = following[first]
            else:
                rank -= taken
                first += 1
        found.append(chosen)
    return found


def _some(values: range, count: int, seed: int) -> list[int]:
    """Return `count` of the values at random, or all where there are no more."""
    return random.Random(seed).sample(values, min(count, len(values)))


def _ways(times: Numbers, part: Parts, scale: Scales) -> Iterator[tuple[int, Part, float]]:
    """Yield (times, part, scale) of all combinations."""
    for one, factor in product(parts(part), scales(scale)):
        for number in counts(times):
            yield number, one, factor


def _limit(length: LayerCount | float, n_layers: int) -> int:
    return lengths(length, n_layers)[0] if isinstance(length, float) else length
