"""Round weights by GPTQ (Frantar et al. 2023) into EXL2's groups, many options at a time.

Layers that read the same inputs share a Hessian H = mean of x xᵀ and are rounded side by side, each
option of them too. With H⁻¹ = Uᵀ U, U upper triangular, input i is rounded, its error e is divided
by U[i, i], and e · U[i, j] is taken from every later input j. The sum of all e² is then exactly
tr(Δ H Δᵀ), the squared error of the outputs: an option's error costs nothing to know.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from frankenlab.io.errors import UserError
from frankenlab.models.exl2.format import Codes
from frankenlab.models.exl2.options import LARGEST_GROUP, Option
from frankenlab.quantize.scales import GroupScales, code_range, fit_scales

# What is added to H's diagonal, as a share of its mean; ten times more each time that H turns out
# not to be invertible in the precision at hand.
DAMPING = 0.01
ATTEMPTS = 5
# Inputs whose errors are passed on to the rest of their block together; all groups are multiples
# of it.
STRIP = 32
# Weights, over all options, that are rounded at a time.
AT_ONCE = 1 << 25
# The most outputs of a layer that its errors are measured on.
MEASURED_OUTPUTS = 96


@dataclass(frozen=True)
class Inputs:
    """What GPTQ knows about the inputs of a layer.

    Attributes:
        order: int64 [K], inputs by falling importance (the mean of x²).
        factor: [K, K], U of the damped H in that order; the identity to round to nearest.
    """

    order: torch.Tensor
    factor: torch.Tensor

    def nearest(self) -> "Inputs":
        """Return the same order with no errors passed on, which rounds to nearest."""
        same = torch.eye(len(self.order), dtype=self.factor.dtype, device=self.factor.device)
        return Inputs(self.order, same)


def prepare_inputs(name: str, hessian: torch.Tensor) -> Inputs:
    """Sort and factorize H [K, K]; `name` is the layer's, for error messages.

    Raises:
        UserError: the inputs are not finite, or H cannot be inverted.
    """
    diagonal = hessian.diagonal()
    mean = diagonal.mean()
    if not torch.isfinite(mean):
        raise UserError(f"tensor '{name}.weight': the calibration text makes its inputs infinite")
    order = torch.argsort(diagonal, descending=True, stable=True)
    # A triangular factor from the last input to the first: H = R Rᵀ with R upper triangular, so
    # that U = R⁻¹ without H's inverse, which loses digits.
    flipped = order.flip(0)
    matrix = hessian[flipped][:, flipped]
    damping = DAMPING * mean.clamp(min=1e-10)
    for _ in range(ATTEMPTS):
        damped = matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
            inverse = torch.linalg.solve_triangular(lower, identity, upper=False)
            if torch.isfinite(inverse).all():
                return Inputs(order, inverse.flip(0, 1).contiguous())
        damping = damping * 10
    raise UserError(f"tensor '{name}.weight': the Hessian of its inputs cannot be inverted")


def sample_outputs(weight: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return evenly spaced rows of a weight [out, in], and how many times as many there are in all.

    An output's error depends on other outputs only through the largest scale of a group, so what
    is measured on some of them, times that number, is close to what all would give.
    """
    step = -(-weight.shape[0] // MEASURED_OUTPUTS)
    sample = weight[::step]
    return sample, weight.shape[0] / len(sample)


def measure_errors(
    weights: Sequence[torch.Tensor], inputs: Inputs, options: Sequence[Option]
) -> torch.Tensor:
    """Return tr(Δ H Δᵀ) of every layer with every option, [layers, options], float64.

    Args:
        weights: [out, in], one of each layer that reads the inputs.
    """
    size = sum(weight.numel() for weight in weights)
    at_once = max(AT_ONCE // size, 1)
    errors = []
    for start in range(0, len(options), at_once):
        rounding = _Rounding(weights, inputs, options[start : start + at_once])
        rounding.run()
        errors.append(rounding.errors())
    return torch.cat(errors, dim=1)


def quantize_linears(
    weights: Sequence[torch.Tensor], inputs: Inputs, options: Sequence[Option]
) -> list[Codes]:
    """Return the codes of layers that read the same inputs, each with its own option.

    Layers with the same option are rounded together, without an effect on each other.
    """
    codes: dict[int, Codes] = {}
    for option in dict.fromkeys(options):
        chosen = [i for i, wanted in enumerate(options) if wanted == option]
        rounding = _Rounding([weights[i] for i in chosen], inputs, [option])
        rounding.run()
        codes |= dict(zip(chosen, rounding.codes(0), strict=True))
    return [codes[i] for i in range(len(weights))]


class _Rounding:
    """Rounds layers side by side, a copy of them for each option.

    `weights` [K, options, N] holds the signed codes in the rows that are rounded, and in the
    others what is still to be rounded, with the errors that were passed on.
    """

    def __init__(
        self, weights: Sequence[torch.Tensor], inputs: Inputs, options: Sequence[Option]
    ) -> None:
        self.inputs = inputs
        self.outputs = [weight.shape[0] for weight in weights]
        joined = torch.cat(list(weights)).T[inputs.order].to(inputs.factor.dtype)
        self.inputs_count = len(joined)
        self.weights = joined.unsqueeze(1).repeat(1, len(options), 1)
        self.groups = [option.groups(self.inputs_count) for option in options]
        self.starts = [_starts(groups) for groups in self.groups]
        self.fitted: list[list[GroupScales]] = [[] for _ in options]
        self.squares = self.weights.new_zeros(self.weights.shape[1:], dtype=torch.float64)
        like = self.weights[0]
        self.scale, self.scratch = torch.ones_like(like), torch.empty_like(like)
        self.low, self.high = (like.new_empty((len(options), 1)) for _ in range(2))

    def run(self) -> None:
        """Round everything, block by block: no group straddles two blocks."""
        errors = self.weights.new_empty((LARGEST_GROUP, *self.weights.shape[1:]))
        for start in range(0, self.inputs_count, LARGEST_GROUP):
            end = min(start + LARGEST_GROUP, self.inputs_count)
            for first in range(start, end, STRIP):
                last = first + STRIP
                strip = errors[first - start : last - start]
                self._fit(first)
                self._strip(first, last, strip)
                self._pass_on(strip, first, last, end)
            block = errors[: end - start]
            self.squares += block.square().sum(dim=0, dtype=torch.float64)
            self._pass_on(block, start, end, self.inputs_count)

    def errors(self) -> torch.Tensor:
        """Return the squared errors of the outputs, [layers, options]."""
        return torch.stack([part.sum(-1) for part in self.squares.split(self.outputs, dim=-1)])

    def codes(self, option: int) -> list[Codes]:
        """Return what is to be stored of each layer."""
        groups = self.groups[option]
        rows = torch.tensor([count for _, count in groups], device=self.weights.device)
        zeros = torch.tensor([1 << (bits - 1) for bits, _ in groups], device=self.weights.device)
        values = self.weights[:, option] + zeros.repeat_interleave(rows).unsqueeze(-1)
        nibbles = torch.stack([fitted.nibbles for fitted in self.fitted[option]])
        largest = torch.stack([fitted.largest for fitted in self.fitted[option]])
        parts = zip(
            values.to(torch.uint8).split(self.outputs, dim=-1),
            nibbles.split(self.outputs, dim=-1),
            largest.unbind(dim=-1),
            strict=True,
        )
        return [Codes(*part, groups, self.inputs.order) for part in parts]

    def _fit(self, first: int) -> None:
        """Find the scales of the groups that start at this input."""
        for number, starts in enumerate(self.starts):
            if first not in starts:
                continue
            bits, rows = starts[first]
            chosen = slice(first, first + rows)
            importance = self.inputs.factor.diagonal()[chosen].square().reciprocal()
            fitted = fit_scales(self.weights[chosen, number], importance, bits, self.outputs)
            self.fitted[number].append(fitted)
            self.scale[number] = fitted.values
            self.low[number], self.high[number] = code_range(bits)

    def _strip(self, first: int, last: int, errors: torch.Tensor) -> None:
        """Round the inputs of a strip one after the other; `errors` receives e / U[i, i]."""
        factor = self.inputs.factor
        flat = errors.flatten(1)
        for i in range(first, last):
            row, error = self.weights[i], errors[i - first]
            if i > first:
                above = factor[first:i, i].unsqueeze(0)
                row.view(1, -1).addmm_(above, flat[: i - first], alpha=-1)
            codes = torch.div(row, self.scale, out=self.scratch).round_()
            torch.clamp(codes, self.low, self.high, out=codes)
            torch.mul(codes, self.scale, out=error)
            torch.sub(row, error, out=error).div_(factor[i, i])
            row.copy_(codes)

    def _pass_on(self, errors: torch.Tensor, first: int, last: int, end: int) -> None:
        """Take the errors of inputs [first, last) from inputs [last, end)."""
        if last < end:
            later = self.weights[last:end].flatten(1)
            later.addmm_(self.inputs.factor[first:last, last:end].T, errors.flatten(1), alpha=-1)


def _starts(groups: Sequence[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Return (bits, rows) of each group by its first input."""
    starts, row = {}, 0
    for bits, rows in groups:
        starts[row] = (bits, rows)
        row += rows
    return starts
