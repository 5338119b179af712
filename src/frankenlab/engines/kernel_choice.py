"""Which kernels run on a device: Triton's on CUDA, where they give the eager results."""

import logging
import os
from collections.abc import Callable, Iterator

import torch

from frankenlab.engines.kernels import EAGER, Kernels, rms_norm
from frankenlab.engines.tree_mask import TreeMask, tree_mask
from frankenlab.io.errors import UserError

KERNELS_VARIABLE = "FRANKENLAB_KERNELS"
CHOICES = ("triton", "eager")

# The batch that the kernels are tried on: what all see, and documents that end inside of blocks.
# Every so many of their tokens one is seen by itself only. So some queries visit more blocks of
# keys, whole and not, than are loaded ahead.
TRIED_DOCUMENTS = (330, 300, 37, 1, 90)
TRIED_LEAVES = 24
TRIED_EPS = 1e-5

# Rows of logits that the head's kernel is tried on.
TRIED_ROWS = 64

# The name of a kernel, its result, and the eager one in float64.
Results = Iterator[tuple[str, torch.Tensor, torch.Tensor]]

# Makes normal random numbers of a shape.
Random = Callable[..., torch.Tensor]

logger = logging.getLogger(__name__)


def kernels_for(
    device: torch.device, dtype: torch.dtype, n_heads: int, n_kv_heads: int, head_dim: int
) -> Kernels:
    """Return the kernels for a model's heads; on CUDA they are compiled and tried first.

    Where Triton's do not work, or give other results, a warning says so and the eager ones run.
    The environment variable FRANKENLAB_KERNELS=eager asks for these.

    Raises:
        UserError: the environment variable has another value.
        torch.OutOfMemoryError: there is no memory to try them, which says nothing of them.
    """
    if device.type != "cuda":
        return EAGER
    asked = os.environ.get(KERNELS_VARIABLE) or CHOICES[0]
    if asked not in CHOICES:
        raise UserError(f"{KERNELS_VARIABLE}={asked}: it is one of {', '.join(CHOICES)}")
    if asked == EAGER.name:
        return EAGER
    try:
        from frankenlab.engines.triton_kernels import kernels

        found = kernels(dtype)
        wrong = differing(found, device, dtype, n_heads, n_kv_heads, head_dim)
        why = f"{wrong} gives other results than the eager one" if wrong else ""
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # What Triton, a compiler or a driver raise when they do not go together.
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if not why:
        return found
    logger.warning("Triton's kernels do not work here, slower ones run (%s)", why)
    return EAGER


def differing(
    kernels: Kernels,
    device: torch.device,
    dtype: torch.dtype,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
) -> str | None:
    """Return the name of a kernel that gives other results than the eager one in float64.

    They may differ by a few roundings of the largest result. What is NaN differs.
    """
    shape = n_heads, n_kv_heads, head_dim
    for name, found, exact in _results(kernels, device, dtype, *shape):
        tolerance = max(2 * torch.finfo(found.dtype).eps, 1e-4)
        if not (found - exact).abs().max() <= tolerance * exact.abs().max():
            return name
    return None


def _results(
    kernels: Kernels,
    device: torch.device,
    dtype: torch.dtype,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
) -> Results:
    """Yield the name of each kernel, its result on a small batch, and the eager one in float64."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    yield from _sums(kernels, random, n_heads * head_dim)
    gate_up = random(sum(TRIED_DOCUMENTS), 4 * head_dim)
    yield "swiglu", kernels.swiglu(gate_up), EAGER.swiglu(gate_up.double())
    yield from _attention(kernels, random, n_heads, n_kv_heads, head_dim)
    yield from _head(kernels, random(TRIED_ROWS, 40 * head_dim))


def _sums(kernels: Kernels, random: Random, size: int) -> Results:
    """Yield the results of what adds to a residual of `size` numbers a token."""
    update, residual, weight = random(TRIED_ROWS, size), random(TRIED_ROWS, size), random(size)
    # The sum is rounded before the norm is made of it. It may be written over the update.
    total = (update.double() + residual.double()).to(update.dtype).double()
    exact = torch.cat((total, rms_norm(total, weight.double(), TRIED_EPS)))
    yield "add_norm", torch.cat(kernels.add_norm(update, residual, weight, TRIED_EPS)), exact

    x, matrix, bias = random(TRIED_ROWS, 32), random(size, 32), random(size)
    exact = EAGER.add_product(residual.double(), x.double(), matrix.double(), bias.double())
    yield "add_product", kernels.add_product(residual, x, matrix, bias), exact


def _attention(
    kernels: Kernels,
    random: Random,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
) -> Results:
    """Yield the results of the rotary embedding and of the attention."""
    tokens = sum(TRIED_DOCUMENTS)
    # Large queries attend to few keys, so that each key counts.
    qkv = 3 * random(tokens, n_heads + 2 * n_kv_heads, head_dim)
    heads, angles = qkv[:, : n_heads + n_kv_heads], random(tokens, 1, head_dim // 2).repeat(1, 1, 2)
    tables = angles.cos(), angles.sin()
    exact = EAGER.rotate(heads.double(), *(table.double() for table in tables))
    yield "rotate", kernels.rotate(heads, *tables), exact

    mask = tried_mask(kernels.tile).to(qkv.device)
    q, k, v = qkv.split((n_heads, n_kv_heads, n_kv_heads), dim=1)
    exact = EAGER.tree_attention(q.double(), k.double(), v.double(), mask)
    yield "tree_attention", kernels.tree_attention(q, k, v, mask), exact


def _head(kernels: Kernels, logits: torch.Tensor) -> Results:
    """Yield the results of the head's scores: half of the targets are the highest logits."""
    highest, rows = logits.argmax(-1), torch.arange(len(logits), device=logits.device)
    targets = torch.where(rows % 2 == 0, highest, rows)
    scores, greedy = kernels.score(logits, rows, targets)
    yield "score", scores, logits.double().log_softmax(-1)[rows, targets]
    yield "score", greedy.float(), (highest == targets).double()


def tried_mask(tile: tuple[int, int]) -> TreeMask:
    """Return the mask of the batch that the kernels are tried on."""
    lengths = torch.tensor(TRIED_DOCUMENTS)
    ends = lengths.cumsum(0).repeat_interleave(lengths)
    leaves = torch.arange(TRIED_DOCUMENTS[0], len(ends), TRIED_LEAVES)
    ends[leaves] = leaves + 1
    ends[: TRIED_DOCUMENTS[0]] = len(ends)
    return tree_mask(ends, tile)
