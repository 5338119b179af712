"""Tests of the Triton kernels for a process in which Triton interprets: see test_triton_kernels.

The interpreter multiplies the bit patterns of bfloat16 matrices, so attention is tested in float16
and float32. It also rounds to bfloat16 by cutting off, so a result may be the other neighbour of
the exact one: all tolerances are a whole last bit, and not half.
"""

import pytest
import torch

from frankenlab.engines import kernels, triton_kernels
from frankenlab.engines.kernel_choice import differing
from frankenlab.engines.tree_mask import tree_mask
from tests.engines.test_tree_mask import random_ends

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks that small tensors fill more than one of."""
    sizes = {"TILE": (32, 16), "TILE_FLOAT32": (16, 16), "SWIGLU_BLOCK": 16, "ROTATE_HEADS": 2}
    for name, value in (sizes | {"SCORE_BLOCK": 16}).items():
        monkeypatch.setattr(triton_kernels, name, value)


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def assert_near(found: torch.Tensor, exact: torch.Tensor, scale: torch.Tensor) -> None:
    """Check that a result is the exact one, rounded once: relative to the numbers summed."""
    assert found.is_contiguous() and found.shape == exact.shape
    bound = (torch.finfo(found.dtype).eps + 1e-6) * scale.double().abs() + 1e-6
    assert ((found.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "size"), [(3, 40), (1, 64)])
def test_the_sum_and_its_norm(tokens, size, dtype):
    update, residual = random(2, tokens, size, dtype=dtype)
    weight = random(size, dtype=dtype)
    exact = update.double() + residual.double()
    total, norm = triton_kernels.add_norm(update, residual, weight, 1e-5)
    assert total.data_ptr() == update.data_ptr()
    assert_near(total, exact, exact)
    normed = kernels.rms_norm(total.double(), weight.double(), 1e-5)
    assert_near(norm, normed, normed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "inner"), [(3, 40), (1, 16)])
def test_swiglu(tokens, inner, dtype):
    wide = 3 * random(tokens, 2 * inner + 8, dtype=dtype)
    for gate_up in (wide[:, : 2 * inner], wide[:, : 2 * inner].contiguous()):
        exact = kernels.swiglu(gate_up.double())
        assert_near(triton_kernels.swiglu(gate_up), exact, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "others", "head_dim"), [(3, 1, 64), (5, 2, 80), (2, 2, 96), (2, 1, 128), (1, 1, 8)]
)
def test_rotary_in_place(heads, others, head_dim, dtype):
    product = random(4, heads + others, head_dim, dtype=dtype)
    before = product.clone()
    angles = random(4, 1, head_dim // 2, dtype=torch.float32).repeat(1, 1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    exact = kernels.rotate(before[:, :heads].double(), cos.double(), sin.double())
    found = triton_kernels.rotate(product[:, :heads], cos, sin)
    assert found.data_ptr() == product.data_ptr()
    pairs = before[:, :heads].unflatten(-1, (2, -1)).double().norm(dim=-2).repeat(1, 1, 2)
    assert_near(found.contiguous(), exact, pairs)
    # The values of the same product are as they were.
    assert torch.equal(product[:, heads:], before[:, heads:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("tokens", "prefix", "padding", "heads", "head_dim"),
    [
        (1, 0, 0, (1, 1), 64),
        (32, 32, 0, (2, 2), 64),
        (70, 0, 5, (4, 1), 80),
        (75, 37, 0, (7, 1), 16),
        (90, 20, 9, (2, 1), 96),
        (33, 16, 3, (2, 2), 128),
    ],
)
def test_attention_over_trees(tokens, prefix, padding, heads, head_dim, dtype):
    queries, others = heads
    product = 2 * random(tokens, queries + 2 * others, head_dim, dtype=dtype)
    q, k, v = product.split((queries, others, others), dim=1)
    mask = tree_mask(random_ends(tokens, tokens, prefix, padding), triton_kernels.tile_of(dtype))
    exact, scale = (
        kernels.tree_attention(q.double(), k.double(), values, mask)
        for values in (v.double(), v.double().abs())
    )
    assert_near(triton_kernels.tree_attention(q, k, v, mask), exact, scale)


def test_large_scores_do_not_overflow():
    """Scores of thousands; in float32, whose last bits then are a thousandth."""
    q, k, v = random(40, 3, 64, dtype=torch.float32).split(1, dim=1)
    mask = tree_mask(random_ends(2, 40, 8), triton_kernels.TILE_FLOAT32)
    found = triton_kernels.tree_attention(300 * q, 10 * k, v, mask)
    exact = kernels.tree_attention(3000 * q.double(), k.double(), v.double(), mask)
    assert torch.allclose(found.double(), exact, atol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [1, 16, 50])
def test_scores(vocabulary, dtype):
    """Equal highest logits among them, within a block and in two; the first one is the greedy."""
    logits = 30 * random(40, vocabulary, dtype=dtype)
    logits[1, [3 % vocabulary, 5 % vocabulary, -1]] = 200.0
    logits[2, [4 % vocabulary, 20 % vocabulary]] = 200.0
    logits[3] = -40_000.0
    rows = torch.arange(40).repeat_interleave(vocabulary)
    targets = torch.arange(vocabulary).repeat(40)
    found, greedy = triton_kernels.score(logits, rows, targets)
    exact = logits.double().log_softmax(-1).flatten()
    assert found.dtype == torch.float32 and greedy.dtype == torch.bool
    size = logits.double().abs().amax(-1)[rows] + exact.abs()
    assert ((found - exact).abs() <= 1e-6 * size + 1e-6).all()
    assert torch.equal(greedy.view(40, -1).nonzero()[:, 1], logits.argmax(-1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_of_what_is_not_finite_are_nan(value):
    logits = random(3, 40, dtype=torch.float16)
    logits[1, 20] = value
    found, _ = triton_kernels.score(logits, torch.arange(3), torch.zeros(3, dtype=torch.int64))
    assert found.isfinite().tolist() == [True, False, True]


def test_the_check_at_load_accepts_them(monkeypatch):
    monkeypatch.setattr("frankenlab.engines.kernel_choice.TRIED_DOCUMENTS", (7, 20, 1, 13))
    found = triton_kernels.kernels(torch.float16)
    assert differing(found, torch.device("cpu"), torch.float16, 3, 1, 16) is None
