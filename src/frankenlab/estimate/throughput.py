"""How fast a model reads prompts (as given, measured, or by a matrix product) and is quantized."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, PositiveFloat, PositiveInt

from frankenlab.config.cards import CARDS, Card
from frankenlab.config.experiment import RESOURCES, Experiment, ModelSettings
from frankenlab.config.settings import Planning
from frankenlab.config.stages import Stage
from frankenlab.estimate.kept_speed import kept_speed
from frankenlab.estimate.memory import sizes_of
from frankenlab.io.files import write_json
from frankenlab.io.records import read_record
from frankenlab.models.shape import ModelShape

# Share of the matrix product's speed that the layers reach in the sweep of a grid: measured, on a
# CPU and by torch on an H100 (benchmarks/gpu.md: 430 of 769 TFLOP/s). And the seconds that a logit
# takes on a CPU beyond its product (log-sum-exp, arg max): measured.
EFFICIENCY = {"cpu": 0.6, "cuda": 0.56}
LOGIT_SECONDS = 1.2e-9

# Share of a data sheet's peak that a large matrix product reaches: measured on an H100, 769 TFLOP/s
# of 989.
PRODUCT_SHARE = 0.777

# Layers by exllamav2 on EXL2 weights, to torch on 16-bit ones: 39,961 tokens a second of 46,853,
# measured on an H100 with the engine before it scored through torch's pass (`engines.exllamav2`).
EXLLAMAV2_SHARE = 0.85

# float32 products, to 16-bit ones on tensor cores, where the card is not known: a half on an
# RTX 4090, a fifteenth on an H100.
FLOAT32_SPEED = 0.25

# Operations a second of a matrix product where nothing is known: half of the slowest GPU with
# tensor cores for data centres (T4: 65e12 promised), an old server's eight cores.
FALLBACK_FLOPS = {"cuda": 3e13, "cpu": 1e11}

# The matrix product that is measured where nothing else is: [rows, inner] times [inner, outer]. A
# GPU takes less time for a small one than for starting it.
PRODUCT = (2048, 1024, 1024)
CUDA_PRODUCT = (8192, 8192, 8192)


@dataclass(frozen=True)
class Speed:
    """The base's tokens a second through its layers, scored positions a second through its head
    (infinite where the head is not counted apart), and where these numbers are from."""

    tokens: float
    scored: float
    source: str


@dataclass(frozen=True)
class Measured:
    """A line of resources/speeds.json.

    Attributes:
        model: a name for the reader; `shapes` says what was measured.
        shapes: [layers, weights of a layer, hidden size, vocabulary].
        weights: "exl2" where the engine runs them as such, else "none".
        device: "cpu" or "cuda"; device_name: as torch or the system names it.
        tokens, scored: as in `Speed`.
        real: whether it was the model itself, or a random one of its shapes.
    """

    model: str
    shapes: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    engine: str
    weights: str
    precision: str
    device: str
    device_name: str
    tokens: PositiveFloat
    scored: PositiveFloat
    real: bool
    __pydantic_config__ = ConfigDict(extra="forbid")

    @property
    def key(self) -> tuple[Any, ...]:
        """What a later measurement replaces."""
        return (
            *(self.shapes, self.engine, self.weights),
            *(self.precision, self.device, self.device_name),
        )


def speeds_file() -> Path:
    """Return where measured speeds are kept, for all experiments."""
    return RESOURCES / "speeds.json"


def read_speeds() -> list[Measured]:
    """Return the measured speeds; none where nothing was measured.

    Raises:
        UserError: the file is not what `write_speeds` wrote.
    """
    path = speeds_file()
    if not path.is_file():
        return []
    rows = read_record(path, list[Measured])
    return [Measured(**row | {"shapes": tuple(row["shapes"])}) for row in rows]


def write_speeds(measured: Iterable[Measured]) -> None:
    """Add to resources/speeds.json; a measurement of the same thing replaces the older one."""
    kept = {row.key: row for row in [*read_speeds(), *measured]}
    write_json(speeds_file(), [asdict(row) for row in kept.values()])


class Speeds:
    """How fast the models of an experiment read prompts.

    What is given counts most, then a measurement (`make speed`), then for a GPU the config's
    `planning.gpu_tflops` or the first of its `planning.cards`, then, if `measuring`, a matrix
    product on this machine, else an assumption. What is known of another model is scaled by the
    weights of the layers.

    Args:
        given: tokens a second by model.
        measuring: whether a matrix product may be measured where no speed is known.
        card: the only source, by its data sheet, whatever is given or measured.
    """

    def __init__(
        self,
        experiment: Experiment,
        given: Mapping[str, float] | None = None,
        measuring: bool = False,
        card: Card | None = None,
    ) -> None:
        self.experiment, self.given, self.measuring = experiment, given, measuring
        self.card = card

    def of(self, name: str, quantization: str, stage: Stage) -> Speed | None:
        """Return the speed of a model's base in a stage; None where it cannot be known."""
        experiment, model = self.experiment, self.experiment.models[name]
        sizes = sizes_of(model)
        if self.given:
            return self._given(name, sizes, self.given)
        if sizes is None:
            return None
        engine, device = experiment.engine(name, quantization), experiment.settings.device
        precision = experiment.precision(stage, name, quantization)
        wanted = (engine, weights_kind(engine), precision, device)
        found = [
            row
            for row in self._measured
            if (row.engine, row.weights, row.precision, row.device) == wanted
        ]
        if found:
            return _measured(found, sizes)
        flops, source = self._flops(precision, device)
        return from_matrix_product(sizes, flops, device, source, engine) if flops else None

    @cached_property
    def _measured(self) -> list[Measured]:
        return [] if self.card else read_speeds()

    def _given(self, name: str, own: ModelShape | None, given: Mapping[str, float]) -> Speed:
        named = name if name in given else next(iter(given))
        other, ratio = sizes_of(self.experiment.models[named]), 1.0
        if own is not None and other is not None:
            ratio = _layers(shapes_of(other)) / _layers(shapes_of(own))
        return Speed(given[named] * ratio, math.inf, "given")

    def _flops(self, precision: str, device: str) -> tuple[float | None, str]:
        """Return the operations a second of a matrix product where the experiment runs, and where
        this number is from."""
        planning = self.experiment.settings.planning
        if device == "cuda" and (card := self.card or promised_card(planning)):
            peak = card.float32_tflops if precision == "float32" else card.tflops
            share = EFFICIENCY[device] * PRODUCT_SHARE
            source = f"{share:.0%} of {peak:.4g} TFLOP/s"
            return peak * 1e12 * PRODUCT_SHARE, f"{source} ({card.name}) promised"
        if not self.measuring:
            return FALLBACK_FLOPS[device], "assumed"
        if device == "cuda":
            import torch

            if not torch.cuda.is_available():
                return None, ""
        return matrix_speed(precision, device), "from a matrix product on this machine"


def weights_kind(engine: str) -> str:
    """Return what an engine multiplies by: torch dequantizes EXL2 when it loads it."""
    return "exl2" if engine == "exllamav2" else "none"


def shapes_of(sizes: ModelShape) -> tuple[int, int, int, int]:
    """Return what a speed depends on, as in `Measured`."""
    return (sizes.n_layers, sizes.layer_weights, sizes.hidden_size, sizes.vocab_size)


def promised_card(planning: Planning) -> Card | None:
    """Return the card that a config's predictions go by, if it names one or its speed."""
    if (tflops := planning.gpu_tflops) is not None:
        return Card("gpu_tflops", tflops, FLOAT32_SPEED * tflops, math.inf)
    return CARDS[planning.cards[0]] if planning.cards else None


def product_flops(sizes: ModelShape, layer_passes: float, scored: float) -> float:
    """Return the floating-point operations of so many passes of a token through a layer, and of
    positions through the head: of their matrix products, attention left out."""
    return 2 * (layer_passes * sizes.layer_weights + scored * sizes.head_weights)


def from_matrix_product(
    sizes: ModelShape, flops: float, device: str, source: str, engine: str = "torch"
) -> Speed:
    """Return the speed that follows from the operations a second of a matrix product."""
    share = EFFICIENCY[device] * (EXLLAMAV2_SHARE if engine == "exllamav2" else 1.0)
    layers = product_flops(sizes, sizes.n_layers, 0) / (share * flops)
    logit = 2 * sizes.hidden_size / flops + (LOGIT_SECONDS if device == "cpu" else 0.0)
    return Speed(1 / layers, 1 / (sizes.vocab_size * logit), source)


def _measured(rows: Sequence[Measured], sizes: ModelShape) -> Speed:
    """Return the speed at the same shapes, else at the nearest in size; of several devices, on the
    slowest."""
    own = shapes_of(sizes)
    near = min(rows, key=lambda row: abs(math.log(_layers(row.shapes) / _layers(own)))).shapes
    same = own if any(row.shapes == own for row in rows) else near
    slowest = min((row for row in rows if row.shapes == same), key=lambda row: row.tokens)
    head = math.prod(slowest.shapes[2:]) / math.prod(own[2:])
    return Speed(
        slowest.tokens * _layers(slowest.shapes) / _layers(own),
        slowest.scored * head,
        f"measured on {slowest.device_name}"
        + ("" if same == own else f", scaled from {slowest.model}"),
    )


def _layers(shapes: Sequence[int]) -> int:
    return shapes[0] * shapes[1]


@cache
def matrix_speed(precision: str, device: str) -> float:
    """Return the floating-point operations per second of a matrix product here; a processor's are
    measured once a day."""
    measure = partial(_measured_speed, precision, device)
    return kept_speed(precision, measure) if device == "cpu" else measure()


def _measured_speed(precision: str, device: str) -> float:
    import torch

    rows, inner, outer = PRODUCT if device == "cpu" else CUDA_PRODUCT
    a = torch.randn(rows, inner, dtype=getattr(torch, precision), device=device)
    b = torch.randn(inner, outer, dtype=a.dtype, device=device)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        (a @ b).sum().item()
        times.append(time.perf_counter() - start)
    return 2 * rows * inner * outer / min(times)


@dataclass(frozen=True)
class QuantizingSeconds:
    """Seconds to measure a model, once, and to make it at one bitrate."""

    measure: float
    quantize: float

    def times(self, count: float) -> "QuantizingSeconds":
        return QuantizingSeconds(self.measure * count, self.quantize * count)

    def plus(self, other: "QuantizingSeconds") -> "QuantizingSeconds":
        return QuantizingSeconds(self.measure + other.measure, self.quantize + other.quantize)


# Seconds for each layer, and for each 10^9 weights besides. The reference quantizer took 84 s to
# measure and 78 s to make 106 million weights on two CPU cores. On an H100, exllamav2 took 74 to
# 88 s to measure SmolLM2-135M (30 layers, 0.106e9 weights) and 84 to 95 s at a bitrate; on a GPU
# that its issue 537 does not name, it took 9.3 s to measure each half of a layer of Phi-3-mini (32
# layers, 3.6e9 weights). A bitrate is assumed to take a third of that for its weights.
RATES = {
    "reference": (QuantizingSeconds(0.0, 0.0), QuantizingSeconds(790.0, 735.0)),
    "exllamav2": (QuantizingSeconds(2.2, 2.8), QuantizingSeconds(146.0, 49.0)),
}


def quantizing_seconds(experiment: Experiment, model: ModelSettings) -> QuantizingSeconds | None:
    """Return how long a model takes to be quantized; None where its sizes are not known."""
    sizes = sizes_of(model)
    if sizes is None:
        return None
    layer, billion = RATES[experiment.quantizer]
    weights = sizes.n_layers * sizes.layer_weights / 1e9
    return layer.times(sizes.n_layers).plus(billion.times(weights))
