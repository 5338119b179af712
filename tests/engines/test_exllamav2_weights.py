"""Which layers are dequantized once and kept, and that nobody can tell from the scores."""

import logging

import pytest
import torch

from frankenlab.engines import exllamav2_weights
from frankenlab.engines.batches import make_batch
from frankenlab.engines.exllamav2 import Exllamav2Engine
from frankenlab.engines.exllamav2_weights import (
    DequantizedLayers,
    dequantized_bytes,
    outer_weights,
)
from frankenlab.engines.token_tree import token_tree
from frankenlab.evaluate.sweep import arrived, sweep
from frankenlab.io.errors import UserError
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.memory import batch_bytes
from frankenlab.plans.plan import base, parse
from frankenlab.plans.trie import plan_trie
from tests.support.engines import DOCUMENTS
from tests.support.models import parse_all
from tests.support.processes import one_line

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("exllamav2_on_cpu")]

TEXTS = ["base", "0:2,1:3", "0,1x3,2", "0:2,1@attn,1@mlp*0.5,2"]


@pytest.fixture(scope="module")
def directory(directories):
    return directories("plain")


@pytest.fixture
def free_memory(monkeypatch):
    """Return a function that lets a GPU have so many bytes free."""

    def give(size):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (size, 1 << 40))

    return give


@pytest.fixture
def products(monkeypatch):
    """The matrices that exllamav2's kernel has dequantized, by name, in order."""
    from exllamav2.linear import ExLlamaV2Linear

    names, whole = [], ExLlamaV2Linear.get_weight_tensor_dq

    def note(self):
        names.append(self.key)
        return whole(self)

    monkeypatch.setattr(ExLlamaV2Linear, "get_weight_tensor_dq", note)
    return names


def scores(engine):
    """Everything that a sweep finds."""
    trees = [token_tree(requests) for requests in DOCUMENTS]
    trie = plan_trie(parse_all(TEXTS, 3))
    return dict(arrived(sweep(engine, trie, make_batch(trees, range(len(trees))))))


def room_for(engine, layers: float) -> int:
    needed = batch_bytes(engine._shape, engine.token_budget)
    return int(needed + layers * dequantized_bytes(engine._layers[0]))


def test_scores_are_the_same_bit_for_bit_whatever_is_kept(directory, free_memory, products):
    expected = None
    for layers, kept in [(9, [0, 1, 2]), (2.5, [1, 2]), (1, [2]), (0.9, []), (-100, [])]:
        engine = Exllamav2Engine(directory)
        free_memory(room_for(engine, layers))
        engine.place(make_batch([token_tree(DOCUMENTS[0])], [0]))
        assert engine.kept == kept
        products.clear()
        found = scores(engine)
        expected = expected or found
        assert found == expected
        # One visit for each node of the trie, and none of the layers that are kept.
        visits = [int(name.split(".")[2]) for name in products]
        for layer, times in ((0, 1), (1, 5), (2, 4)):
            assert visits.count(layer) == (0 if layer in kept else 7 * times), layer
        engine.close()


def test_the_bytes_of_a_layer_are_those_of_its_weights(directory):
    engine = Exllamav2Engine(directory)
    shape = Exl2Directory(directory).shape
    assert dequantized_bytes(engine._layers[1]) == 2 * sum(
        a * b for a, b in shape.layer_linears.values()
    )


def test_memory_that_runs_out_takes_kept_weights_first(directory, monkeypatch, caplog):
    engine = Exllamav2Engine(directory)
    expected, run, errors = scores(engine), engine.scoring.run, []

    def cramped(step, *given):
        if len(engine.kept) > 1:
            errors.append(engine.kept)
            raise RuntimeError("CUDA out of memory")
        return run(step, *given)

    monkeypatch.setattr(engine.scoring, "run", cramped)
    with caplog.at_level(logging.WARNING):
        assert scores(engine) == expected
    assert errors == [[0, 1, 2]] and engine.kept == [2]
    assert "out of memory: 1 layers are kept dequantized now" in caplog.text
    assert engine.give_up_weights() and engine.kept == [] and not engine.give_up_weights()
    assert scores(engine) == expected


def test_memory_that_runs_out_with_nothing_kept_is_said(directory, monkeypatch, free_memory):
    engine = Exllamav2Engine(directory)
    free_memory(0)

    def cramped(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.scoring, "run", cramped)
    with pytest.raises(torch.OutOfMemoryError):
        scores(engine)


def test_a_head_that_finds_no_memory_is_said_before_any_batch(directory, monkeypatch):
    engine = Exllamav2Engine(directory)

    def cramped(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("frankenlab.engines.exllamav2.outer_weights", cramped)
    with pytest.raises(UserError, match="no memory for the head and a layer") as error:
        _ = engine.layout
    assert one_line(error).startswith(str(directory))


def test_embeddings_go_to_the_first_layers_device_where_that_has_room(directory):
    modules, first = Exllamav2Engine(directory).model.modules, torch.device("meta")
    for room, where in ((1 << 40, "meta"), (0, "cpu")):
        table, *_ = outer_weights(modules, 384, first, {first: room}.__getitem__)
        assert table.device.type == where


def test_what_does_not_fit_while_it_is_kept_is_not_kept(directory, monkeypatch):
    engine, made = Exllamav2Engine(directory), exllamav2_weights.dequantized
    calls = []

    def cramped(modules):
        calls.append(modules)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made(modules)

    monkeypatch.setattr(exllamav2_weights, "dequantized", cramped)
    layers = DequantizedLayers(engine._layers, lambda device: 1 << 40)
    assert layers.kept == [2] and len(calls) == 2 and len(layers) == 3
    assert torch.equal(layers[1].down, made(engine._layers[1]).down)


def test_decoding_takes_no_dequantized_weights(directory, products):
    engine = Exllamav2Engine(directory)
    engine.decoder(parse("0:2,1:3", 3), 8).feed([5, 6, 7])
    assert engine.kept == [] and products == []


def test_a_prompt_is_read_again_when_memory_ran_out(directory, monkeypatch):
    engine = Exllamav2Engine(directory)
    scores(engine)
    expected = engine.decoder(base(3), 8).feed([5, 6, 7])
    decoder = engine.decoder(base(3), 8)
    attention, mlp = decoder.modules[1]
    forward = mlp.forward

    def cramped(*given):
        if len(engine.kept) == 3:
            raise RuntimeError("CUDA out of memory")
        return forward(*given)

    monkeypatch.setattr(mlp, "forward", cramped)
    assert torch.equal(decoder.feed([5, 6, 7]), expected)
    assert decoder.length == 3 and engine.kept == [2]


@pytest.mark.parametrize("wrong", ["_gate_up", "_qkv"])
def test_weights_that_are_not_exllamav2s_are_refused(directory, monkeypatch, wrong):
    order = getattr(exllamav2_weights, wrong)
    monkeypatch.setattr(exllamav2_weights, wrong, lambda module: order(module)[::-1])
    engine = Exllamav2Engine(directory)
    with pytest.raises(UserError, match="dequantized weights are not those of") as error:
        scores(engine)
    assert one_line(error).startswith(str(directory))


def test_a_model_is_split_over_gpus_and_scores_and_decodes_the_same(directory, monkeypatch):
    """Both GPUs are the CPU here: where tensors are is the torch engine's test of a split."""
    whole = Exllamav2Engine(directory)
    plan, tokens = parse("0:2,1:3,(0:3)*0.5", 3), list(range(5, 25))
    expected = scores(whole), whole.decoder(plan, 30).feed(tokens)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    caches, split = [], Exllamav2Engine(directory, gpus=2)
    zeros = torch.zeros
    monkeypatch.setattr(
        torch, "zeros", lambda *size, **how: caches.append(how.get("device")) or zeros(*size, **how)
    )
    decoder = split.decoder(plan, 30)
    monkeypatch.setattr(torch, "zeros", zeros)
    assert scores(split) == expected[0]
    assert torch.equal(decoder.feed(tokens), expected[1])
    embedding, *layers, norm, head = (module.device_idx for module in split.model.modules)
    assert (embedding, norm, head) == (-1, 1, 1) and set(layers) == {0, 1}
    assert layers == sorted(layers) and layers[::2] == layers[1::2]
    assert [index for index, each in enumerate(split.model.device_context) if each] == [0, 1]
    where = [f"cuda:{layers[2 * step.layer]}" for step in plan.steps for _ in "kv"]
    assert [device for device in caches if str(device).startswith("cuda")] == where
