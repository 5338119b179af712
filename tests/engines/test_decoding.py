"""Decoding with a cache for every occurrence is recomputing from scratch."""

import pytest
import torch

from frankenlab.engines.torch import TorchEngine
from frankenlab.models.export import materialize
from frankenlab.plans.plan import parse
from tests.support.engines import generate, hidden_states
from tests.support.models import PLANS, SCALED_DECODED, VARIANTS, assert_close, load_hf

TOKENS = torch.randint(2, 384, (30,), generator=torch.Generator().manual_seed(7)).tolist()


def logits_after(engine, plan, pieces) -> torch.Tensor:
    """Logits after the last of the pieces, fed one after the other."""
    decoder = engine.decoder(plan, sum(map(len, pieces)))
    for piece in pieces:
        logits = decoder.feed(piece)
    assert decoder.length == sum(map(len, pieces))
    return logits


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("text", [*PLANS, *SCALED_DECODED])
def test_pieces_give_the_same_logits_as_the_whole_and_as_no_cache(tiny, variant, text):
    engine, plan = TorchEngine(tiny(variant), "float32"), parse(text, 4)
    whole = logits_after(engine, plan, [TOKENS])
    one_by_one = logits_after(engine, plan, [[token] for token in TOKENS])
    chunks = logits_after(engine, plan, [TOKENS[:11], TOKENS[11:12], TOKENS[12:]])
    with torch.inference_mode():
        assert_close(whole, engine.logits(hidden_states(engine, plan, TOKENS)[-1]))
    assert_close(one_by_one, whole)
    assert_close(chunks, whole)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("text", PLANS)
def test_generated_tokens_are_those_of_the_exported_model(tiny, tmp_path, variant, text):
    plan = parse(text, 4)
    materialize(tiny(variant), plan, tmp_path / "out")
    model = load_hf(tmp_path / "out")
    found = generate(TorchEngine(tiny(variant), "float32"), plan, TOKENS, 12)
    assert len(found) == 12
    with torch.inference_mode():
        logits = model(torch.tensor([[*TOKENS, *found[:-1]]])).logits[0, len(TOKENS) - 1 :]
    # Where two tokens are equally likely but for rounding, either is the most likely one.
    assert_close(logits[range(12), found], logits.amax(-1))


def test_every_attending_occurrence_keeps_keys_and_values_of_its_own(tiny):
    plan = parse("0:2,1,1@attn,1@mlp,2", 4)
    decoder = TorchEngine(tiny(), "float32").decoder(plan, 10)
    decoder.feed(TOKENS[:9])
    decoder.feed(TOKENS[9:10])
    attending = [c for s, c in zip(plan.steps, decoder.caches, strict=True) if s.attends]
    assert len(attending) == 5 and sum(c is not None for c in decoder.caches) == 5
    assert all(c.keys.shape == c.values.shape == (1, 2, 10, 8) for c in attending)
    keys = [c.keys for c in attending]
    assert all(not torch.allclose(keys[0], other) for other in keys[1:])
    assert not torch.allclose(keys[1], keys[2])  # the same layer, on another state


@pytest.mark.parametrize("n_new", [0, 1, 5])
def test_as_many_tokens_as_asked_for_are_generated(tiny, n_new):
    engine, plan = TorchEngine(tiny(), "float32"), parse("0:3,1:4", 4)
    longest = generate(engine, plan, TOKENS[:1], 5)
    assert generate(engine, plan, TOKENS[:1], n_new) == longest[:n_new]


def test_a_decoder_reads_no_more_than_its_caches_hold(tiny):
    decoder = TorchEngine(tiny(), "float32").decoder(parse("base", 4), 10)
    decoder.feed(TOKENS[:8])
    with pytest.raises(ValueError, match="8 tokens and 3 more; the caches hold 10"):
        decoder.feed(TOKENS[8:11])
    assert decoder.length == 8
