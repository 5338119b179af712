"""Triton's kernels run on CUDA where they give the eager results; elsewhere the eager ones do."""

import logging
from dataclasses import replace

import pytest
import torch

from frankenlab.engines import kernel_choice
from frankenlab.engines.kernel_choice import KERNELS_VARIABLE, differing, kernels_for, tried_mask
from frankenlab.engines.kernels import EAGER
from frankenlab.io.errors import UserError

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
HEADS = (torch.bfloat16, 4, 2, 16)


def test_the_cpu_runs_the_eager_ones(monkeypatch):
    monkeypatch.setenv(KERNELS_VARIABLE, "triton")
    assert kernels_for(CPU, *HEADS) is EAGER


def test_cuda_runs_tritons_where_they_agree(monkeypatch):
    pytest.importorskip("triton", reason="Triton is for Linux only")
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    monkeypatch.setattr(kernel_choice, "differing", lambda *_: None)
    assert kernels_for(CUDA, *HEADS).name == "triton"
    monkeypatch.setenv(KERNELS_VARIABLE, "eager")
    assert kernels_for(CUDA, *HEADS) is EAGER


@pytest.mark.parametrize("fault", ["differs", "raises"])
def test_where_they_fail_one_line_says_so_and_the_eager_ones_run(monkeypatch, caplog, fault):
    pytest.importorskip("triton", reason="Triton is for Linux only")

    def found(*_):
        if fault == "differs":
            return "swiglu"
        raise RuntimeError("no compiler\nfound")

    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    monkeypatch.setattr(kernel_choice, "differing", found)
    with caplog.at_level(logging.WARNING):
        assert kernels_for(CUDA, *HEADS) is EAGER
    (line,) = (record.getMessage() for record in caplog.records)
    assert ("swiglu" if fault == "differs" else "RuntimeError: no compiler found") in line


def test_too_little_memory_to_try_them_is_no_fault_of_theirs(monkeypatch):
    """exllamav2's engine then frees memory and tries again."""
    pytest.importorskip("triton", reason="Triton is for Linux only")

    def found(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    monkeypatch.setattr(kernel_choice, "differing", found)
    with pytest.raises(torch.OutOfMemoryError):
        kernels_for(CUDA, *HEADS)


def test_another_choice_is_refused(monkeypatch):
    monkeypatch.setenv(KERNELS_VARIABLE, "fast")
    with pytest.raises(UserError, match="FRANKENLAB_KERNELS=fast: it is one of triton, eager"):
        kernels_for(CUDA, *HEADS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_kernel_that_differs_is_named(dtype):
    asked = CPU, dtype, *HEADS[1:]
    assert differing(EAGER, *asked) is None

    def late(queries, keys, values, mask):
        return EAGER.tree_attention(queries, keys, values, mask._replace(ends=mask.ends + 1))

    def norm_of_the_update(update, residual, weight, eps):
        return update + residual, EAGER.add_norm(update, 0 * residual, weight, eps)[1]

    wrong = {
        "add_norm": norm_of_the_update,
        "add_product": lambda residual, x, w, b: EAGER.add_product(residual, x, w, None),
        "swiglu": lambda x: EAGER.swiglu(x.roll(x.shape[1] // 2, 1)),
        "rotate": lambda x, cos, sin: EAGER.rotate(x, cos, -sin),
        "tree_attention": late,
        "score": lambda logits, rows, targets: EAGER.score(logits[:, :-1], rows, targets),
    }
    for name, function in wrong.items():
        assert differing(replace(EAGER, **{name: function}), *asked) == name
    likely = replace(EAGER, score=lambda *given: (EAGER.score(*given)[0], given[1] > -1))
    assert differing(likely, *asked) == "score"
    nothing = replace(EAGER, swiglu=lambda x: torch.full((x.shape[0], x.shape[1] // 2), torch.nan))
    assert differing(nothing, *asked) == "swiglu"


def test_the_batch_that_they_are_tried_on_fills_what_is_loaded_ahead():
    triton_kernels = pytest.importorskip("frankenlab.engines.triton_kernels")
    for tile in (triton_kernels.TILE, triton_kernels.TILE_FLOAT32):
        start, whole, stop = tried_mask(tile).ranges.unbind(1)
        # Three blocks are on their way at once, at most.
        assert (whole - start).max() > 3 and (stop - whole).max() > 3
