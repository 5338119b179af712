"""What the machine's matrix product reaches, at the sweep's own shapes."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from frankenlab.memory import Sizes

REPEATS = 15
LARGE = (4096, 576, 1536)


def product_seconds(tokens: int, inner: int, outer: int, dtype: torch.dtype) -> float:
    """The fastest of some products [tokens, inner] x [inner, outer]."""
    x = torch.randn(tokens, inner).to(dtype)
    weight = torch.randn(outer, inner).to(dtype)
    times = []
    with torch.inference_mode():
        for _ in range(REPEATS):
            begun = time.perf_counter()
            F.linear(x, weight)
            times.append(time.perf_counter() - begun)
    return min(times)


def layer_shapes(model: Path) -> dict[str, tuple[int, int]]:
    """[out, in] of the products of one layer, queries with keys and values and gate with up in one;
    and the head's."""
    config = json.loads((model / "config.json").read_text())
    sizes = Sizes.from_config(config)
    d, queries = sizes.hidden, sizes.layer[0][0]
    return {
        "qkv": (queries + 2 * sizes.keys, d),
        "out": (d, queries),
        "gate_up": (2 * sizes.inner, d),
        "down": (d, sizes.inner),
        "head": (sizes.vocab, d),
    }


def peaks(model: Path, dtype: torch.dtype, tokens: int) -> dict[str, float]:
    """FLOP/s: of a layer's four products with a batch's tokens, of a head of 512 positions, of one
    large product."""
    shapes = layer_shapes(model)
    rows = dict.fromkeys(shapes, tokens) | {"head": 512}
    seconds = {n: product_seconds(rows[n], i, o, dtype) for n, (o, i) in shapes.items()}
    work = {n: 2 * rows[n] * i * o for n, (o, i) in shapes.items()}
    layer = [n for n in shapes if n != "head"]
    tokens_, inner, outer = LARGE
    return {
        "tokens": tokens,
        "layer": sum(work[n] for n in layer) / sum(seconds[n] for n in layer),
        "head": work["head"] / seconds["head"],
        "large": 2 * tokens_ * inner * outer / product_seconds(*LARGE, dtype),
    }


def batch_tokens(counts: Mapping[str, Any]) -> int:
    """Mean tokens of a batch, padding included, of what `Spies` counted."""
    return round(counts["tokens_padded"] / counts["batches"])


def least_seconds(
    model: Path, peak: Mapping[str, float], passes: int, plans: int, counts: Mapping[str, Any]
) -> float:
    """What a sweep's matrix products would take at the peaks: nothing that needs them is faster.

    Args:
        peak: of `peaks`; passes: of layers, for all plans; counts: what `Spies` counted in the
            sweep.
    """
    shapes = layer_shapes(model)
    head = shapes.pop("head")
    weights = sum(inner * outer for outer, inner in shapes.values())
    layers = passes * counts["tokens_padded"] * weights
    scored = plans * counts["positions_scored"] * head[0] * head[1]
    return 2 * (layers / peak["layer"] + scored / peak["head"])
