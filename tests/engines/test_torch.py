"""The torch engine is the Hugging Face model, cut into steps."""

import json

import pytest
import torch

from frankenlab.engines import scoring
from frankenlab.engines import torch as torch_engine
from frankenlab.engines.batches import Batch, make_batch
from frankenlab.engines.token_tree import TokenRequest, token_tree
from frankenlab.engines.torch import TorchEngine
from frankenlab.io.errors import UserError
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.plans.plan import Plan, Window, base, parse
from tests.support.engines import TOKENS, hidden_states, logprobs, one_document
from tests.support.models import (
    PLANS,
    ROUNDING,
    SCALED,
    VARIANTS,
    assert_close,
    load_hf,
    parse_all,
    with_window,
)
from tests.support.processes import one_line
from tests.support.task_rows import load_task
from tests.support.tiny import make_tiny_model


@torch.inference_mode()
def reference(model: torch.nn.Module, plan: Plan) -> torch.Tensor:
    """The plan on transformers' own modules, as written in the design: h + scale * f(h), where a
    step that ends a window goes back to the h before it."""
    tokens = torch.tensor([TOKENS])
    hidden = model.model.embed_tokens(tokens)
    rotary = model.model.rotary_emb(hidden, torch.arange(len(TOKENS))[None])
    causal = torch.full((len(TOKENS),) * 2, float("-inf")).triu(1)[None, None]

    def attention(layer, h):
        normed = layer.input_layernorm(h)
        return layer.self_attn(normed, position_embeddings=rotary, attention_mask=causal)[0]

    def mlp(layer, h):
        return layer.mlp(layer.post_attention_layernorm(h))

    def block(layer, h):
        update = attention(layer, h)
        return update + mlp(layer, h + update)

    f = {"attn": attention, "mlp": mlp, "block": block}
    states = [hidden]
    for step in plan.steps:
        after = states[-1] + f[step.part](model.model.layers[step.layer], states[-1])
        before = states[-step.span]
        states.append(before + step.scale * (after - before))
    hidden = states[-1]
    return model.lm_head(model.model.norm(hidden))[0].log_softmax(-1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_identity_plan_is_the_hugging_face_model(tiny, variant):
    """Every log-probability of every next token."""
    with torch.inference_mode():
        expected = load_hf(tiny(variant))(torch.tensor([TOKENS])).logits[0].log_softmax(-1)
    found = logprobs(TorchEngine(tiny(variant), "float32"), base(4))
    assert_close(found, expected)
    assert expected.std() > 0.5  # a model that says the same of every token would prove nothing


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("text", [*PLANS[1:], *SCALED])
def test_steps_parts_and_scales_are_as_written_by_hand(tiny, variant, text):
    plan = parse(text, 4)
    expected = reference(load_hf(tiny(variant)), plan)
    found = logprobs(TorchEngine(tiny(variant), "float32"), plan)
    assert_close(found, expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("start", "stop", "times", "beta"), [(1, 3, 3, 0.5), (0, 4, 2, -0.25)])
def test_a_damped_window_is_transformers_with_the_window_written_out(
    tiny, variant, start, stop, times, beta
):
    model = with_window(load_hf(tiny(variant)), start, stop, times, beta)
    with torch.inference_mode():
        expected = model(torch.tensor([TOKENS])).logits[0].log_softmax(-1)
    plan = Window(start, stop, times, beta).plan(4)
    assert_close(logprobs(TorchEngine(tiny(variant), "float32"), plan), expected)


def test_every_plan_of_these_tests_computes_something_else(tiny):
    """Else a step that is left out, or taken for another, would go unseen."""
    engine = TorchEngine(tiny(), "float32")
    results = [logprobs(engine, plan) for plan in parse_all([*PLANS, *SCALED])]
    for i, one in enumerate(results):
        for other in results[:i]:
            assert (one - other).abs().max() > 0.1


@pytest.mark.parametrize("part", ["0", "0@attn", "0@mlp", "0*0.5"])
def test_a_step_does_not_change_its_input(tiny, part):
    engine = TorchEngine(tiny("all-biases"), "float32")
    device_batch = engine.place(one_document(TOKENS))
    with torch.inference_mode():
        hidden = engine.embed(device_batch)
        before = hidden.clone()
        engine.run(parse(part, 4).steps[0], hidden, device_batch)
        engine.finish(parse(part, 4).steps[0], hidden, device_batch)
    assert torch.equal(hidden, before)


def documents_after(shots: list[int]) -> Batch:
    """Documents of a few tokens that begin with the same examples."""
    documents = [
        [TokenRequest((*shots, 5 + n, 6), (7, 8 + n)), TokenRequest((*shots, 5 + n), (n, 9))]
        for n in range(3)
    ]
    batch = make_batch([token_tree(r) for r in documents], range(len(documents)))
    assert batch.prefix.tolist() == shots
    return batch


@pytest.mark.parametrize("shots", [0, 40])
def test_padding_before_the_keys_of_a_row_is_not_seen(tiny, monkeypatch, shots):
    engine, batch = TorchEngine(tiny(), "float32"), documents_after(TOKENS[:shots])
    found = []
    for multiple in (1, 16, 64):
        monkeypatch.setattr(torch_engine, "KEY_MULTIPLE", multiple)
        with torch.inference_mode():
            device_batch = engine.place(batch)
            assert device_batch.mask.keys % multiple == 0
            found.append(
                engine.run(parse("0", 4).steps[0], engine.embed(device_batch), device_batch)
            )
    assert device_batch.mask.padding > 0
    for one in found:
        assert_close(one, found[0])


@pytest.mark.parametrize("part", ["0", "1@attn", "2@mlp", "3*0.5", "0@attn*0.5", "0@mlp*2"])
@pytest.mark.parametrize("shots", [0, 40])
def test_a_last_step_is_a_step_at_the_scored_positions(tiny, part, shots):
    """Also after examples that the documents share."""
    engine, (step,) = TorchEngine(tiny("all-biases"), "float32"), parse(part, 4).steps
    batch = documents_after(TOKENS[:shots])
    with torch.inference_mode():
        device_batch = engine.place(batch)
        hidden = engine.embed(device_batch)
        expected = engine.run(step, hidden, device_batch)[batch.positions_scored]
        found = engine.finish(step, hidden, device_batch)
    assert_close(found, expected)
    assert (found - hidden[batch.positions_scored]).abs().max() > 1e-3


@pytest.mark.parametrize("text", PLANS)
def test_a_later_token_changes_nothing_before_it(tiny, text):
    engine, plan = TorchEngine(tiny(), "float32"), parse(text, 4)
    changed = [*TOKENS[:40], (TOKENS[40] + 1) % 384, *TOKENS[41:]]
    one, other = hidden_states(engine, plan), hidden_states(engine, plan, changed)
    assert torch.equal(one[:40], other[:40])
    assert (one[40:] - other[40:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("chunk", [1, 7, 128])
def test_scores_are_log_probabilities_of_the_targets_however_the_head_is_chunked(
    tiny, monkeypatch, chunk
):
    """Several targets of one position, in an order that is not that of the positions."""
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    engine = TorchEngine(tiny(), "float32")
    expected = logprobs(engine, base(4))
    best = expected.argmax(-1).tolist()
    requests = [
        TokenRequest(tuple(TOKENS[:end]), tuple(ending))
        for end in (50, 3, 20)
        for ending in ([*TOKENS[end : end + 9]], [best[end - 1]], [5])
    ]
    batch = make_batch([token_tree(requests)], [0])
    with torch.inference_mode():
        device_batch = engine.place(batch)
        hidden = engine.embed(device_batch)
        *steps, last = base(4).steps
        for step in steps:
            hidden = engine.run(step, hidden, device_batch)
        found, greedy = engine.score(engine.finish(last, hidden, device_batch), device_batch)
    assert found.dtype == torch.float64 and greedy.dtype == torch.bool
    for request, indices in zip(requests, batch.requests[0], strict=True):
        first = len(request.context) - 1
        for i, (index, target) in enumerate(zip(indices, request.continuation, strict=True)):
            assert found[index] == pytest.approx(expected[first + i, target].item(), abs=ROUNDING)
            assert greedy[index] == (target == best[first + i])
    assert greedy.any() and not greedy.all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.01)])
def test_smaller_precisions_are_the_same_model_but_for_rounding(tiny, dtype, tolerance):
    exact = logprobs(TorchEngine(tiny(), "float32"), base(4))
    engine = TorchEngine(tiny(), dtype)
    rounded = logprobs(engine, base(4)).float()
    assert engine.layers[0].qkv.dtype == torch_engine.DTYPES[dtype]
    assert 0 < (rounded - exact).abs().mean() < tolerance


@pytest.mark.skipif(torch.cuda.is_available(), reason="only a machine without CUDA lacks it")
def test_an_absent_device_is_refused(tiny):
    with pytest.raises(UserError) as error:
        TorchEngine(tiny(), "float32", "cuda")
    assert '"cuda"' in one_line(error)


def test_rotary_frequencies_that_depend_on_the_length_are_refused(tmp_path):
    directory = make_tiny_model(tmp_path / "model")
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config["rope_parameters"] |= {"rope_type": "dynamic", "factor": 2.0}
    file.write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        TorchEngine(directory, "float32")
    assert '"dynamic"' in one_line(error) and "llama3" in str(error.value)


@pytest.mark.real
def test_the_identity_plan_is_the_real_model(real_model, real_config):
    """Every log-probability of every next token of 300 tokens of text."""
    task = load_task(real_config.tasks["boolq_passages"])
    text = " ".join(text for document in task.documents(range(4)) for (text,) in document.requests)
    tokens = load_tokenizer(real_model).encode(text)[:300]
    assert len(tokens) == 300
    with torch.inference_mode():
        expected = load_hf(real_model)(torch.tensor([tokens])).logits[0].log_softmax(-1)
        engine = TorchEngine(real_model, "float32")
        hidden = hidden_states(engine, base(engine.n_layers), tokens)
        found = engine.logits(hidden).log_softmax(-1)
    assert_close(found, expected)
