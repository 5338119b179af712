"""Are the Triton kernels right on this GPU, and how fast are they beside the eager operations?

    python benchmarks/gpu_kernels.py [--tokens 4096]

The shapes are those of a model of 7B. Attention is over documents of about 40 tokens, alone and
after worked examples that all of them see.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
from gpu_measure import timed

from frankenlab.engines.kernel_choice import differing
from frankenlab.engines.kernels import EAGER, Kernels
from frankenlab.engines.tree_mask import tree_mask

HEADS, HEAD_DIM, INNER = 32, 128, 11008
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Heads, key heads and head dim of models that are tried: 7B, 8B, and small ones.
SHAPES = ((32, 32, 128), (32, 8, 128), (14, 2, 64), (9, 3, 64), (32, 32, 80), (16, 16, 96))


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


def works(kernels: Kernels, tokens: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Return what is timed, and the bytes that one pass reads and writes (0: not the limit)."""

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16)

    gate_up, qkv = random(tokens, 2 * INNER), random(tokens, 3 * HEADS, HEAD_DIM)
    cos, sin = random(2, tokens, 1, HEAD_DIM).unbind()
    q, k, v = qkv.split(HEADS, dim=1)
    found: dict[str, tuple[Callable[[], object], int]] = {
        "SwiGLU": (lambda: kernels.swiglu(gate_up), 6 * tokens * INNER),
        "rotary": (
            lambda: kernels.rotate(qkv[:, : 2 * HEADS], cos, sin),
            8 * tokens * HEADS * HEAD_DIM,
        ),
    }
    for prefix in (0, 768):
        mask = tree_mask(document_ends(tokens, prefix), kernels.tile).to(torch.device("cuda"))
        name = f"attention after {prefix}" if prefix else "attention"
        found[name] = (lambda mask=mask: kernels.tree_attention(q, k, v, mask), 0)
    return found


def main(given: Sequence[str] = sys.argv[1:]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a batch")
    tokens = parser.parse_args(given).tokens
    # Triton is there with CUDA only.
    from frankenlab.engines.triton_kernels import kernels as triton

    device = torch.device("cuda")
    wrong = 0
    for dtype in DTYPES:
        for shape in SHAPES:
            name = differing(triton(dtype), device, dtype, *shape)
            wrong += name is not None
            print(f"{dtype}, heads {shape}: {name or 'all'} {'DIFFERS' if name else 'agree'}")
    print(f"\n{torch.cuda.get_device_name()}, {tokens} tokens, bfloat16\n")
    print("| operation | eager, ms | Triton, ms | times | Triton, GB/s |")
    print("|---|---|---|---|---|")
    eager = works(EAGER, tokens)
    for name, (work, size) in works(triton(torch.bfloat16), tokens).items():
        slow, fast = timed(eager[name][0], "cuda"), timed(work, "cuda")
        speed = f"{size / fast / 1e9:.0f}" if size else ""
        print(f"| {name} | {slow * 1e3:.3f} | {fast * 1e3:.3f} | {slow / fast:.1f} | {speed} |")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
