"""Are the Triton kernels right on this GPU, and how fast are they beside the eager operations?

A step of gpu_check.py, or alone (with PYTHONPATH=src where frankenlab is not installed):

    python benchmarks/gpu_kernels.py [--tokens 4096]

The shapes are those of a model of 7B. Attention is over documents of about 40 tokens, alone and
after worked examples that all of them see.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
from gpu_measure import Rows, timed

from frankenlab.engines.kernel_choice import differing, kernels_for
from frankenlab.engines.kernels import EAGER, Kernels
from frankenlab.engines.tree_mask import tree_mask
from frankenlab.io.errors import UserError

HEADS, HEAD_DIM, INNER, VOCABULARY = 32, 128, 11008, 32000
HIDDEN = HEADS * HEAD_DIM
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Heads, key heads and head dim of models that are tried: 7B, 8B, and small ones.
SHAPES = ((32, 32, 128), (32, 8, 128), (14, 2, 64), (9, 3, 64), (32, 32, 80), (16, 16, 96))
TOKENS = 4096

# One pass takes tens of microseconds, and waiting for the GPU nearly as long.
PASSES = 20


def document_ends(tokens: int, prefix: int, length: int = 40) -> torch.Tensor:
    """Return the ends of documents of a length, a third of whose tokens are answer choices of 4.

    All tokens see the first `prefix` ones.
    """
    places = torch.arange(tokens)
    starts = prefix + (places - prefix).div(length, rounding_mode="floor") * length
    choice = places - starts >= length * 2 // 3
    ends = torch.where(choice, places - places % 4 + 4, starts + length)
    ends = ends.clamp(max=(starts + length)).clamp(max=tokens)
    ends[:prefix] = tokens
    return ends


def works(
    kernels: Kernels, tokens: int, device: str
) -> dict[str, tuple[Callable[[], object], int]]:
    """Return what is timed, and the bytes that one pass reads and writes (0: not the limit)."""

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.bfloat16)

    update, residual, weight = random(tokens, HIDDEN), random(tokens, HIDDEN), random(HIDDEN)
    gated, down = random(tokens, INNER), random(HIDDEN, INNER)
    gate_up, qkv = random(tokens, 2 * INNER), random(tokens, 3 * HEADS, HEAD_DIM)
    angles = random(tokens, 1, HEAD_DIM // 2).repeat(1, 1, 2)
    # Rotating in place, again and again, changes no length.
    cos, sin = angles.cos(), angles.sin()
    q, k, v = qkv.split(HEADS, dim=1)
    logits, places = random(tokens, VOCABULARY), torch.arange(tokens, device=device)
    found: dict[str, tuple[Callable[[], object], int]] = {
        "sum and norm": (
            lambda: kernels.add_norm(update, residual, weight, 1e-5),
            8 * tokens * HIDDEN,
        ),
        "product and sum": (lambda: kernels.add_product(residual, gated, down, None), 0),
        "SwiGLU": (lambda: kernels.swiglu(gate_up), 6 * tokens * INNER),
        "rotary": (
            lambda: kernels.rotate(qkv[:, : 2 * HEADS], cos, sin),
            8 * tokens * HEADS * HEAD_DIM,
        ),
        "scores": (lambda: kernels.score(logits, places, places), 2 * tokens * VOCABULARY),
    }
    for prefix in (0, 768):
        mask = tree_mask(document_ends(tokens, prefix), kernels.tile).to(torch.device(device))
        name = f"attention after {prefix}" if prefix else "attention"
        found[name] = (lambda mask=mask: kernels.tree_attention(q, k, v, mask), 0)
    return found


def compare_kernels(device: str, rows: Rows, tokens: int = TOKENS) -> None:
    """Adds whether Triton's kernels give the eager results, and the times of both.

    Raises:
        UserError: one does not.
    """
    # Triton is there with CUDA only.
    from frankenlab.engines.triton_kernels import kernels as triton

    on = torch.device(device)
    chosen = kernels_for(on, torch.bfloat16, *SHAPES[0]).name
    rows.append(("kernels that a 7B model in bfloat16 runs", chosen))
    found = {
        f"{dtype}, heads {shape}": differing(triton(dtype), on, dtype, *shape)
        for dtype in DTYPES
        for shape in SHAPES
    }
    wrong = [f"{name} ({which})" for which, name in found.items() if name is not None]
    agree = f"{len(found) - len(wrong)} of {len(found)} agree"
    rows.append(("Triton's kernels and eager operations, dtypes and shapes", agree))
    eager = works(EAGER, tokens, device)
    for name, (work, size) in works(triton(torch.bfloat16), tokens, device).items():
        slow, fast = _seconds(eager[name][0], device), _seconds(work, device)
        speed = f", {size / fast / 1e9:,.0f} GB/s" if size else ""
        times = f"{fast * 1e3:.3f} ms{speed}; eager {slow * 1e3:.3f} ms, {slow / fast:.1f} times"
        rows.append((f"{name}, {tokens} tokens", times))
    if wrong:
        raise UserError(f"kernels that differ from the eager operations: {', '.join(wrong)}")


def _seconds(work: Callable[[], object], device: str) -> float:
    return timed(lambda: [work() for _ in range(PASSES)], device) / PASSES


def main(given: Sequence[str] = sys.argv[1:]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens of a batch")
    rows: Rows = []
    try:
        compare_kernels("cuda", rows, parser.parse_args(given).tokens)
    except UserError as error:
        print(error)
        return 1
    finally:
        for what, value in rows:
            print(f"{what}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
