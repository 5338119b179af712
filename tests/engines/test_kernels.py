"""What stands between the matrix products gives what the plain operations give."""

import pytest
import torch
import torch.nn.functional as F

from frankenlab.engines.kernels import CACHED_TOKENS, rms_norm, rotate, swiglu
from frankenlab.engines.scoring import CACHED_ROWS, _reduced

DTYPES = (torch.float32, torch.bfloat16)


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [(), (1,), (CACHED_TOKENS,), (2, CACHED_TOKENS + 3)])
def test_the_norm_is_torchs(tokens, dtype):
    """But for the order of a float32 sum, which may turn a number's last bit."""
    width = CACHED_TOKENS + 48
    x, weight = random(*tokens, width, dtype=dtype), random(width, dtype=dtype)
    found, expected = rms_norm(x, weight, 1e-5), F.rms_norm(x, (width,), weight, 1e-5)
    assert found.dtype == dtype and found.shape == x.shape
    assert torch.allclose(found, expected, rtol=torch.finfo(dtype).eps, atol=0)
    assert (found != expected).float().mean() < 1e-3


def test_the_norm_of_long_vectors_does_not_overflow():
    """Squares of these are beyond float16 and, summed, beyond what bfloat16 tells apart."""
    x = 1e4 * random(3, 96, dtype=torch.bfloat16)
    weight = torch.ones(96, dtype=torch.bfloat16)
    expected = x.double() / x.double().square().mean(-1, keepdim=True).sqrt()
    assert torch.allclose(rms_norm(x, weight, 1e-5).double(), expected, rtol=2**-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gate_is_the_first_half(dtype):
    x = random(5, 48, dtype=dtype)
    assert torch.equal(swiglu(x), F.silu(x[:, :24]) * x[:, 24:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotation_is_that_of_complex_numbers(dtype):
    angles = random(7, 1, 4, dtype=torch.float32)
    cos, sin = (torch.cat((f(angles), f(angles)), dim=-1).to(dtype) for f in (torch.cos, torch.sin))
    x = random(7, 3, 8, dtype=dtype)
    turned = torch.complex(x[..., :4].double(), x[..., 4:].double()) * torch.exp(
        1j * angles.double()
    )
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    # Tables, products and the sum are each rounded once, all smaller than the number's length.
    largest = 4 * torch.finfo(dtype).eps * torch.cat((turned.abs(), turned.abs()), dim=-1)
    assert ((rotate(x, cos, sin).double() - expected).abs() < largest).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, CACHED_ROWS + 1, 3 * CACHED_ROWS])
def test_rows_of_logits_are_reduced_in_float32_a_few_at_a_time(rows, dtype):
    logits = 9 * random(rows, 1000, dtype=dtype)
    highest, total = _reduced(logits)
    assert highest.dtype == total.dtype == torch.float32
    assert torch.equal(highest, logits.float().amax(-1))
    assert torch.allclose(total, torch.logsumexp(logits.double(), -1).float(), atol=1e-5)
