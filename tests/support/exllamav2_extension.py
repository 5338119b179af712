"""The functions of exllamav2's compiled extension, in torch on the CPU.

Each does what exllamav2 0.3.2's CUDA does (exllamav2_ext/), read from its source and kept apart
from `frankenlab.exl2`, which it is there to check. The one exception is `sim_anneal`: its millions
of random steps are replaced by the best solution of the same problem.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

WORD_MASK = 0xFFFFFFFF
SHORT_MASK = 0xFFFF

# Columns that a thread block of the activation kernel works on, and blocks: exllamav2_ext's
# q_mlp.cu divides their number by two, rounding down, for it takes two columns a thread.
ACTIVATION_BLOCK = 32

_handles: dict[int, Any] = {}
_numbers = itertools.count(1)


def _handle(made: Any) -> int:
    number = next(_numbers)
    _handles[number] = made
    return number


def _given(tensor: torch.Tensor) -> torch.Tensor | None:
    """exllamav2 passes a meta tensor for "none"."""
    return None if tensor.is_meta else tensor


def _as_int32(words: torch.Tensor) -> torch.Tensor:
    """int64 words from 0 to 2³² - 1 as the int32 of the same bits."""
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


# --- quantized matrices (q_matrix.cu, q_gemm.cu) ---------------------------------------------


@dataclass(frozen=True)
class _Matrix:
    """The weight [in, out] in float16, inputs in their own order."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """float16 [rows, out]; sums in float32, as cuBLAS does."""
        y = x.reshape(-1, self.weight.shape[0]).float() @ self.weight.float()
        return (y if self.bias is None else y + self.bias.float()).half()


def make_q_matrix(
    q_weight,
    q_perm,
    q_invperm,
    q_scale,
    q_scale_max,
    q_groups,
    q_group_map,
    gptq_qzeros,
    gptq_scales,
    gptq_g_idx,
    bias,
    temp_dq,
    max_dq_rows,
) -> int:
    assert not q_scale.is_meta, "GPTQ matrices have no stand-in"
    rows = _dequantize_rows(q_weight, q_scale, q_scale_max, q_groups)
    weight = rows
    if not q_perm.is_meta:
        weight = torch.empty_like(rows)
        weight[q_perm.long() & SHORT_MASK] = rows
    return _handle(_Matrix(weight, _given(bias)))


def _dequantize_rows(q_weight, q_scale, q_scale_max, q_groups) -> torch.Tensor:
    """float16 [in, out], inputs in stored order; q_scale_max is already divided by 256."""
    columns = q_weight.shape[1]
    shifts = torch.arange(0, 32, 4)
    nibbles = (q_scale.long().unsqueeze(-1) >> shifts & 15).reshape(-1, columns)
    squares = ((nibbles + 1) ** 2).half()
    groups = (q_groups.long() & SHORT_MASK).tolist()
    bits, starts = groups[::2], groups[1::2]
    parts = []
    for i, width in enumerate(bits):
        stop = starts[i + 1] if i + 1 < len(bits) else q_weight.shape[0]
        codes = _unpack_stream(q_weight[starts[i] : stop].long() & WORD_MASK, width)
        signed = (codes - (1 << (width - 1))).half()
        parts.append(signed * (squares[i] * q_scale_max[i]))
    return torch.cat(parts)


def _unpack_stream(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int64 [words, columns] -> [codes, columns]: code k at bit k·bits of its column."""
    first = torch.arange(words.shape[0] * 32 // bits) * bits
    low = words[first // 32] >> (first % 32).unsqueeze(-1)
    after = (first // 32 + 1).clamp(max=words.shape[0] - 1)
    high = words[after] << (32 - first % 32).unsqueeze(-1)
    crosses = (first % 32 + bits > 32).unsqueeze(-1)
    return torch.where(crosses, low | high, low) & ((1 << bits) - 1)


def free_q_matrix(handle: int) -> None:
    del _handles[handle]


def reconstruct(handle: int, output: torch.Tensor) -> None:
    output.copy_(_handles[handle].weight)


def gemm_half_q_half(a: torch.Tensor, b: int, c: torch.Tensor, force_cuda: bool) -> None:
    c.copy_(_handles[b].times(a))


def make_group_map(q_groups: torch.Tensor, num_qrows: int) -> torch.Tensor:
    from exllamav2.ext import make_group_map_py

    return make_group_map_py(q_groups, num_qrows)


def tensor_remap(tensor: torch.Tensor, index: torch.Tensor) -> None:
    tensor.copy_(tensor[:, index.long()])


def tensor_remap_4bit(tensor: torch.Tensor, index: torch.Tensor) -> None:
    shifts = torch.arange(0, 32, 4)
    nibbles = (tensor.long().unsqueeze(-1) >> shifts & 15).flatten(1)[:, index.long()]
    words = (nibbles.reshape(*tensor.shape, 8) << shifts).sum(-1)
    tensor.copy_(_as_int32(words))


def stloader_read(filename: str, offset: int, size: int, target: torch.Tensor) -> None:
    data = np.fromfile(filename, dtype=np.uint8, count=size, offset=offset)
    target.view(-1).view(torch.uint8).copy_(torch.from_numpy(data))


# --- norms, rotary positions, attention, MLP (rms_norm.cu, rope.cu, q_attn.cu, q_mlp.cu) -------


def rms_norm(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, epsilon: float) -> None:
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    y.copy_(wide * scale * w.float())


def rope_(x, sin, cos, past_len, num_heads, head_dim, offsets, neox_style) -> None:
    """In place on [rows, length, heads, head dim] or its flattened last two."""
    assert neox_style, "only NeoX rotary positions have a stand-in"
    rows = x.shape[0]
    heads = x.view(rows, -1, num_heads, head_dim)
    start = torch.full((rows,), past_len)
    if past_len == -1:
        start = offsets.long().flatten().clamp(min=0)
    elif not offsets.is_meta:
        start = past_len + offsets.long().flatten()
    where = (start.unsqueeze(-1) + torch.arange(heads.shape[1])).clamp(min=0)
    width = cos.shape[-1]
    low, high = heads[..., : width // 2].float(), heads[..., width // 2 : width].float()
    cosine = cos.view(-1, width)[where][:, :, None, : width // 2].float()
    sine = sin.view(-1, width)[where][:, :, None, : width // 2].float()
    rotated = torch.cat((low * cosine - high * sine, high * cosine + low * sine), dim=-1)
    heads[..., :width] = rotated.half()


@dataclass(frozen=True)
class _Attention:
    norm: torch.Tensor
    epsilon: float
    q: int
    k: int
    v: int
    o: int
    max_rows: int
    heads: int
    kv_heads: int
    head_dim: int


def make_q_attn(
    layernorm,
    layernorm_bias,
    layernorm_is_rms,
    headnorm_is_rms,
    norm_epsilon,
    q_proj,
    k_proj,
    v_proj,
    o_proj,
    temp_state,
    temp_dq,
    max_rows,
    hidden_size,
    num_heads,
    num_kv_heads,
    head_dim,
    max_seq_len,
    has_residual,
    rope_style,
    sincos_size,
    q_norm,
    k_norm,
    post_layernorm,
    post_layernorm_bias,
    residual_fp32,
    use_graphs,
) -> int:
    assert layernorm_is_rms and has_residual and q_norm.is_meta and not residual_fp32
    return _handle(
        _Attention(
            layernorm,
            norm_epsilon,
            *(q_proj, k_proj, v_proj, o_proj),
            *(max_rows, num_heads, num_kv_heads, head_dim),
        )
    )


def free_q_attn(handle: int) -> None:
    del _handles[handle]


def _normed(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1])
    y = torch.empty_like(rows)
    rms_norm(rows, weight, y, epsilon)
    return y


def q_attn_forward_1(
    handle,
    x,
    batch_size,
    q_len,
    past_len,
    past_lens,
    q_temp,
    k_temp,
    v_temp,
    sin,
    cos,
    loras,
    loras_temp,
) -> None:
    attention = _handles[handle]
    # The kernels write beyond their buffers here; nothing of theirs would say so.
    assert batch_size * q_len <= attention.max_rows, "more rows than the buffers hold"
    normed = _normed(x, attention.norm, attention.epsilon)
    for target, matrix in ((q_temp, attention.q), (k_temp, attention.k), (v_temp, attention.v)):
        target.view(batch_size * q_len, -1).copy_(_handles[matrix].times(normed))
    for target, heads in ((q_temp, attention.heads), (k_temp, attention.kv_heads)):
        rotated = target.view(batch_size, q_len * heads * attention.head_dim)
        rope_(rotated, sin, cos, past_len, heads, attention.head_dim, past_lens, True)


def q_attn_forward_2(handle, x, attn_output, batch_size, q_len, loras, loras_temp) -> None:
    """Adds to `x` in place."""
    x += _handles[_handles[handle].o].times(attn_output).view_as(x)


@dataclass(frozen=True)
class _Mlp:
    norm: torch.Tensor
    epsilon: float
    gate: int
    up: int
    down: int
    max_rows: int


def make_q_mlp(
    layernorm,
    layernorm_bias,
    layernorm_is_rms,
    norm_epsilon,
    q_gate,
    q_up,
    q_down,
    temp_state,
    temp_a,
    temp_b,
    temp_dq,
    max_rows,
    act_gelu,
    has_residual,
    post_layernorm,
    post_layernorm_bias,
    residual_fp32,
    use_graphs,
) -> int:
    assert layernorm_is_rms and has_residual and q_gate and not act_gelu and not residual_fp32
    return _handle(_Mlp(layernorm, norm_epsilon, q_gate, q_up, q_down, max_rows))


def free_q_mlp(handle: int) -> None:
    del _handles[handle]


def q_mlp_forward_(handle, x, loras, loras_temp) -> None:
    """Adds to `x` in place. The activation's grid leaves out the last 32 columns where there is
    an odd number of them, so the gate's own values go on."""
    mlp = _handles[handle]
    normed = _normed(x, mlp.norm, mlp.epsilon)
    assert normed.shape[0] <= mlp.max_rows, "Too many rows in x"
    inner, up = _handles[mlp.gate].times(normed), _handles[mlp.up].times(normed)
    blocks = -(-inner.shape[1] // ACTIVATION_BLOCK) // 2
    seen = slice(0, blocks * 2 * ACTIVATION_BLOCK)
    inner[:, seen] = F.silu(inner[:, seen]) * up[:, seen]
    x += _handles[mlp.down].times(inner).view_as(x)


# --- conversion (quantize.cu, quantize_func.cpp, pack_tensor.cu, ext_quant.cpp) ----------------


def quantize_err(x, output, scale, qzero, maxq, err_norm, min_p, max_p, p_grid) -> None:
    """Adds the error at each shrink factor p to output [p_grid + 1, 128], whose rows are summed."""
    for i in range(p_grid + 1):
        share = i / p_grid
        shrunk = scale * (min_p * (1 - share) + max_p * share)
        found = torch.round(x / shrunk).clamp(-qzero, maxq - qzero) * shrunk
        output[i, 0] += (found - x).abs().pow(err_norm).sum()


def _round_row(row: torch.Tensor, scale: torch.Tensor, qzero: float, maxq: float):
    """(codes, the values that they mean)"""
    codes = (torch.round(row / scale) + qzero).clamp(0, maxq)
    return codes, ((codes - qzero).half() * scale.half()).float()


def quantize_range(quant, scale, out_q, qzero, maxq, hessian_inv, weights, error, a, b) -> None:
    """GPTQ on rows a to b: each row's error goes to the rows after it."""
    for c in range(a, b):
        codes, quant[c] = _round_row(weights[c], scale, qzero, maxq)
        if not out_q.is_meta:
            out_q[c] = codes.to(out_q.dtype)
        error[c] = (weights[c] - quant[c]) / hessian_inv[c, c]
        weights[c:b] -= torch.outer(hessian_inv[c, c:b], error[c])
    weights[b:] -= hessian_inv[a:b, b:].T @ error[a:b]


def quantize_range_inplace(weights, scale, out_q, qzero, maxq, a, b) -> None:
    codes, found = _round_row(weights[a:b], scale, qzero, maxq)
    if not out_q.is_meta:
        out_q[a:b] = codes.to(out_q.dtype)
    weights[a:b] = found


def pack_rows_4(x: torch.Tensor, output: torch.Tensor) -> None:
    """Scales 1 to 16 as nibbles; what is below 1 spills into the nibbles above, as there."""
    values = ((x.long() - 1) & SHORT_MASK).view(x.shape[0], -1, 8)
    words = torch.zeros_like(output, dtype=torch.int64)
    for i in range(8):
        words |= values[..., i] << (4 * i)
    output.copy_(_as_int32(words & WORD_MASK))


def pack_columns(x: torch.Tensor, output: torch.Tensor, bits: int) -> None:
    """Columns of codes as streams of bits, least significant first."""
    assert output.shape[0] == x.shape[0] * bits // 32, "Wrong output shape for input and bitrate"
    words = torch.zeros((output.shape[0] + 1, output.shape[1]), dtype=torch.int64)
    first = torch.arange(x.shape[0]) * bits
    shifted = (x.long() & SHORT_MASK) << (first % 32).unsqueeze(-1)
    words.index_add_(0, first // 32, shifted & WORD_MASK)
    words.index_add_(0, first // 32 + 1, shifted >> 32)
    output.copy_(_as_int32(words[:-1]))


def sim_anneal(
    slots: Sequence[Sequence[tuple[int, float]]],
    max_cost: int,
    initial_temp: float,
    cooling_factor: float,
    min_temp: float,
    iterations: int,
    norm: float,
):
    """One option (cost, error) of each slot with the least Σ errorⁿᵒʳᵐ of cost at most `max_cost`:
    from the cheapest options on, the steps along each slot's lower convex hull that gain most.

    Like the original it starts from each slot's first option and does not say when that alone
    costs too much.
    """
    chosen = [0] * len(slots)
    cost = sum(options[0][0] for options in slots)
    steps = [
        (gain, slot, start, end)
        for slot, options in enumerate(slots)
        for gain, start, end in _hull([(c, e**norm) for c, e in options])
    ]
    for _, slot, start, end in sorted(steps, key=lambda step: -step[0]):
        more = slots[slot][end][0] - slots[slot][start][0]
        if chosen[slot] == start and cost + more <= max_cost:
            chosen[slot], cost = end, cost + more
    solution = [options[i] for options, i in zip(slots, chosen, strict=True)]
    errors = [error for _, error in solution]
    return solution, chosen, sum(error**norm for error in errors), cost, max(errors)


def _hull(options: Sequence[tuple[int, float]]) -> Iterator[tuple[float, int, int]]:
    """(gain per cost, from, to) along the lower convex hull from option 0; gains fall."""
    here = 0
    while True:
        cost, error = options[here]
        steps = [((error - e) / (c - cost), i) for i, (c, e) in enumerate(options) if c > cost]
        gain, best = max(steps, default=(0.0, here))
        if gain <= 0:
            return
        yield gain, here, best
        here = best


FUNCTIONS = (
    *(make_q_matrix, free_q_matrix, reconstruct, gemm_half_q_half, make_group_map),
    *(tensor_remap, tensor_remap_4bit, stloader_read, rms_norm, rope_),
    *(make_q_attn, free_q_attn, q_attn_forward_1, q_attn_forward_2),
    *(make_q_mlp, free_q_mlp, q_mlp_forward_),
    *(quantize_err, quantize_range, quantize_range_inplace),
    *(pack_rows_4, pack_columns, sim_anneal),
)
