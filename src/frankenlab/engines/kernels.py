"""The operations between the matrix products, in as few passes over memory as possible.

Written plainly, they would take as long as the products on a CPU, because each operation reads and
writes all activations. The results are those of the plain operations, rounding included, but for
two: the rotary embedding rounds once less, and the norm sums its squares in another order.

On CUDA, kernels written in Triton take their place where they work (see `kernel_choice`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from frankenlab.engines.scoring import Score, score_rows
from frankenlab.engines.tree_mask import TreeMask

# Tokens whose float32 values stay in a core's cache between the operations on them.
CACHED_TOKENS = 512

# Queries that attend together: the mask of more would take much memory.
QUERIES_AT_ONCE = 512


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the root mean square norm (Zhang and Sennrich 2019) of [..., hidden size].

    It is computed in float32.
    """
    if x.device.type != "cpu" or x.dtype == torch.float32:
        return F.rms_norm(x, weight.shape, weight, eps)
    tokens, factors = x.reshape(-1, x.shape[-1]), weight.float()
    result = torch.empty_like(tokens)
    for rows, out in zip(tokens.split(CACHED_TOKENS), result.split(CACHED_TOKENS), strict=True):
        values = rows.float()
        length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        out.copy_(values.mul_(scale).mul_(factors))
    return result.view(x.shape)


def add_norm(
    update: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return update + residual, both [tokens, hidden size], and `rms_norm` of the sum.

    The sum may be written over the update.
    """
    total = update.add_(residual)
    return total, rms_norm(total, weight, eps)


def add_product(
    residual: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return residual + x weight^T + bias: [tokens, out] of [tokens, in] and [out, in].

    The sum may be written over the residual.
    """
    return F.linear(x, weight, bias).add_(residual)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up (Shazeer 2020) of [..., 2 * inner size], the gate standing first."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary position embeddings (Su et al. 2021, RoFormer) to [..., heads, head dim].

    The halves of a head are rotated into each other. `cos` and `sin` are [..., 1, head dim].
    """
    half = x.shape[-1] // 2
    rotated = x * cos
    rotated[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    rotated[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return rotated


def tree_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: TreeMask
) -> torch.Tensor:
    """Return the attention of one sequence of token trees, [tokens, heads, head dim].

    Args:
        queries: [tokens, heads, head dim].
        keys, values: [tokens, key heads, head dim]; a key head may serve several query heads.
        mask: which keys a token sees; it is on the same device.
    """
    places = torch.arange(len(queries), device=queries.device)
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (queries, keys, values))
    parts = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        stop = start + QUERIES_AT_ONCE
        seeing, seen = places[start:stop, None], places[:stop]
        visible = (seen <= seeing) & (seeing < mask.ends[:stop])
        part = F.scaled_dot_product_attention(
            *(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop]),
            attn_mask=visible,
            enable_gqa=True,
        )
        parts.append(part[0].transpose(0, 1))
    return torch.cat(parts)


@dataclass(frozen=True)
class Kernels:
    """The operations between the matrix products on a device.

    Attributes:
        name: "eager" or "triton".
        tile: the numbers of queries and keys for `tree_mask`.
        add_norm: see `add_norm`; of contiguous tensors.
        add_product: see `add_product`.
        swiglu: see `swiglu`; of [tokens, 2 * inner size].
        rotate: see `rotate`; of [tokens, heads, head dim], and `cos` and `sin` have like halves.
            It may rotate in place: go on with what it returns.
        tree_attention: see `tree_attention`. What it returns is contiguous.
        score: see `scoring.score_rows`; the logits are contiguous.
    """

    name: str
    tile: tuple[int, int]
    add_norm: Callable[
        [torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]
    ]
    add_product: Callable[
        [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor
    ]
    swiglu: Callable[[torch.Tensor], torch.Tensor]
    rotate: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    tree_attention: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, TreeMask], torch.Tensor]
    score: Score


EAGER = Kernels(
    "eager",
    (QUERIES_AT_ONCE, QUERIES_AT_ONCE),
    add_norm,
    add_product,
    swiglu,
    rotate,
    tree_attention,
    score_rows,
)
