"""Generators: what an entry of a config's `plans` may say, and the plans that it makes.

A new generator is one more class, with a name of its own in `generator`, and one more member of
`Generator`. Its fields are the keys of its entry in a config, with their types, bounds and
defaults; `make` yields its plans. config/README.md lists the generators for users.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from frankenlab.io.sections import Section
from frankenlab.plans.plan import Plan, parse
from frankenlab.plans.rearrangements import Reverse, Skip, Swap
from frankenlab.plans.repeats import (
    MAX_PLANS,
    Blocks,
    DepthUpScaling,
    Layers,
    MultiBlock,
    RandomBlocks,
    Rys,
    Spread,
)
from frankenlab.plans.windows import Windows


class Explicit(Section):
    """The plans that are written out."""

    generator: Literal["explicit"] = "explicit"
    plans: tuple[str, ...] = Field(min_length=1, max_length=MAX_PLANS, strict=False)

    def make(self, n_layers: int) -> Iterator[Plan]:
        for text in self.plans:
            yield parse(text, n_layers)


Generator = Annotated[
    Layers
    | Blocks
    | Rys
    | DepthUpScaling
    | RandomBlocks
    | MultiBlock
    | Spread
    | Skip
    | Swap
    | Reverse
    | Windows
    | Explicit,
    Field(discriminator="generator"),
]
