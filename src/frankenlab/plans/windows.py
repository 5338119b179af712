"""The generator of damped windows, the form in which looped transformers repeat layers."""

from collections.abc import Iterator
from typing import Literal

from frankenlab.io.sections import OptionalKey, Section
from frankenlab.plans.numbers import (
    LayerNumbers,
    Numbers,
    Scales,
    counts,
    lengths,
    positions,
    scales,
)
from frankenlab.plans.plan import Plan, Window


class Windows(Section):
    """Each window of `length` layers, run `times` times, with each pass damped as a whole:
    h + beta * (g(h) - h), with g for the window (Chen et al. 2026, arXiv:2605.23872)."""

    generator: Literal["window"] = "window"
    start: OptionalKey[LayerNumbers] = None
    """First layers; by default all, as far as the window does not reach past the last layer."""
    length: LayerNumbers
    times: Numbers = 2
    beta: OptionalKey[Scales] = None
    """By default 1 / times: the passes are smaller steps to where one whole pass would go."""

    def make(self, n_layers: int) -> Iterator[Plan | None]:
        """Yield the plans; None for a window that reaches past the last layer."""
        for times in counts(self.times):
            for beta in (1 / times,) if self.beta is None else scales(self.beta):
                for length in lengths(self.length, n_layers):
                    for start in positions(self.start, n_layers):
                        fits = start + length <= n_layers
                        window = Window(start, start + length, times, beta)
                        yield window.plan(n_layers) if fits else None
