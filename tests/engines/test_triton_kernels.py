"""The kernels for CUDA, without a GPU: interpreted on the CPU, and compiled for GPUs."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from frankenlab.engines.tree_mask import tree_mask
from tests.support.paths import ROOT

triton = pytest.importorskip("triton", reason="Triton is for Linux only")

# Compute capability, blocks of keys and values loaded ahead, and shared memory of a block, KB.
GPUS = {"H100": (90, 3, 227), "RTX 4090": (89, 2, 99)}
POINTERS = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32"}


@pytest.mark.slow
def test_interpreted_they_give_the_results_of_the_eager_ones():
    """In a process of its own: whether Triton interprets is decided when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, "tests/support/interpreted_kernels.py"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout and " skipped" not in result.stdout


class Launches:
    """Stands in for a kernel and compiles, for a GPU, what would be launched."""

    def __init__(self, kernel: Any, capability: int) -> None:
        self.kernel, self.capability = kernel, capability
        self.compiled: list[Any] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.launch

    def launch(self, *given: Any, **named: Any) -> None:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        options = {name: named.pop(name) for name in ("num_warps", "num_stages") if name in named}
        signature = {name: _type(x) for name, x in zip(self.kernel.arg_names, given, strict=False)}
        aligned = {
            (n,): [["tt.divisibility", 16]]
            for n, x in enumerate(given)
            if isinstance(x, torch.Tensor) or x % 16 == 0
        }
        target = GPUTarget("cuda", self.capability, 32)
        constants = {(self.kernel.arg_names.index(name),): x for name, x in named.items()}
        signature |= dict.fromkeys(named, "constexpr")
        source = ASTSource(self.kernel, signature, constants, aligned)
        self.compiled.append(triton.compile(source, target=target, options=options))


def _type(given: Any) -> str:
    if isinstance(given, torch.Tensor):
        return POINTERS[given.dtype]
    return "fp32" if isinstance(given, float) else "i32"


@pytest.mark.slow
@pytest.mark.parametrize("gpu", GPUS)
def test_they_compile_for_a_gpu_and_fit_its_shared_memory(monkeypatch, tmp_path, gpu):
    from frankenlab.engines import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    capability, stages, kilobytes = GPUS[gpu]
    monkeypatch.setattr(triton_kernels, "_stages", lambda device: stages)
    launches = []
    for name in ("_add_norm", "_swiglu", "_rotate", "_reduce", "_tree_attention"):
        launches.append(Launches(getattr(triton_kernels, name), capability))
        monkeypatch.setattr(triton_kernels, name, launches[-1])
    for dtype in (torch.bfloat16, torch.float32):
        found = triton_kernels.kernels(dtype)
        heads = torch.zeros(2, 6, 128, dtype=dtype)
        state = torch.zeros(2, 4096, dtype=dtype)
        found.add_norm(state, state, state[0], 1e-5)
        found.swiglu(torch.zeros(2, 96, dtype=dtype))
        found.rotate(heads[:, :5], heads[:, :1], heads[:, :1])
        found.score(heads.flatten(1), *torch.zeros(2, 1, dtype=torch.int64))
        q, k, v = heads.split((4, 1, 1), dim=1)
        found.tree_attention(q, k, v, tree_mask(torch.tensor([1, 2]), found.tile))
    for launched in launches:
        assert len(launched.compiled) == 2
        assert all(each.metadata.shared <= kilobytes * 1024 for each in launched.compiled)
    in_16_bits, in_float32 = (each.asm["ptx"] for each in launches[-1].compiled)
    # Matrix units for 16 bits; nothing less than float32 for float32.
    assert "mma" in in_16_bits and "mma" not in in_float32 and "tf32" not in in_float32
