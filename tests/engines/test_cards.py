"""A model split over GPUs: every tensor is where it is needed, and every number is the same."""

import weakref
from dataclasses import replace

import pytest
import torch

from frankenlab.engines import cards
from frankenlab.engines.batches import MAKERS
from frankenlab.engines.cards import moved, usable_devices
from frankenlab.engines.kernels import EAGER
from frankenlab.engines.token_tree import token_tree
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate.sweep import arrived, sweep
from frankenlab.io.errors import UserError
from frankenlab.plans.plan import parse
from frankenlab.plans.trie import plan_trie
from tests.support.engines import DOCUMENTS, TOKENS
from tests.support.models import DAMPED, PLANS, parse_all
from tests.support.pretend_gpus import pretend_gpus
from tests.support.processes import one_line


@pytest.fixture(autouse=True)
def plain_gpus(monkeypatch):
    cards._copies_arrive.cache_clear()
    monkeypatch.setenv("FRANKENLAB_KERNELS", "eager")


def scores(engine, plans) -> dict:
    trees = [token_tree(requests) for requests in DOCUMENTS]
    batch = MAKERS[engine.layout](trees, range(len(trees)))
    return dict(arrived(sweep(engine, plan_trie(plans), batch)))


# Eager kernels that are not told from Triton's: their batches are one row.
IN_ONE_ROW = replace(EAGER, name="in one row")


@pytest.mark.parametrize(
    ("variant", "gpus", "kernels"), [("tied", 2, IN_ONE_ROW), ("all-biases", 3, EAGER)]
)
def test_a_split_changes_no_bit_and_mixes_no_gpus(tiny, monkeypatch, variant, gpus, kernels):
    monkeypatch.setattr("frankenlab.engines.torch.kernels_for", lambda *given: kernels)
    plans = parse_all([PLANS[1], *PLANS[-2:], *DAMPED])
    with pretend_gpus(gpus) as machine:
        whole = TorchEngine(tiny(variant), "bfloat16", "cuda")
        expected = scores(whole, plans)
        assert machine.moves == []
        assert whole.layout == ("rows" if kernels is EAGER else "flat")
        split = TorchEngine(tiny(variant), "bfloat16", "cuda", gpus=gpus)
        assert scores(split, plans) == expected
        assert {x.input_norm.device.index for x in split.layers} == set(range(gpus))
        assert machine.moves, "no state went from one GPU to another"


def test_decoding_has_each_cache_on_the_gpu_of_its_layer(tiny):
    plan = parse("0:3,1:4,(0:4)*0.5", 4)
    with pretend_gpus(2):
        engines = [TorchEngine(tiny(), "float32", "cuda", gpus=gpus) for gpus in (1, 2)]
        decoders = [engine.decoder(plan, 40) for engine in engines]
        for tokens in (TOKENS[:20], TOKENS[20:21], TOKENS[21:23]):
            whole, split = (decoder.feed(tokens) for decoder in decoders)
            assert torch.equal(whole.cpu(), split.cpu()) and split.device == engines[1].device
        devices = [engines[1].layers[step.layer].qkv.device for step in plan.steps]
        assert [cache.keys.device for cache in decoders[1].caches] == devices
        assert len(set(devices)) == 2


def test_a_batch_is_freed_with_its_copies_on_other_gpus(tiny):
    """At once, and not when Python looks for objects that refer to each other."""
    with pretend_gpus(2):
        engine = TorchEngine(tiny(), "float32", "cuda", gpus=2)
        batch = engine.place(MAKERS[engine.layout]([token_tree(DOCUMENTS[0])], [0]))
        copy = weakref.ref(batch.on(engine.device))
        assert copy() is batch.on(engine.device)
        del batch
        assert copy() is None


def test_a_state_left_behind_is_noticed(tiny, monkeypatch):
    """The pretend GPUs are as strict as real ones."""
    monkeypatch.setattr("frankenlab.engines.torch.moved", lambda tensor, device: tensor)
    with pretend_gpus(2), pytest.raises(RuntimeError, match="same device"):
        scores(TorchEngine(tiny("untied"), "float32", "cuda", gpus=2), parse_all(["base"]))


def test_fewer_gpus_than_asked_for_are_refused_before_anything_is_loaded(tiny):
    with pretend_gpus(2):
        assert [device.index for device in usable_devices("cuda:0", 2)] == [0, 1]
        for name, gpus in (("cuda", 3), ("cuda:1", 2)):
            with pytest.raises(UserError) as error:
                TorchEngine(tiny(), "float32", name, gpus=gpus)
            assert f"{gpus} GPUs are asked for, and torch finds 2 here" in one_line(error)
    with pytest.raises(UserError, match="split over 2 GPUs on cuda only"):
        TorchEngine(tiny(), "float32", "cpu", gpus=2)


def test_copies_that_do_not_arrive_go_through_the_host(monkeypatch, caplog):
    """As between GPUs whose driver claims what their board cannot do."""
    to = torch.Tensor.to

    def lost(tensor, device, **options):
        there = to(tensor, device, **options)
        return torch.zeros_like(there) if tensor.device.type == "cuda" else there

    monkeypatch.setattr(torch.Tensor, "to", lost)
    with pretend_gpus(2):
        tensor = torch.arange(5, device=torch.device("cuda:0"))
        there = moved(tensor, torch.device("cuda:1"))
        assert there.device.index == 1 and there.tolist() == [0, 1, 2, 3, 4]
    assert "copies from cuda:0 to cuda:1 do not arrive" in caplog.text
