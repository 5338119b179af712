"""What a probe measures of a layer is what transformers' own hidden states say."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate import probe as probing
from frankenlab.evaluate.probe import probe, probe_task
from frankenlab.tasks.encoding import encoder_of
from tests.support.engines import tokens
from tests.support.exl2_models import FIXTURE
from tests.support.models import load_hf
from tests.support.task_rows import load_task, task_settings

PROMPTS = [tokens(1, 8), tokens(2, 5), tokens(3, 8), tokens(4, 1), tokens(5, 7), tokens(6, 3)]


def engine_of(directory: Path) -> TorchEngine:
    return TorchEngine(directory, "float32")


def assert_same(found: Sequence[pd.DataFrame], expected: Sequence[pd.DataFrame]) -> None:
    for one, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other, rtol=1e-3, atol=1e-5)


def test_a_layer_that_adds_nothing_moves_nothing(tiny):
    engine = engine_of(tiny())
    silent = {name: torch.zeros_like(getattr(engine.layers[1], name)) for name in ("out", "down")}
    engine.layers[1] = replace(engine.layers[1], **silent)
    layers, similarity = probe(engine, PROMPTS)
    row = layers.set_index("layer").loc[1]
    for part in ("block", "attn", "mlp"):
        assert row[f"first_{part}"] == row[f"second_{part}"] == 0
        assert pd.isna(row[f"turn_{part}"])
    assert row["cosine"] == pytest.approx(1, abs=1e-6) and row["kl"] == pytest.approx(0, abs=1e-6)
    assert row["change"] == row["rank"] == 0
    same = similarity.set_index(["first", "second"]).loc[(1, 2)]
    assert same["cosine"] == pytest.approx(1, abs=1e-6)
    assert same["angle"] == pytest.approx(0, abs=1e-3)
    others = layers[layers["layer"] != 1]
    assert (others[["first_block", "second_mlp", "kl"]] > 1e-3).all(axis=None)


@pytest.mark.slow
@torch.inference_mode()
def test_states_and_updates_are_those_of_transformers(tiny):
    layers, similarity = probe(engine_of(tiny()), PROMPTS)
    model = load_hf(tiny())
    runs = [model(torch.tensor([p]), output_hidden_states=True).hidden_states for p in PROMPTS]
    # The last one is behind the final norm.
    states = [torch.cat([run[i][0] for run in runs]) for i in range(4)]
    cosines = similarity.set_index(["first", "second"])["cosine"]
    for first in range(4):
        for second in range(first + 1, 4):
            own = torch.cosine_similarity(states[first], states[second], dim=-1).mean().item()
            assert cosines[first, second] == pytest.approx(own, abs=1e-4)
    for layer in range(3):
        update = (states[layer + 1] - states[layer]).norm(dim=-1) / states[layer].norm(dim=-1)
        row = layers.loc[layer]
        assert row["first_block"] == pytest.approx(update.median().item(), rel=1e-3)
        assert row["cosine"] == pytest.approx(cosines[layer, layer + 1], abs=1e-6)
        means = [[run[layer + i][0].mean(0) for run in runs] for i in range(2)]
        norms = [(b - a).norm().item() for a, b in zip(*means, strict=True)]
        assert row["change"] == pytest.approx(sum(norms) / len(norms), rel=1e-3)
        own = torch.stack(means[1]).var(0, correction=0).mean().item()
        assert row["variance"] == pytest.approx(own, rel=1e-3)


@pytest.mark.slow
@torch.inference_mode()
def test_the_change_of_the_next_token_is_that_of_the_franken(tiny):
    layers, _ = probe(engine_of(tiny()), PROMPTS)
    base, franken = load_hf(tiny()), load_hf(tiny())
    own = list(franken.model.layers)
    franken.model.layers = torch.nn.ModuleList([*own[:2], own[1], *own[2:]])
    franken.config.num_hidden_layers = 5
    # Every position is compared: no prompt has more than eight.
    found = []
    for prompt in PROMPTS:
        text = torch.tensor([prompt])
        p, q = (m(text, use_cache=False).logits[0].log_softmax(-1) for m in (base, franken))
        found.append((p.exp() * (p - q)).sum(-1))
    assert layers.loc[1, "kl"] == pytest.approx(torch.cat(found).mean().item(), rel=1e-3)


@pytest.mark.slow
def test_batches_change_nothing(tiny, monkeypatch):
    engine = engine_of(tiny())
    expected = probe(engine, PROMPTS)
    assert len(list(probing._groups(PROMPTS))) == 1
    monkeypatch.setattr(probing, "BATCH_TOKENS", 16)
    assert [len(g) for g in probing._groups(PROMPTS)] == [3, 2, 1]
    assert_same(probe(engine, PROMPTS), expected)
    # As on CUDA.
    engine.layout = "flat"
    assert_same(probe(engine, PROMPTS), expected)


def test_quantized_weights_are_probed_as_they_are_scored():
    layers, similarity = probe(engine_of(FIXTURE), PROMPTS)
    assert len(layers) == 2 and len(similarity) == 3
    assert (layers[["first_block", "second_block", "kl"]] > 0).all(axis=None)


@pytest.mark.slow
@pytest.mark.usefixtures("exllamav2_on_cpu")
def test_exllamav2_measures_what_torch_does():
    from frankenlab.engines.exllamav2 import Exllamav2Engine

    found, _ = probe(Exllamav2Engine(FIXTURE, "cuda:0", 4096), PROMPTS)
    expected, _ = probe(engine_of(FIXTURE), PROMPTS)
    names = ["first_block", "second_attn", "turn_mlp", "kl"]
    pd.testing.assert_frame_equal(found[names], expected[names], rtol=0.1, atol=0.01)


@pytest.mark.slow
def test_the_prompts_are_those_of_the_last_search_documents(tiny, tmp_path, monkeypatch):
    settings = task_settings(tmp_path, "arc_easy", n=120, role="search")
    read = []
    monkeypatch.setattr(
        probing, "probe", lambda engine, prompts: (read.append(prompts), pd.DataFrame())
    )
    encoder = encoder_of(tiny())
    _, _, documents = probe_task(engine_of(tiny()), encoder, settings, 5)
    task = load_task(settings)
    assert documents["document"].tolist() == task.indices("search")[-5:]
    texts = [encoder.tokenizer.decode(prompt) for prompt in read[0]]
    for text, document in zip(texts, task.documents(documents["document"]), strict=True):
        context, _ = document.requests[0]
        assert text == context and text.endswith("Answer:")
