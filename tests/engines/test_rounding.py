"""The tolerance of the gates: far above what float32 rounding moves, far below what a fault does.

Another processor sums in another order. On a plan that amplifies such differences, no fixed
tolerance holds on all of them; so the tiny models of these tests must not amplify, and this file
measures on any one processor that they don't.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from frankenlab.engines.torch import Layer, TorchEngine
from frankenlab.plans.plan import Plan
from tests.support.engines import TOKENS, logprobs, one_document
from tests.support.models import (
    PLANS,
    ROUNDING,
    SCALED,
    SCALED_DECODED,
    SCALED_EXPORTS,
    VARIANTS,
    load_hf,
    parse_all,
)

TEXTS = {*PLANS, *SCALED, *SCALED_EXPORTS, *SCALED_DECODED}

# Half the distance between neighbouring float32 numbers is the most that rounding one can move it.
HALF_A_STEP = 2.0**-24


@torch.inference_mode()
def moved_by_rounding(engine: TorchEngine, plan: Plan, seed: int) -> torch.Tensor:
    """Log-probabilities [tokens, vocabulary] where each number of each hidden state is off by as
    much as several roundings could make it."""
    draw = torch.Generator().manual_seed(seed)

    def rounded(hidden: torch.Tensor) -> torch.Tensor:
        signs = torch.randint(0, 2, hidden.shape, generator=draw) * 2 - 1
        return hidden * (1 + 4 * HALF_A_STEP * signs)

    batch = engine.place(one_document([*TOKENS, 0]))
    states = [rounded(engine.embed(batch))]
    for step in plan.steps:
        states.append(rounded(engine.run(step, states[-1], batch, states[-step.span])))
    return engine.logits(states[-1][: len(TOKENS)]).log_softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_rounding_moves_no_plan_near_the_tolerance(tiny, variant):
    engine = TorchEngine(tiny(variant), "float32")
    for plan in parse_all(sorted(TEXTS)):
        exact = logprobs(engine, plan)
        for seed in range(3):
            moved = (moved_by_rounding(engine, plan, seed) - exact).abs().max()
            assert 0 < moved < ROUNDING / 5, plan.text


def test_weights_that_amplify_rounding_would_be_found(tiny):
    engine = TorchEngine(tiny(), "float32")
    engine.layers = [replace(layer, qkv=10 * layer.qkv) for layer in engine.layers]
    (plan,) = parse_all(["0:3,1:4"])
    moved = (moved_by_rounding(engine, plan, 0) - logprobs(engine, plan)).abs().max()
    assert moved > ROUNDING / 5


def in_layer_1(change: Callable[[TorchEngine, Layer], Layer]) -> Callable[[TorchEngine], None]:
    def fault(engine: TorchEngine) -> None:
        engine.layers[1] = change(engine, engine.layers[1])

    return fault


def without_key_bias(engine: TorchEngine, layer: Layer) -> Layer:
    """The smallest of the biases' effects: a key's share that does not depend on its token."""
    assert layer.qkv_bias is not None
    first = engine.n_heads * engine.head_dim
    bias = layer.qkv_bias.clone()
    bias[first : first + engine.n_kv_heads * engine.head_dim] = 0
    return replace(layer, qkv_bias=bias)


def with_heads_swapped(engine: TorchEngine, layer: Layer) -> Layer:
    """The first query head and the last one, as a wrong grouping of keys would take them."""
    first, stop = engine.head_dim, engine.n_heads * engine.head_dim
    order = torch.arange(len(layer.qkv))
    order[:first] += stop - first
    order[stop - first : stop] -= stop - first
    return replace(layer, qkv=layer.qkv[order])


def swap_layers(engine: TorchEngine) -> None:
    engine.layers[1], engine.layers[2] = engine.layers[2], engine.layers[1]


def change_frequencies(engine: TorchEngine) -> None:
    engine.rotary.frequencies = engine.rotary.frequencies * 1.01


def change_eps(engine: TorchEngine) -> None:
    engine.norm_eps *= 10


FAULTS = {
    "two layers swapped": swap_layers,
    "a norm's weights left out": in_layer_1(
        lambda _, layer: replace(layer, input_norm=torch.ones_like(layer.input_norm))
    ),
    "the biases left out": in_layer_1(lambda _, layer: replace(layer, qkv_bias=None)),
    "the keys' bias left out": in_layer_1(without_key_bias),
    "heads swapped": in_layer_1(with_heads_swapped),
    "rotary frequencies off by a hundredth": change_frequencies,
    "another epsilon in the norms": change_eps,
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_fault_moves_every_plan_beyond_the_tolerance(tiny, variant):
    """The last is the finest: of a model whose norms hardly need their epsilon."""
    plans = [
        plan
        for plan in parse_all(sorted(TEXTS))
        if {1, 2} <= {step.layer for step in plan.steps if step.attends}
    ]
    assert len(plans) > 8
    exact = [logprobs(TorchEngine(tiny(variant), "float32"), plan) for plan in plans]
    for name, fault in FAULTS.items():
        if "bias" in name and variant not in ("qwen2", "all-biases"):
            continue
        if name == "heads swapped" and variant == "one-key-head":
            continue
        engine = TorchEngine(tiny(variant), "float32")
        fault(engine)
        for plan, expected in zip(plans, exact, strict=True):
            moved = (logprobs(engine, plan) - expected).abs().max()
            assert moved > 3 * ROUNDING, (name, plan.text)


def test_a_token_that_sees_the_next_one_is_found(tiny, tmp_path):
    """In transformers as in the engine: the mask is a part of what the gates compare."""
    shutil.copytree(tiny(), tmp_path / "copy")
    model, tokens = load_hf(tmp_path / "copy"), torch.tensor([TOKENS])
    ahead = torch.full((len(TOKENS),) * 2, float("-inf")).triu(2)[None, None]
    with torch.inference_mode():
        exact, seeing = (
            model(tokens, attention_mask=mask).logits[0].log_softmax(-1) for mask in (None, ahead)
        )
    assert (exact - seeing).abs().amax(-1)[:-1].min() > 3 * ROUNDING
