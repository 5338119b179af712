"""Where the time of an engine goes: clocks around its methods, and torch's profiler inside."""

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent

from benchmarks.speed.peak import Peaks
from frankenlab.engines.batches import Batch

# Method of an engine -> the part of the sweep that it is.
METHODS = {
    "place": "placing",
    "embed": "placing",
    "run": "layers",
    "finish": "layers",
    "score": "head",
}
LAYERS = ("run", "finish")

# Where torch multiplies matrices (compiled code calls the last ones).
PRODUCTS = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::mkldnn_linear",
    "mkldnn::_linear_pointwise",
    "mkl::_mkl_linear",
)
ATTENTION = ("aten::scaled_dot_product", "aten::_scaled_dot_product", "aten::flex_attention")

SPLIT = (
    "layers: matrix products",
    "layers: attention",
    "layers: the rest",
    "head: matrix product",
    "head: the rest",
    "placing batches",
    "everything else",
)


class Spies:
    """While entered, the engine's methods count their seconds and what they are given; `peaks`, if
    any, are sampled between layers."""

    def __init__(self, engine: Any, peaks: Peaks | None = None) -> None:
        self.engine, self.peaks = engine, peaks
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()

    def __enter__(self) -> "Spies":
        for name in METHODS:
            setattr(self.engine, name, self._clocked(name, getattr(self.engine, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for name in METHODS:
            delattr(self.engine, name)

    def found(self) -> dict[str, Any]:
        """Seconds of each part; batches with their tokens, padding counted and not; tokens
        `through` a layer, and `entering` a plan's last, of which the `finished` are scored."""
        return {
            "part_seconds": dict(self.seconds),
            "layer_calls": sum(self.calls[name] for name in LAYERS),
            "batches": self.calls["place"],
            **self.tokens,
        }

    def _clocked(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if name in LAYERS and self.peaks is not None:
                self.peaks.between(len(given[1]))
            begun = time.perf_counter()
            result = method(*given, **named)
            self.seconds[METHODS[name]] += time.perf_counter() - begun
            self.calls[name] += 1
            if name == "place":
                # Not the batch itself: it would stay in memory.
                batch: Batch = given[0]
                self.tokens["tokens"] += batch.n_tokens
                self.tokens["positions_scored"] += len(batch.positions_scored)
            if name == "embed":
                self.tokens["tokens_padded"] += len(result)
            if name == "run":
                self.tokens["through"] += len(result)
            if name == "finish":
                self.tokens["entering"] += len(given[1])
                self.tokens["finished"] += len(result)
            return result

        return call


def profile(engine: Any, work: Callable[[], None]) -> dict[str, Any]:
    """Seconds of `SPLIT`, which add up to those of the profiled run, and the products' FLOPs."""
    marked = {name: _marked(name, getattr(engine, name)) for name in METHODS}
    for name, method in marked.items():
        setattr(engine, name, method)
    activities = [torch.profiler.ProfilerActivity.CPU]
    try:
        with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
            begun = time.perf_counter()
            work()
            wall = time.perf_counter() - begun
    finally:
        for name in METHODS:
            delattr(engine, name)
    seconds: Counter[str] = Counter(dict.fromkeys(SPLIT, 0.0))
    flops = {"layers": 0, "head": 0}
    for event in profiler.events():
        part = _part(event)
        if part is None:
            continue
        kind = _kind(event)
        seconds[_category(part, kind)] += event.self_cpu_time_total * 1e-6
        if kind == "product" and part in flops:
            flops[part] += _flops(event.input_shapes)
    seconds["everything else"] = wall - sum(seconds.values())
    return {"profiled_seconds": wall, "split": dict(seconds), "flops": flops}


def _marked(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        with torch.profiler.record_function(f"part: {METHODS[name]}"):
            return method(*given, **named)

    return call


def _part(event: FunctionEvent) -> str | None:
    """The marked method that an event is in."""
    while event is not None:
        if event.name.startswith("part: "):
            return event.name.removeprefix("part: ")
        event = event.cpu_parent
    return None


def _kind(event: FunctionEvent) -> str | None:
    """ "attention" (also the products in it), "product", or neither."""
    own, current = event.name, event
    while current is not None:
        if current.name.startswith(ATTENTION):
            return "attention"
        current = current.cpu_parent
    return "product" if own in PRODUCTS else None


def _category(part: str, kind: str | None) -> str:
    if part == "placing":
        return "placing batches"
    if part == "head":
        return "head: matrix product" if kind == "product" else "head: the rest"
    names = {"product": "layers: matrix products", "attention": "layers: attention"}
    return names.get(kind or "", "layers: the rest")


def _flops(shapes: list[list[int]]) -> int:
    """Of a product of the last two matrices among an operator's inputs."""
    matrices = [shape for shape in shapes if len(shape) >= 2]
    a, b = matrices[-2:]
    outer = b[-1] if a[-1] == b[-2] else b[-2]
    return 2 * math.prod(a) * outer
