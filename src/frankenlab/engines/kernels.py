"""What stands between a layer's matrix products, in as few passes over memory as torch allows.

On a CPU these take as long as the products if they are written down plainly: each operation reads
and writes all activations. Results are those of the plain operations, rounding included, but for
the rotary embedding, which rounds once less, and for the norm, whose squares are summed in another
order.
"""

import torch
import torch.nn.functional as F

# Tokens whose float32 values stay in a core's cache between the operations on them.
CACHED_TOKENS = 512


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root mean square norm (Zhang and Sennrich 2019) of [..., hidden size], in float32."""
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
    """silu(gate) * up (Shazeer 2020) of [..., 2 * inner size], the gate first."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021, RoFormer) on [..., heads, head dim], the halves of
    a head rotated into each other; tables [..., 1, head dim]."""
    half = x.shape[-1] // 2
    rotated = x * cos
    rotated[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    rotated[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return rotated
