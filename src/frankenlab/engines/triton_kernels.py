"""The operations of `kernels` on CUDA, each in one pass over memory, written in Triton.

They compute in float32 and round once, at the end, where the eager ones round each operation's
result. No size that differs from batch to batch is compiled into them, so a model compiles each of
them once; Triton keeps what it compiled on the disk. `add_product` alone is not Triton's: cuBLAS
adds the product to the residual while it writes.
"""

# The arguments of Triton's functions have no types for Python.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from functools import cache

import torch
import triton
import triton.language as tl

from frankenlab.engines.kernels import Kernels
from frankenlab.engines.tree_mask import TreeMask

# Warps of a program that has a token's whole hidden state in its registers.
NORM_WARPS = 8

# Elements of a row of the MLP, and heads of a token, that one program takes.
SWIGLU_BLOCK = 1024
ROTATE_HEADS = 16

# Logits of a row that one program takes at a time.
SCORE_BLOCK = 4096

# Queries and keys of a block, as in PyTorch's FlexAttention for these GPUs. Blocks of float32,
# which runs without tensor cores, are smaller, because they fill the registers.
TILE = (128, 64)
TILE_FLOAT32 = (32, 32)

# From this much shared memory a block on, three blocks of keys and values are on their way at once
# (H100: 227 KB, A100: 163 KB), else two (GPUs for games: 99 KB).
SHARED_MEMORY_OF_THREE = 160_000

LOG2_E = 1.4426950408889634


@triton.jit
def _add_norm(total, norm, residual, weight, size, eps, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    within = columns < size
    places = tl.program_id(0).to(tl.int64) * size + columns
    update = tl.load(total + places, mask=within, other=0.0).to(tl.float32)
    before = tl.load(residual + places, mask=within, other=0.0).to(tl.float32)
    rounded = (update + before).to(total.dtype.element_ty)
    tl.store(total + places, rounded, mask=within)
    # The norm is that of the state which the next operations see.
    values = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / size + eps)
    factors = tl.load(weight + columns, mask=within, other=0.0).to(tl.float32)
    tl.store(norm + places, (values * scale * factors).to(norm.dtype.element_ty), mask=within)


@triton.jit
def _swiglu(out, gate_up, stride, inner, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    within = columns < inner
    gate = tl.load(gate_up + token * stride + columns, mask=within).to(tl.float32)
    up = tl.load(gate_up + token * stride + inner + columns, mask=within).to(tl.float32)
    result = gate * tl.sigmoid(gate) * up
    tl.store(out + token * inner + columns, result.to(out.dtype.element_ty), mask=within)


@triton.jit
def _rotate(
    x,
    cos,
    sin,
    stride,
    head_stride,
    heads,
    HALF: tl.constexpr,
    DIM: tl.constexpr,
    HEADS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    dims = tl.arange(0, DIM)
    c = tl.load(cos + token * 2 * HALF + dims, mask=dims < HALF).to(tl.float32)[None, :]
    s = tl.load(sin + token * 2 * HALF + dims, mask=dims < HALF).to(tl.float32)[None, :]
    first = x + token * stride + rows[:, None] * head_stride + dims[None, :]
    within = (rows < heads)[:, None] & (dims < HALF)[None, :]
    a = tl.load(first, mask=within).to(tl.float32)
    b = tl.load(first + HALF, mask=within).to(tl.float32)
    tl.store(first, (a * c - b * s).to(x.dtype.element_ty), mask=within)
    tl.store(first + HALF, (b * c + a * s).to(x.dtype.element_ty), mask=within)


@triton.jit
def _visit(
    mixed, total, highest, query, rows, keys, values, ends, key_blocks, start, stop,
    key_stride, value_stride, tokens, scale,
    HEAD_DIM: tl.constexpr, DIM: tl.constexpr, KEYS: tl.constexpr, WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend to the blocks of keys from `start` to `stop` of the list (online softmax)."""
    columns = tl.arange(0, KEYS)
    dims = tl.arange(0, DIM)
    block = tl.load(key_blocks + start)
    for visit in range(start, stop):
        first = block * KEYS
        # Read ahead, since the addresses of the next keys depend on it.
        block = tl.load(key_blocks + visit + 1)
        within = (dims < HEAD_DIM)[None, :]
        if not WHOLE:
            within = within & (first + columns < tokens)[:, None]
        offset = first.to(tl.int64)
        key_at = keys + offset * key_stride + columns[:, None] * key_stride + dims[None, :]
        key = tl.load(key_at, mask=within, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        if not WHOLE:
            places = first + columns
            end = tl.load(ends + places, mask=places < tokens, other=0)
            seen = (places[None, :] <= rows[:, None]) & (rows[:, None] < end[None, :])
            scores = tl.where(seen, scores, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1) * scale)
        # A query may see no key of the first blocks.
        base = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        weights = tl.exp2(scores * scale - base[:, None])
        shrink = tl.exp2(highest - base)
        total = total * shrink + tl.sum(weights, 1)
        value_at = values + offset * value_stride + columns[:, None] * value_stride + dims[None, :]
        value = tl.load(value_at, mask=within, other=0.0)
        mixed = mixed * shrink[:, None]
        mixed = tl.dot(weights.to(value.dtype), value, mixed, input_precision=PRECISION)
        highest = new_highest
    return mixed, total, highest


@triton.jit(do_not_specialize=["tokens"])
def _tree_attention(
    out, queries, keys, values, ends, ranges, key_blocks,
    query_stride, query_head, key_stride, key_head, value_stride, value_head,
    tokens, scale, heads,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend with a block of queries of one head; as FlashAttention-2 (Dao 2023)."""
    block, head = tl.program_id(0), tl.program_id(1)
    key_at = keys + head // GROUP * key_head
    value_at = values + head // GROUP * value_head
    places = tl.arange(0, QUERIES)
    rows = block * QUERIES + places
    dims = tl.arange(0, DIM)
    within = (rows < tokens)[:, None] & (dims < HEAD_DIM)[None, :]
    offset = (block * QUERIES).to(tl.int64)
    query_at = queries + offset * query_stride + head * query_head
    query_at += places[:, None] * query_stride + dims[None, :]
    query = tl.load(query_at, mask=within, other=0.0)
    mixed = tl.zeros((QUERIES, DIM), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    start = tl.load(ranges + block * 3)
    whole = tl.load(ranges + block * 3 + 1)
    stop = tl.load(ranges + block * 3 + 2)
    mixed, total, highest = _visit(
        mixed, total, highest, query, rows, key_at, value_at, ends, key_blocks, start, whole,
        key_stride, value_stride, tokens, scale, HEAD_DIM, DIM, KEYS, True, PRECISION,
    )  # fmt: skip
    mixed, total, highest = _visit(
        mixed, total, highest, query, rows, key_at, value_at, ends, key_blocks, whole, stop,
        key_stride, value_stride, tokens, scale, HEAD_DIM, DIM, KEYS, False, PRECISION,
    )  # fmt: skip
    out_at = out + (offset * heads + head) * HEAD_DIM
    out_at += places[:, None] * heads * HEAD_DIM + dims[None, :]
    tl.store(out_at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=within)


@triton.jit
def _reduce(totals, places, logits, stride, vocabulary, BLOCK: tl.constexpr):
    """Find a row's highest value, then the sum of its exponentials; the second time the row comes
    from the GPU's cache."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    place = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, vocabulary, BLOCK):
        here = start + columns
        x = tl.load(logits + row * stride + here, mask=here < vocabulary, other=float("-inf"))
        x = x.to(tl.float32)
        place = tl.where(x > highest, here, place)
        highest = tl.maximum(highest, x)
    most = tl.max(highest, 0)
    # NaN, which is higher than nothing, makes the sum NaN.
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        here = start + columns
        x = tl.load(logits + row * stride + here, mask=here < vocabulary, other=float("-inf"))
        total += tl.exp(x.to(tl.float32) - most)
    tl.store(totals + row, tl.log(tl.sum(total, 0)) + most)
    tl.store(places + row, tl.min(tl.where(highest == most, place, vocabulary), 0))


def add_norm(
    update: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `kernels.add_norm` returns, of contiguous tensors; the sum is the update's."""
    tokens, size = update.shape
    norm = torch.empty_like(update)
    block = triton.next_power_of_2(size)
    with torch.cuda.device_of(update):
        _add_norm[(tokens,)](
            update, norm, residual, weight, size, eps, BLOCK=block, num_warps=NORM_WARPS
        )
    return update, norm


def add_product(
    residual: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return what `kernels.add_product` returns: the product adds to the residual's memory."""
    if bias is not None:
        residual.add_(bias)
    return residual.addmm_(x, weight.t())


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Return what `kernels.swiglu` returns, of [tokens, 2 * inner size]."""
    tokens, inner = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((tokens, inner))
    grid = (tokens, triton.cdiv(inner, SWIGLU_BLOCK))
    with torch.cuda.device_of(gate_up):
        _swiglu[grid](out, gate_up, gate_up.stride(0), inner, BLOCK=SWIGLU_BLOCK, num_warps=4)
    return out


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate [tokens, heads, head dim] in place, as `kernels.rotate` does; return it.

    The numbers of a head lie side by side. The halves of `cos` and `sin` are alike.
    """
    tokens, heads, head_dim = x.shape
    half = head_dim // 2
    sizes = {"HALF": half, "DIM": triton.next_power_of_2(half), "HEADS": ROTATE_HEADS}
    grid = (tokens, triton.cdiv(heads, ROTATE_HEADS))
    with torch.cuda.device_of(x):
        _rotate[grid](x, cos, sin, x.stride(0), x.stride(1), heads, **sizes, num_warps=4)
    return x


def tree_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: TreeMask
) -> torch.Tensor:
    """Return what `kernels.tree_attention` returns.

    The numbers of a head lie side by side. The mask was made for `tile_of` this dtype.
    """
    tokens, heads, head_dim = queries.shape
    exact = queries.dtype == torch.float32
    tile = tile_of(queries.dtype)
    out = queries.new_empty((tokens, heads, head_dim))
    strides = [x.stride(dim) for x in (queries, keys, values) for dim in (0, 1)]
    with torch.cuda.device_of(queries):
        _tree_attention[(len(mask.ranges), heads)](
            *(out, queries, keys, values, *mask, *strides),
            *(tokens, LOG2_E / head_dim**0.5, heads),
            GROUP=heads // keys.shape[1],
            HEAD_DIM=head_dim,
            DIM=max(triton.next_power_of_2(head_dim), 16),
            QUERIES=tile[0],
            KEYS=tile[1],
            PRECISION="ieee" if exact else "tf32",
            num_warps=4 if head_dim <= 64 and not exact else 8,
            num_stages=1 if exact else _stages(queries.device),
        )
    return out


def score(
    logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `scoring.score_rows` returns. The numbers of a row lie side by side."""
    positions, vocabulary = logits.shape
    totals = logits.new_empty(positions, dtype=torch.float32)
    places = logits.new_empty(positions, dtype=torch.int32)
    with torch.cuda.device_of(logits):
        _reduce[(positions,)](
            *(totals, places, logits, logits.stride(0), vocabulary),
            BLOCK=SCORE_BLOCK,
            num_warps=8,
        )
    return logits[rows, targets].float() - totals[rows], places[rows] == targets


def tile_of(dtype: torch.dtype) -> tuple[int, int]:
    """Return the numbers of queries and of keys in a block."""
    return TILE_FLOAT32 if dtype == torch.float32 else TILE


def kernels(dtype: torch.dtype) -> Kernels:
    """Return the kernels for tensors of a dtype."""
    return Kernels(
        "triton",
        tile_of(dtype),
        add_norm,
        add_product,
        swiglu,
        rotate,
        tree_attention,
        score,
    )


@cache
def _stages(device: torch.device) -> int:
    """Return how many blocks of keys and values are loaded ahead of the arithmetic."""
    if device.type != "cuda":
        return 1
    # PyTorch's types do not name it.
    memory: int = torch.cuda.get_device_properties(device).shared_memory_per_block_optin  # type: ignore[attr-defined]
    return 3 if memory >= SHARED_MEMORY_OF_THREE else 2
