"""The ways in which EXL2 can store a linear layer, and the bits that they take on disk.

As in exllamav2 (conversion/qparams.py), an option gives the most important inputs more bits; bits
never rise from group to group, groups are of one size but for the last.
"""

from dataclasses import dataclass
from math import prod

from frankenlab.io.errors import UserError
from frankenlab.models.exl2.limits import (
    BITS,
    WORD,
    check_inputs,
    check_outputs,
    packed_words,
    padded,
)
from frankenlab.models.shape import HEAD, ModelShape

# Groups of every option divide this number of inputs, so none straddles a multiple of it.
LARGEST_GROUP = 128


@dataclass(frozen=True)
class Option:
    """`group` inputs share scales; `widths` are (bits, per cent of the inputs), widest first."""

    group: int
    widths: tuple[tuple[int, int], ...]

    def groups(self, in_features: int) -> tuple[tuple[int, int], ...]:
        """Return (bits, rows) of each group; the last takes what is left."""
        groups: list[tuple[int, int]] = []
        left = in_features
        for bits, per_cent in self.widths:
            wanted = min(-(-in_features * per_cent // (100 * self.group)), -(-left // self.group))
            for _ in range(wanted):
                rows = min(self.group, left)
                groups.append((bits, rows))
                left -= rows
        return tuple(groups)

    def size(self, out_features: int, in_features: int) -> int:
        """Return the bits of a layer on disk: codes, scales, groups and the order of inputs."""
        groups, stored = self.groups(in_features), padded(out_features)
        words = sum(packed_words(rows, bits) for bits, rows in groups) * stored
        per_group = stored // 8 * WORD + 16 + 2 * 16
        return words * WORD + len(groups) * per_group + in_features * WORD


OPTIONS = (
    Option(64, ((3, 5), (2, 95))),
    Option(64, ((3, 30), (2, 70))),
    Option(64, ((4, 10), (3, 50), (2, 40))),
    Option(128, ((4, 10), (3, 90))),
    Option(128, ((4, 100),)),
    Option(32, ((5, 10), (4, 90))),
    Option(64, ((5, 100),)),
    Option(128, ((6, 100),)),
    Option(128, ((8, 100),)),
)
HEAD_OPTIONS = {bits: Option(LARGEST_GROUP, ((bits, 100),)) for bits in BITS}


def check_shapes(shape: ModelShape, head_bits: int) -> None:
    """Check that a model can be stored as EXL2 that exllamav2 runs, its head at `head_bits`.

    Raises:
        UserError: it cannot; names the tensor and the reason.
    """
    if head_bits not in HEAD_OPTIONS:
        raise UserError(f"head bits {head_bits}: EXL2 has {', '.join(map(str, HEAD_OPTIONS))}")
    for name, (_, inputs) in shape.linears.items():
        check_inputs(f"{name}.weight", inputs)
    check_outputs(shape)


def attainable_bits(shape: ModelShape, head_bits: int) -> tuple[float, float]:
    """Return the lowest and the highest bits per weight of the decoder layers' linear layers.

    The head is checked but does not count, as in `Exl2Directory.bits_per_weight`.

    Raises:
        UserError: as `check_shapes`.
    """
    check_shapes(shape, head_bits)
    linears = [linear for name, linear in shape.linears.items() if name != HEAD]
    weights = sum(map(prod, linears))
    sizes = [[option.size(*linear) for option in OPTIONS] for linear in linears]
    return sum(map(min, sizes)) / weights, sum(map(max, sizes)) / weights
