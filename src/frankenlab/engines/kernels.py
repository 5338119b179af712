"""The operations between a layer's matrix products, in as few passes over memory as possible.

Written plainly, they would take as long as the products on a CPU, because each operation reads and
writes all activations. The results are those of the plain operations, rounding included, but for
two: the rotary embedding rounds once less, and the norm sums its squares in another order.
"""

import torch
import torch.nn.functional as F

# Tokens whose float32 values stay in a core's cache between the operations on them.
CACHED_TOKENS = 512


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
