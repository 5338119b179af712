"""Find the scales of a group of weights: the 4-bit quadratic ones that EXL2 stores."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from frankenlab.models.exl2.format import group_scales

# Shares that are tried of the scale at which the largest weight just fits: the fewer the bits, the
# more it pays to clip it.
SHRINKS = {
    2: (1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.52, 0.44),
    3: (1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.58),
    4: (1.0, 0.94, 0.88, 0.82, 0.76, 0.7),
    5: (1.0, 0.95, 0.9, 0.85, 0.8),
    6: (1.0, 0.95, 0.9),
    8: (1.0,),
}
LEVELS = 16
# The least q_scale_max: anything less, divided by 256, is zero in float16.
LEAST = 2.0**-16


class GroupScales(NamedTuple):
    """`nibbles` uint8 [n] and `largest` float16 [linears] are stored; `values` [n] are the scales
    that the kernels compute of them."""

    nibbles: torch.Tensor
    largest: torch.Tensor
    values: torch.Tensor


def code_range(bits: int) -> tuple[int, int]:
    """Return the lowest and the highest signed code."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def fit_scales(
    weights: torch.Tensor, importance: torch.Tensor, bits: int, outputs: Sequence[int]
) -> GroupScales:
    """Return scales of one group, of one or several layers side by side.

    For each output the clipping with the least weighted squared error is found, then the 4-bit
    scale among the three nearest that does best with the values that are really stored.

    Args:
        weights: [rows, n].
        importance: [rows], weights of the squared errors.
        bits: width of the codes.
        outputs: how many of the n belong to each layer; each layer has its own largest scale.
    """
    error = _Errors(weights, importance, bits)
    # The largest weight lies half a step beyond the highest code: clipped to it or rounded.
    base = weights.abs().amax(dim=0) / ((1 << (bits - 1)) - 0.5)
    ideal, least = base, error(base)
    for shrink in SHRINKS[bits][1:]:
        tried = base * shrink
        found = error(tried)
        better = found < least
        ideal, least = torch.where(better, tried, ideal), torch.where(better, found, least)
    parts = ideal.split(list(outputs))
    largest = torch.stack([part.amax() for part in parts]).clamp_(min=LEAST).to(torch.float16)
    spread = largest.repeat_interleave(torch.tensor(outputs, device=weights.device))
    middle = (ideal / spread).sqrt_().mul_(LEVELS).round_().clamp_(1, LEVELS) - 1

    def stored(offset: int) -> tuple[torch.Tensor, torch.Tensor]:
        nibbles = (middle + offset).clamp_(0, LEVELS - 1).to(torch.uint8)
        return nibbles, group_scales(nibbles.unsqueeze(-1), spread).squeeze(-1).to(weights.dtype)

    nibbles, values = stored(0)
    least = error(values)
    for offset in (-1, 1):
        other, scale = stored(offset)
        found = error(scale)
        better = found < least
        nibbles, values = torch.where(better, other, nibbles), torch.where(better, scale, values)
        least = torch.where(better, found, least)
    return GroupScales(nibbles, largest, values)


class _Errors:
    """Gives the weighted squared error [n] of rounding a group's weights with scales [n]."""

    def __init__(self, weights: torch.Tensor, importance: torch.Tensor, bits: int) -> None:
        self.weights, self.range = weights, code_range(bits)
        self.importance = (importance / importance.mean()).unsqueeze(0)
        # Reused: fresh memory for each trial would cost more than the arithmetic.
        self.steps, self.codes = torch.empty_like(weights), torch.empty_like(weights)

    def __call__(self, scale: torch.Tensor) -> torch.Tensor:
        scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
        torch.div(self.weights, scale, out=self.steps)
        torch.round(self.steps, out=self.codes).clamp_(*self.range)
        self.codes.sub_(self.steps).square_()
        return (self.importance @ self.codes).squeeze(0) * scale.square()
