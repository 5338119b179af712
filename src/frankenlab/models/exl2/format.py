"""EXL2's quantized linear layer: its tensors, what makes them valid, and the weights they mean.

The format is ExLlamaV2's (exllamav2 0.3.2: conversion/adaptivegptq.py writes it,
exllamav2_ext/cuda/q_matrix.cu reads it). A layer y = x Wᵀ + b with K inputs and N outputs is
stored as Wᵀ, inputs sorted by importance and cut into G groups, outputs padded to 32:

    q_weight     int32   [Σ rows·bits/32, N]  codes, each column of a group a bit stream
    q_groups     int16   [2G]   (bits, first row of q_weight) of each group, unsigned
    q_scale      int32   [G, N/8]   a 4-bit scale for each group and output
    q_scale_max  float16 [G]
    q_invperm    int32   [K]    sorted position of each input
    bias         float16 [N or its unpadded size], where the layer has one

A group of bits b has (words · 32 / b) rows, a multiple of 32 (of 16 where b is 2); widths never
rise from group to group. With s the 4-bit scale and q the code, all in float16:

    w = (q − 2^(b−1)) · ((s + 1)² · (q_scale_max / 256))
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from frankenlab.io.errors import UserError
from frankenlab.models.exl2.limits import (
    ALIGNMENT,
    BITS,
    WORD,
    check_inputs,
    packed_words,
    padded,
)
from frankenlab.models.exl2.packing import (
    pack_columns,
    pack_nibbles,
    unpack_columns,
    unpack_nibbles,
)

PARTS = ("q_weight", "q_scale", "q_scale_max", "q_groups", "q_invperm")
DTYPES = {
    "q_weight": torch.int32,
    "q_scale": torch.int32,
    "q_scale_max": torch.float16,
    "q_groups": torch.int16,
    "q_invperm": torch.int32,
}
# Weights that are unpacked at a time: few enough for a CPU's cache.
CHUNK = 1 << 21


@dataclass(frozen=True)
class Group:
    """Consecutive rows of the sorted Wᵀ that share bit width and scales; `first_word` and `words`
    count rows of q_weight."""

    bits: int
    first_row: int
    rows: int
    first_word: int
    words: int


@dataclass(frozen=True)
class QuantizedLinear:
    """The tensors of a quantized linear layer, as stored (module docstring)."""

    q_weight: torch.Tensor
    q_scale: torch.Tensor
    q_scale_max: torch.Tensor
    q_groups: torch.Tensor
    q_invperm: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def in_features(self) -> int:
        return self.q_invperm.shape[0]

    @property
    def groups(self) -> list[Group]:
        """The groups; raises as `parse_groups` does."""
        return parse_groups(self.q_groups, self.q_weight.shape[0], self.in_features)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors by the names of their parts, a bias only where there is one."""
        parts = {part: getattr(self, part) for part in PARTS}
        return parts if self.bias is None else parts | {"bias": self.bias}


@dataclass(frozen=True)
class Codes:
    """What a quantizer decides about a linear layer, before it is packed.

    Attributes:
        values: uint8 [K, N], codes of Wᵀ with sorted inputs.
        scales: uint8 [G, N], 0 to 15.
        scale_max: float16 [G].
        groups: (bits, rows) of each group; bits never rise from one to the next.
        order: int64 [K], the input that each row belongs to.
    """

    values: torch.Tensor
    scales: torch.Tensor
    scale_max: torch.Tensor
    groups: tuple[tuple[int, int], ...]
    order: torch.Tensor
    bias: torch.Tensor | None = None


def parse_groups(q_groups: torch.Tensor, words: int, in_features: int) -> list[Group]:
    """Return the groups of a layer whose q_weight has `words` rows.

    Raises:
        UserError: bit widths or starts that no EXL2 file can have; the message says which.
    """
    entries = (q_groups.to(torch.int32) & 0xFFFF).tolist()
    bits, starts = entries[::2], entries[1::2]
    groups: list[Group] = []
    for i, (width, start) in enumerate(zip(bits, starts, strict=True)):
        after = starts[i + 1] if i + 1 < len(starts) else words
        row = groups[-1].first_row + groups[-1].rows if groups else 0
        if width not in BITS:
            allowed = ", ".join(map(str, BITS))
            raise UserError(f"group {i} has {width} bits; EXL2 has {allowed}")
        if groups and width > groups[-1].bits:
            raise UserError(
                f"group {i} has {width} bits after one of {groups[-1].bits}; "
                "widths fall from group to group"
            )
        if (i == 0 and start != 0) or after <= start:
            raise UserError(
                f"group {i} starts at row {start} of q_weight and ends at {after}; starts ascend "
                f"from 0 and stay below {words}"
            )
        rows, rest = divmod((after - start) * WORD, width)
        multiple = 16 if width == 2 else ALIGNMENT
        if rest or rows % multiple:
            raise UserError(
                f"group {i} has {after - start} rows of q_weight; at {width} bits they do not hold "
                f"a multiple of {multiple} inputs"
            )
        groups.append(Group(width, row, rows, start, after - start))
    held = sum(group.rows for group in groups)
    if held != in_features:
        raise UserError(f"the groups hold {held} inputs; the layer has {in_features}")
    return groups


def check_linear(name: str, linear: QuantizedLinear, out_features: int, in_features: int) -> None:
    """Check shapes, types and values of a layer's tensors, but for the codes and scales, which
    cannot be wrong by themselves.

    Raises:
        UserError: names the tensor and the reason.
    """
    check_inputs(name, in_features)
    for part, tensor in linear.tensors().items():
        if part in DTYPES and tensor.dtype != DTYPES[part]:
            raise UserError(f"tensor '{name}.{part}': {tensor.dtype}, expected {DTYPES[part]}")
    stored = padded(out_features)
    if linear.q_weight.ndim != 2:
        dimensions = list(linear.q_weight.shape)
        raise UserError(f"tensor '{name}.q_weight': shape {dimensions}, expected two dimensions")
    n_groups = linear.q_groups.numel() // 2
    expected = {
        "q_weight": (linear.q_weight.shape[0], stored),
        "q_groups": (2 * n_groups,),
        "q_scale": (n_groups, stored // 8),
        "q_scale_max": (n_groups,),
        "q_invperm": (in_features,),
    }
    for part, shape in expected.items():
        found = tuple(getattr(linear, part).shape)
        if found != shape or not found[0]:
            raise UserError(f"tensor '{name}.{part}': shape {list(found)}, expected {list(shape)}")
    bias = linear.bias
    if bias is not None and tuple(bias.shape) not in ((out_features,), (stored,)):
        raise UserError(
            f"tensor '{name}.bias': shape {list(bias.shape)}, expected [{out_features}]"
        )
    if bias is not None and not bias.is_floating_point():
        raise UserError(f"tensor '{name}.bias': {bias.dtype}, expected torch.float16")
    try:
        parse_groups(linear.q_groups, linear.q_weight.shape[0], in_features)
    except UserError as error:
        raise UserError(f"tensor '{name}.q_groups': {error}") from None
    places = torch.sort(linear.q_invperm).values
    if not torch.equal(places, torch.arange(in_features, dtype=places.dtype, device=places.device)):
        raise UserError(f"tensor '{name}.q_invperm': not each of 0 to {in_features - 1} once")
    if not torch.isfinite(linear.q_scale_max).all():
        raise UserError(f"tensor '{name}.q_scale_max': not finite")


def group_scales(scales: torch.Tensor, scale_max: torch.Tensor) -> torch.Tensor:
    """Return scales as the kernels compute them: uint8 [G, N] and float16 [G] -> float16 [G, N]."""
    square = (scales.to(torch.float16) + 1).square_()
    return square * (scale_max / 256).unsqueeze(-1)


def dequantize(
    linear: QuantizedLinear, out_features: int, dtype: torch.dtype = torch.float16
) -> torch.Tensor:
    """Return the weight [out, in] of a checked layer: what ExLlamaV2's `reconstruct` gives in
    float16, then cast.

    Beside the result it needs memory for a few times `CHUNK` values, whatever the layer's size.
    """
    groups, inputs = linear.groups, linear.in_features
    weight = torch.empty((out_features, inputs), dtype=dtype, device=linear.q_weight.device)
    rows = torch.tensor([group.rows for group in groups], device=weight.device)
    places = linear.q_invperm.long()
    step = max(CHUNK // inputs // 8, 1) * 8
    for start in range(0, out_features, step):
        # A chunk ends at a whole word of scales; the padding goes when it is copied.
        end = min(start + step, linear.q_weight.shape[1])
        signed = torch.cat(
            [
                unpack_columns(words[:, start:end], bits).to(torch.float16) - (1 << (bits - 1))
                for bits, words in _runs(linear.q_weight, groups)
            ]
        )
        scales = unpack_nibbles(linear.q_scale[:, start // 8 : end // 8])
        per_group = group_scales(scales, linear.q_scale_max)
        signed *= per_group.repeat_interleave(rows, dim=0)
        columns = min(end, out_features) - start
        weight[start : start + columns] = signed.index_select(0, places)[:, :columns].T
    return weight


def pack(codes: Codes) -> QuantizedLinear:
    """Return the tensors that exllamav2 0.3.2 would store for these codes, byte for byte.

    Padding has the code of zero and the scale 15, as there.
    """
    padding = padded(codes.values.shape[1]) - codes.values.shape[1]
    words, entries, row, word = [], [], 0, 0
    for bits, rows in codes.groups:
        values = codes.values[row : row + rows]
        values = F.pad(values, (0, padding), value=1 << (bits - 1))
        words.append(pack_columns(values, bits))
        entries += [bits, word]
        row += rows
        word += packed_words(rows, bits)
    return QuantizedLinear(
        q_weight=torch.cat(words),
        q_scale=pack_nibbles(F.pad(codes.scales, (0, padding), value=15)),
        q_scale_max=codes.scale_max,
        # As unsigned 16-bit numbers, for which torch has no type that safetensors writes as I16.
        q_groups=torch.tensor(entries, dtype=torch.int32).to(torch.int16),
        q_invperm=torch.argsort(codes.order).to(torch.int32),
        bias=codes.bias,
    )


def _runs(q_weight: torch.Tensor, groups: Sequence[Group]) -> list[tuple[int, torch.Tensor]]:
    """Return (bits, rows of q_weight) of neighbouring groups of one width: groups fill whole words,
    so their streams are one."""
    runs: list[tuple[int, int, int]] = []
    for group in groups:
        end = group.first_word + group.words
        if runs and runs[-1][0] == group.bits:
            runs[-1] = (group.bits, runs[-1][1], end)
        else:
            runs.append((group.bits, group.first_word, end))
    return [(bits, q_weight[start:end]) for bits, start, end in runs]
