"""On a GPU: exllamav2 with its real extension, on the tiny model; the kernels for CUDA, without it.

They need neither the network nor lm-evaluation-harness:
`python -m pytest --noconftest -m gpu tests/test_gpu.py` runs them on a bare GPU machine.
"""

import pytest
import torch
from gpu_kernels import DTYPES, SHAPES, document_ends
from gpu_limits import Gap, too_far
from gpu_measure import (
    batches_of,
    compare_engines,
    compare_reconstructions,
    engine_makers,
    scores_of,
    small_plans,
)
from gpu_models import (
    TINY_EXL2,
    TINY_HF,
    random_documents,
    requests_from_tokens,
)

from benchmarks.random_models import random_exl2
from frankenlab.engines.kernel_choice import differing, kernels_for
from frankenlab.engines.kernels import EAGER
from frankenlab.engines.token_tree import TokenRequest
from frankenlab.engines.torch import TorchEngine
from frankenlab.engines.tree_mask import tree_mask
from frankenlab.plans.plan import parse
from frankenlab.quantize.exllamav2.converter import Exllamav2Quantizer
from frankenlab.quantize.exllamav2.inputs import why_unusable
from frankenlab.quantize.quantizer import measure_model, quantize_model

WHY_NOT = why_unusable()
NO_GPU = not torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(NO_GPU, reason="torch finds no CUDA device here")]
exllamav2 = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")

# Widths of 64 and more, several groups, keys and values for fewer heads.
SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}
TEXTS = [f"{n}. The river runs past the old mill, and its water is cold. " * 20 for n in range(40)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return random_exl2(tmp_path_factory.mktemp("small") / "small", SMALL, "cuda")


@exllamav2
def test_dequantized_weights_are_those_of_the_kernel(small):
    compare_reconstructions(TINY_EXL2, "cuda", [])
    compare_reconstructions(small, "cuda", [])


@exllamav2
def test_both_engines_give_the_same_log_probabilities(small):
    for directory, vocabulary, n_layers in ((TINY_EXL2, 512, 2), (small, 1000, 3)):
        requests = requests_from_tokens(random_documents(vocabulary, 6, 80))
        compare_engines(directory, requests, small_plans(n_layers), "cuda", [])


@exllamav2
def test_scores_are_the_same_bit_for_bit_with_and_without_kept_layers(small):
    requests = requests_from_tokens(random_documents(1000, 6, 80))
    engine = engine_makers(small, "cuda")["exllamav2"]()
    batches, plans = batches_of(engine, requests), small_plans(3)
    found = [scores_of(engine, plans, batches)]
    assert engine.kept == [0, 1, 2]
    while engine.give_up_weights():
        found.append(scores_of(engine, plans, batches))
    assert engine.kept == [] and len(found) == 3
    for other in found[1:]:
        assert all(torch.equal(other[text], values) for text, values in found[0].items())
    engine.close()


@exllamav2
def test_decoding_with_the_cache_is_computing_from_scratch(small):
    from frankenlab.engines.exllamav2 import Exllamav2Engine

    engine = Exllamav2Engine(small, "cuda")
    exact, rounded = (TorchEngine(small, dtype, "cuda") for dtype in ("float32", "bfloat16"))
    tokens = random_documents(1000, 1, 24)[0]
    for text in ("base", "0:3,1:3", "0:2,1@attn,2"):
        plan = parse(text, 3)
        slow = one_by_one(engine, plan, tokens)
        again = [engine.decoder(plan, 64).feed(tokens[:end]) for end in range(17, 25)]
        again = torch.stack(again).cpu().float().log_softmax(-1)
        bf16 = Gap.between(*(one_by_one(other, plan, tokens) for other in (rounded, exact)))
        assert not too_far(Gap.between(slow, again), bf16), text
        assert not too_far(Gap.between(slow, one_by_one(exact, plan, tokens)), bf16), text
    engine.close()


def one_by_one(engine, plan, tokens) -> torch.Tensor:
    """Log-probabilities after each token from the 17th on, decoded with the cache."""
    decoder = engine.decoder(plan, 64)
    decoder.feed(tokens[:16])
    logits = torch.stack([decoder.feed([token]) for token in tokens[16:]])
    return logits.cpu().float().log_softmax(-1)


@exllamav2
def test_exllamav2_converts_the_tiny_model(tmp_path):
    quantizer = Exllamav2Quantizer(tuple(TEXTS), measured_rows=4, rows=8, length=256)
    low, _ = measure_model(quantizer, TINY_HF, tmp_path / "m.json", tmp_path / "w")
    manifest = quantize_model(
        # In two layers the steps are coarse; only one choice is as small as this.
        *(quantizer, TINY_HF, tmp_path / "exl2", low + 0.005, 6, tmp_path / "m.json"),
        *(tmp_path / "w", {"kind": "model", "key": "tiny"}),
    )
    assert manifest["quantizer"] == "exllamav2 0.3.2"
    compare_reconstructions(tmp_path / "exl2", "cuda", [])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernels_give_the_eager_results(monkeypatch, dtype, shape):
    from frankenlab.engines.triton_kernels import kernels

    monkeypatch.delenv("FRANKENLAB_KERNELS", raising=False)
    device = torch.device("cuda")
    assert differing(kernels(dtype), device, dtype, *shape) is None
    assert kernels_for(device, dtype, *shape).name == "triton"


@pytest.mark.parametrize(("tokens", "prefix"), [(4096, 0), (5000, 1500)])
def test_attention_over_a_whole_batch_is_the_eager_one(tokens, prefix):
    from frankenlab.engines.triton_kernels import TILE, tree_attention

    heads = torch.randn(tokens, 40, 128, device="cuda", dtype=torch.bfloat16)
    q, k, v = heads.split((32, 4, 4), dim=1)
    mask = tree_mask(document_ends(tokens, prefix), TILE).to(q.device)
    exact = EAGER.tree_attention(q.double(), k.double(), v.double(), mask)
    found = tree_attention(q, k, v, mask)
    assert (found - exact).abs().max() <= 2**-7 * v.abs().max()


def test_a_sweep_waits_for_nothing_and_its_sequence_gives_the_scores_of_rows(small, monkeypatch):
    """Within rounding to 16 bits, of documents after examples and of others."""
    monkeypatch.delenv("FRANKENLAB_KERNELS", raising=False)
    fast = TorchEngine(small, "bfloat16", "cuda")
    monkeypatch.setenv("FRANKENLAB_KERNELS", "eager")
    eager, exact = (TorchEngine(small, dtype, "cuda") for dtype in ("bfloat16", "float32"))
    assert (fast.layout, eager.layout, exact.layout) == ("flat", "rows", "rows")
    plans, texts = small_plans(3), random_documents(1000, 20, 80)
    # After 77 tokens, the rows of the eager engines have odd numbers of keys.
    for shots in ((), tuple(texts[0][:77])):
        requests = [
            [TokenRequest(shots + r.context, r.continuation) for r in document]
            for document in requests_from_tokens(texts)
        ]
        found = []
        for engine in (fast, eager, exact):
            batches = batches_of(engine, requests)
            scores_of(engine, plans, batches)  # cuBLAS makes its workspace, which waits
            torch.cuda.set_sync_debug_mode("error")
            try:
                found.append(scores_of(engine, plans, batches))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        for plan in plans:
            own, rounded, reference = (scores[plan.text] for scores in found)
            assert not too_far(Gap.between(own, reference), Gap.between(rounded, reference))


def test_places_beyond_32_bits_are_found():
    from frankenlab.engines.triton_kernels import swiglu

    gate_up = torch.zeros(40_000, 57_344, device="cuda", dtype=torch.bfloat16)
    gate_up[-1] = torch.randn(57_344)
    found, exact = swiglu(gate_up)[-1:], EAGER.swiglu(gate_up[-1:].double())
    assert torch.allclose(found.double(), exact, rtol=2**-7)
