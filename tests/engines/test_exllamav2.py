"""Scoring on exllamav2's weights, and decoding by its own modules, both on a stand-in for its
kernels, are the torch engine on the same EXL2 directory."""

import pytest
import torch

from frankenlab.engines.batches import MAKERS
from frankenlab.engines.exllamav2 import Exllamav2Engine
from frankenlab.engines.protocol import walk
from frankenlab.engines.token_tree import token_tree
from frankenlab.engines.torch import TorchEngine
from frankenlab.io.errors import UserError
from frankenlab.models.exl2.format import QuantizedLinear
from frankenlab.plans.plan import Plan, base, parse
from tests.support import exllamav2_extension
from tests.support.engines import DOCUMENTS, generate, one_document
from tests.support.exl2_models import EXL2_VARIANTS
from tests.support.models import parse_all
from tests.support.processes import one_line
from tests.support.tiny import make_tiny_exl2

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("exllamav2_on_cpu")]

TOLERANCE = 5e-3  # nats of one token's log-probability: float16 beside float32
TOKENS = torch.randint(2, 384, (40,), generator=torch.Generator().manual_seed(7)).tolist()

PLANS = {
    2: [
        *("base", "0,0:2", "0:2x2", "1", "1,0", "0:2,1@attn,1@mlp*0.5", "0*0.5,0@mlp,0:2*-1"),
        "(0:2)x2*0.5",
    ],
    3: [
        *("base", "0:2,1:3", "0,1x3,2", "0,2", "0:2,1@attn,2", "0:3,1:3@mlp", "0:2*0.5,2@attn*2"),
        *("0,(1:3)x2*0.5", "(0,1@attn)x3*0.5,1:3"),
    ],
}


@pytest.fixture
def engine(directories):
    made = Exllamav2Engine(directories("plain"))
    yield made
    made.close()


def plans_of(n_layers: int) -> list[Plan]:
    return parse_all(PLANS[n_layers], n_layers)


@torch.inference_mode()
def target_logprobs(engine, plan: Plan, documents=DOCUMENTS):
    """(log-probability of each target, in the documents' order; is it greedy)"""
    make = MAKERS[engine.layout]
    trees = [token_tree(requests) for requests in documents]
    device_batch = engine.place(make(trees, range(len(trees))))
    *steps, last = plan.steps
    states = list(walk(engine, steps, device_batch))
    finished = engine.finish(last, states[-1], device_batch, states[-last.span])
    return engine.score(finished, device_batch)


def all_logprobs(engine, plan: Plan, tokens=TOKENS) -> torch.Tensor:
    """Of every next token, without a cache: [tokens, vocabulary]."""
    with torch.inference_mode():
        device_batch = engine.place(one_document([*tokens, 5]))
        *_, hidden = walk(engine, plan.steps, device_batch)
        return engine.logits(hidden[: len(tokens)]).float().log_softmax(-1)


@pytest.mark.parametrize("variant", EXL2_VARIANTS)
def test_base_and_frankens_are_those_of_the_torch_engine(directories, variant):
    directory = directories(variant)
    engine, reference = Exllamav2Engine(directory), TorchEngine(directory, "float32")
    assert (engine.n_layers, engine.vocabulary) == (reference.n_layers, reference.vocabulary)
    expected = []
    for plan in plans_of(engine.n_layers):
        found, greedy = target_logprobs(engine, plan)
        logprobs, is_greedy = target_logprobs(reference, plan)
        assert found.dtype == torch.float64 and len(found) > 200
        assert (found - logprobs).abs().max() < TOLERANCE, plan.text
        assert (greedy == is_greedy).float().mean() > 0.99
        expected.append(logprobs)
    # Else a step that is left out would go unseen.
    for i, one in enumerate(expected):
        assert all((one - other).abs().max() > 20 * TOLERANCE for other in expected[:i])
    engine.close()


@pytest.mark.parametrize("part", ["0", "0@attn", "0@mlp", "0*0.5"])
@pytest.mark.parametrize("variant", ["fixture", "plain"])
def test_a_step_does_not_change_its_input(directories, variant, part):
    engine = Exllamav2Engine(directories(variant))
    with torch.inference_mode():
        device_batch = engine.place(one_document(TOKENS))
        hidden = engine.embed(device_batch)
        before = hidden.clone()
        after = engine.run(parse(part, engine.n_layers).steps[0], hidden, device_batch)
    assert torch.equal(hidden, before) and not torch.equal(after, before)


@pytest.mark.parametrize("text", PLANS[3])
def test_a_later_token_changes_nothing_before_it(engine, text):
    plan = parse(text, 3)
    changed = [*TOKENS[:20], (TOKENS[20] + 1) % 384, *TOKENS[21:]]
    one, other = all_logprobs(engine, plan), all_logprobs(engine, plan, changed)
    assert torch.equal(one[:20], other[:20])
    assert (one[20:] - other[20:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("variant", ["fixture", "plain", "qwen2", "llama3-rope"])
def test_decoding_with_the_cache_is_recomputing_from_scratch(directories, variant):
    engine = Exllamav2Engine(directories(variant), max_tokens=16)
    whole, tokens = Exllamav2Engine(directories(variant)), TOKENS[:24]
    for plan in plans_of(engine.n_layers):
        expected = all_logprobs(whole, plan, tokens)
        for pieces in ([1] * 24, [24], [5, 1, 18]):
            decoder = engine.decoder(plan, len(tokens))
            start = 0
            for size in pieces:
                found = decoder.feed(tokens[start : start + size]).float().log_softmax(-1)
                start += size
                assert (found - expected[start - 1]).abs().max() < TOLERANCE, (plan.text, start)
            assert decoder.length == len(tokens)


def test_every_attending_occurrence_has_a_slot_of_its_own(engine):
    plan = parse("0:2,1,1@attn,1@mlp,2", 3)
    decoder = engine.decoder(plan, 10)
    decoder.feed(TOKENS[:9])
    keys = [slot[0, :9] for slot in decoder.cache.key_states]
    assert len(keys) == 5 and all(slot.abs().amax((1, 2)).min() > 0 for slot in keys)
    assert all((keys[i] - keys[j]).abs().max() > 0.1 for i in range(5) for j in range(i))
    assert all(slot.shape == (1, 10, 2, 32) for slot in decoder.cache.key_states)


def test_shared_slots_would_be_noticed(engine):
    """Two occurrences of a layer with one slot give other logits: what the slots are there for."""
    plan = parse("0:2,1:3", 3)
    expected = all_logprobs(engine, plan)[-1]
    decoder = engine.decoder(plan, len(TOKENS))
    decoder.modules[2][0].layer_idx = decoder.modules[1][0].layer_idx
    for token in TOKENS:
        found = decoder.feed([token]).float().log_softmax(-1)
    assert (found - expected).abs().max() > 20 * TOLERANCE


def test_decoders_leave_the_engine_as_it_was(engine):
    expected = all_logprobs(engine, base(3))
    decoders = []
    for plan in plans_of(3):
        decoders.append(engine.decoder(plan, 12))
        assert engine.model.config.num_hidden_layers == engine.n_layers == 3
    for token in TOKENS[:12]:
        logits = [decoder.feed([token]) for decoder in decoders]
    assert torch.equal(all_logprobs(engine, base(3)), expected)
    assert (logits[0].float().log_softmax(-1) - expected[11]).abs().max() < TOLERANCE


def test_greedy_tokens_are_those_of_recomputing(engine):
    plan, tokens = parse("0:2,1:3", 3), list(TOKENS[:10])
    for _ in range(6):
        tokens.append(int(all_logprobs(engine, plan, tokens)[-1].argmax()))
    assert generate(engine, plan, TOKENS[:10], 6) == tokens[10:]


@pytest.mark.parametrize(("capacity", "error"), [(5, ValueError), (513, UserError)])
def test_a_decoder_reads_no_more_than_it_can_hold(engine, capacity, error):
    with pytest.raises(error, match="the caches hold 5|its context is 512"):
        engine.decoder(base(3), capacity).feed(TOKENS[:6])


def test_unquantized_layers_and_heads_run(tmp_path):
    """exllamav2 keeps what is not quantized as it is."""
    from safetensors.torch import load_file, save_file

    from frankenlab.models.exl2.reading import Exl2Directory

    directory = make_tiny_exl2(tmp_path / "model")
    exl2, tensors = Exl2Directory(directory), load_file(directory / "output.safetensors")
    for name in exl2.linears:
        if name == "lm_head" or ".layers.1." in name:
            for part in QuantizedLinear.__dataclass_fields__:
                tensors.pop(f"{name}.{part}", None)
            tensors[f"{name}.weight"] = exl2.get(f"{name}.weight").contiguous()
    save_file(tensors, directory / "output.safetensors")
    engine, reference = Exllamav2Engine(directory), TorchEngine(directory, "float32")
    for plan in plans_of(3):
        difference = target_logprobs(engine, plan)[0] - target_logprobs(reference, plan)[0]
        assert difference.abs().max() < TOLERANCE


def test_closing_frees_what_the_extension_holds(directories):
    before = len(exllamav2_extension._handles)
    engine = Exllamav2Engine(directories("plain"))
    assert len(exllamav2_extension._handles) == before + 3 * (7 + 2) + 1
    engine.close()
    assert len(exllamav2_extension._handles) == before


# --- causality ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["fixture", "plain"])
def test_the_attention_that_exllamav2_takes_by_default_is_found_out(
    directories, monkeypatch, variant
):
    """Without flash-attn 0.3.2 hands torch's attention no mask, unless it is told no_sdpa."""
    from exllamav2 import ExLlamaV2Config

    blind = property(lambda config: False, lambda config, value: None)
    monkeypatch.setattr(ExLlamaV2Config, "no_sdpa", blind, raising=False)
    with pytest.raises(UserError) as error:
        Exllamav2Engine(directories(variant))
    assert "a later token changes an earlier one" in one_line(error)


def test_nan_does_not_pass_for_causal(directories, monkeypatch):
    from exllamav2.mlp import ExLlamaV2MLP

    forward = ExLlamaV2MLP.forward
    monkeypatch.setattr(ExLlamaV2MLP, "forward", lambda *a, **k: forward(*a, **k) * float("nan"))
    with pytest.raises(UserError, match="by nan"):
        Exllamav2Engine(directories("plain"))


def test_other_errors_are_not_taken_for_a_lack_of_memory(engine, monkeypatch):
    def broken(*arguments, **more):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine.scoring, "run", broken)
    with pytest.raises(RuntimeError, match="illegal memory access") as error:
        target_logprobs(engine, base(3))
    assert len(engine.kept) == 3
    assert not isinstance(error.value, torch.OutOfMemoryError)
