"""Tiny models as the gates need them, and how their outputs are compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from frankenlab.engines.token_tree import TokenRequest
from frankenlab.plans.plan import Plan, parse

# What the gates are about: every way in which LLaMA-shaped models differ.
VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {"tied": True},
    "untied": {},
    "one-key-head": {"kv_heads": 1},
    "all-key-heads": {"kv_heads": 4},
    "qwen2": {"architecture": "qwen2", "tied": True},
    "mistral": {"architecture": "mistral"},
    "llama3-rope": {"rope": "llama3"},
    "all-biases": {"biases": True},
}

# Frankens of a model of 4 layers: a repeated block, a looped layer, parts, skipped and swapped
# layers.
PLANS = ("base", "0:3,1:4", "0:1,1x3,2:4", "0:3,1:3@attn,3", "0:2@mlp,0:4", "3,0:2")

# Windows that are damped as a whole: looped, of the whole model, of parts and negative.
DAMPED = ("0,(1:3)x3*0.5,3", "(0:4)x2*0.5", "0,(0@mlp,1:3@attn)*-0.5,1:4")

# Half a layer, a negative one, parts of a block at scales of their own, beside the others.
SCALED = ("0:3*0.5,1:4", "0:4,2*-1", "0:2,1@attn*0.25,1@mlp*2,2:4", *DAMPED)

# Plans with scales that the gates of exports and of decoding add to these.
SCALED_EXPORTS = ("0:2,1@attn*0.25,1@mlp*2,2:4", "0:4,2:4@attn*-0.5")
SCALED_DECODED = ("0:2,1*0.5,1@attn*2,2:4", "1@mlp,2@mlp", *DAMPED)

# Nats that two float32 computations of one log-probability of a tiny model may differ by. No
# processor's order of sums comes near, and every fault moves outputs further: see test_rounding.py.
ROUNDING = 1e-4


def load_hf(directory: Path) -> torch.nn.Module:
    """The model as transformers runs it, in float32."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


class DampedWindow(torch.nn.Module):
    """A pass of a window of transformers' layers: h + beta * (g(h) - h)."""

    def __init__(self, layers: torch.nn.ModuleList, beta: float) -> None:
        super().__init__()
        self.layers, self.beta = layers, beta

    def forward(self, hidden: torch.Tensor, **rest: Any) -> torch.Tensor:
        after = hidden
        for layer in self.layers:
            after = layer(after, **rest)
        return hidden + self.beta * (after - hidden)


def with_window(
    model: torch.nn.Module, start: int, stop: int, times: int, beta: float
) -> torch.nn.Module:
    """Return transformers' model with a window of its layers looped and damped in place."""
    layers = model.model.layers
    passes = [DampedWindow(layers[start:stop], beta)] * times
    model.model.layers = torch.nn.ModuleList([*layers[:start], *passes, *layers[stop:]])
    model.config.num_hidden_layers = len(model.model.layers)
    model.config.use_cache = False
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:1] * len(model.model.layers)
    return model


def parse_all(texts: Sequence[str], n_layers: int = 4) -> list[Plan]:
    return [parse(text, n_layers) for text in texts]


def assert_close(
    found: torch.Tensor, expected: torch.Tensor, largest: float = ROUNDING, about: str = ""
) -> None:
    """Log-probabilities or logits of the same shape differ by rounding alone."""
    assert found.shape == expected.shape
    difference = (found - expected).abs().max().item()
    assert difference < largest, about  # NaN is not


@torch.inference_mode()
def score_alone(model: torch.nn.Module, request: TokenRequest) -> tuple[float, bool]:
    """Log-likelihood of one request, by itself and unpadded, and whether it is greedy."""
    tokens = torch.tensor([request.context + request.continuation])
    logits = model(tokens[:, :-1]).logits[0, len(request.context) - 1 :]
    targets = tokens[0, len(request.context) :]
    logprobs = logits.double().log_softmax(-1)
    chosen = logprobs.gather(1, targets[:, None]).sum()
    return chosen.item(), bool((logits.argmax(-1) == targets).all())
