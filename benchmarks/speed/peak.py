"""What the machine's matrix product reaches, at the sweep's own shapes and in the same seconds."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F

from frankenlab.estimate.throughput import PRODUCT
from frankenlab.models.shape import ModelShape

# Seconds of a sweep between two samples of the products; each is the fastest of some repeats.
PERIOD = 3.0
REPEATS = 3
HEAD_POSITIONS = 512

# Products of any model: rows, inner, outer.
OTHERS = {"large": (4096, 576, 1536), "planning": PRODUCT}


def layer_shapes(model: Path) -> dict[str, tuple[int, int]]:
    """[out, in] of the products of one layer, queries with keys and values and gate with up in one;
    and the head's."""
    config = json.loads((model / "config.json").read_text())
    sizes = ModelShape.from_config(config)
    d, queries = sizes.hidden_size, sizes.n_heads * sizes.head_dim
    return {
        "qkv": (queries + 2 * sizes.kv_size, d),
        "out": (d, queries),
        "gate_up": (2 * sizes.intermediate_size, d),
        "down": (d, sizes.intermediate_size),
        "head": (sizes.vocab_size, d),
    }


class Peaks:
    """Samples the products all along a sweep: a machine's speed may double within a minute, so a
    peak measured before or after it says little.

    Attributes:
        paused: seconds that sampling took, which are not the sweep's.
    """

    def __init__(self, model: Path, dtype: torch.dtype) -> None:
        self.dtype, self.paused, self._next = dtype, 0.0, 0.0
        self._seconds: Counter[str] = Counter()
        self._work: Counter[str] = Counter()
        self._rows = {"head": HEAD_POSITIONS} | {n: rows for n, (rows, _, _) in OTHERS.items()}
        shapes = layer_shapes(model) | {n: (out, inner) for n, (_, inner, out) in OTHERS.items()}
        self._weights = {n: _random(shape, dtype) for n, shape in shapes.items()}

    def between(self, tokens: int) -> None:
        """To be called between any two of the sweep's operations, with a batch's tokens."""
        begun = time.perf_counter()
        if begun < self._next:
            return
        for name, weight in self._weights.items():
            rows = self._rows.get(name, tokens)
            # Not kept: batches of many sizes would add up in the sweep's memory.
            x = _random((rows, weight.shape[1]), self.dtype)
            part = name if name in self._rows else "layer"
            self._seconds[part] += _product_seconds(x, weight)
            self._work[part] += 2 * rows * weight.numel()
        end = time.perf_counter()
        self.paused += end - begun
        self._next = end + PERIOD

    def found(self) -> dict[str, float]:
        """FLOP/s: of a layer's four products with a batch's tokens, of a head of 512 positions, of
        one large product, of the one that `make plan` measures."""
        return {part: self._work[part] / self._seconds[part] for part in self._work}


def _random(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape).to(dtype)


def _product_seconds(x: torch.Tensor, weight: torch.Tensor) -> float:
    """[rows, inner] times [outer, inner]: the fastest of some repeats."""
    times = []
    with torch.inference_mode():
        for _ in range(REPEATS):
            begun = time.perf_counter()
            F.linear(x, weight)
            times.append(time.perf_counter() - begun)
    return min(times)


def least_seconds(model: Path, peak: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """What a sweep's matrix products would take at the peaks: nothing that needs them is faster.

    Args:
        peak: of `Peaks`; counts: what `Spies` counted in the sweep.
    """
    weights = {name: inner * outer for name, (outer, inner) in layer_shapes(model).items()}
    head, qkv, layer = weights.pop("head"), weights["qkv"], sum(weights.values())
    # A plan's last layer: queries, keys and values of all tokens, the rest where one is scored.
    last = counts["entering"] * qkv + counts["finished"] * (layer - qkv)
    layers = counts["through"] * layer + last
    return 2 * (layers / peak["layer"] + counts["finished"] * head / peak["head"])
