"""How fast a model reads prompts (as given, measured, or by a matrix product) and is quantized."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, PositiveFloat, PositiveInt

from frankenlab.config.experiment import RESOURCES, Experiment, ModelSettings
from frankenlab.config.stages import Stage
from frankenlab.estimate.memory import sizes_of
from frankenlab.io.errors import UserError
from frankenlab.io.files import write_json
from frankenlab.io.records import read_record
from frankenlab.models.shape import ModelShape

# Share of the matrix product's speed that the layers reach, of the plans of a grid one after the
# other: measured on a CPU, assumed on a GPU. What a logit costs on a CPU beyond its product
# (log-sum-exp, arg max), in seconds: measured.
EFFICIENCY = {"cpu": 0.6, "cuda": 0.35}
LOGIT_SECONDS = 1.2e-9

# float32 products, to 16-bit ones on tensor cores: a half on some GPUs, an eighth on others.
FLOAT32_SPEED = 0.25

# Operations a second of a matrix product where nothing is known: half of the slowest GPU with
# tensor cores for data centres (T4: 65e12 promised), an old server's eight cores.
FALLBACK_FLOPS = {"cuda": 3e13, "cpu": 1e11}

# The matrix product that is measured where nothing else is: [rows, inner] times [inner, outer].
PRODUCT = (2048, 1024, 1024)


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


def given_speeds(text: str, experiment: Experiment) -> dict[str, float]:
    """Read "4000" (of the first model of the config) or "llama-7b=4000,llama-13b=2200".

    Raises:
        UserError: neither, or a model that the config does not have.
    """
    first = next(iter(experiment.models))
    found = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            speed = float(number)
        except ValueError:
            speed = math.nan
        if not 0 < speed < math.inf:
            raise UserError(
                f'tokens per second "{text}": a number above 0 is expected, or model=number,...'
            )
        if (name or first) not in experiment.models:
            raise UserError(
                f'tokens per second: "{name}" is no model of the config; it has '
                f"{', '.join(experiment.models)}"
            )
        found[name or first] = speed
    return found


class Speeds:
    """How fast the models of an experiment read prompts.

    What is given counts most, then a measurement (`make speed`), then the config's
    `planning.gpu_tflops` for a GPU, then, if `measuring`, a matrix product on this machine, else an
    assumption. What is known of another model is scaled by the weights of the layers.

    Args:
        given: tokens a second by model.
        measuring: whether a matrix product may be measured where no speed is known.
    """

    def __init__(
        self,
        experiment: Experiment,
        given: Mapping[str, float] | None = None,
        measuring: bool = False,
    ) -> None:
        self.experiment, self.given, self.measuring = experiment, given, measuring

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
        return from_matrix_product(sizes, flops, device, source) if flops else None

    @cached_property
    def _measured(self) -> list[Measured]:
        return read_speeds()

    def _given(self, name: str, own: ModelShape | None, given: Mapping[str, float]) -> Speed:
        named = name if name in given else next(iter(given))
        other, ratio = sizes_of(self.experiment.models[named]), 1.0
        if own is not None and other is not None:
            ratio = _layers(shapes_of(other)) / _layers(shapes_of(own))
        return Speed(given[named] * ratio, math.inf, "given")

    def _flops(self, precision: str, device: str) -> tuple[float | None, str]:
        """Return the operations a second of a matrix product where the experiment runs, and where
        this number is from."""
        tflops = self.experiment.settings.planning.gpu_tflops
        if device == "cuda" and tflops is not None:
            share = FLOAT32_SPEED if precision == "float32" else 1.0
            return tflops * 1e12 * share, f"{EFFICIENCY[device]:.0%} of {tflops:g} TFLOP/s assumed"
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


def from_matrix_product(sizes: ModelShape, flops: float, device: str, source: str) -> Speed:
    """Return the speed that follows from the operations a second of a matrix product."""
    layers = 2 * sizes.n_layers * sizes.layer_weights / (EFFICIENCY[device] * flops)
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
    """Return the floating-point operations per second of a matrix product here, measured once."""
    import torch

    rows, inner, outer = PRODUCT
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


# Of 10^9 weights. reference: 84 s to measure and 78 s to make 106 million weights on two CPU cores.
# exllamav2: measuring took 9.3 s for each half of a layer of Phi-3-mini (3.6e9 weights; its issue
# 537, GPU not named); one bitrate is assumed to take a third of that.
RATES = {"reference": QuantizingSeconds(790.0, 735.0), "exllamav2": QuantizingSeconds(165.0, 55.0)}


def quantizing_seconds(experiment: Experiment, model: ModelSettings) -> QuantizingSeconds | None:
    """Return how long a model takes to be quantized; None where its sizes are not known."""
    sizes = sizes_of(model)
    if sizes is None:
        return None
    rate, weights = RATES[experiment.quantizer], sizes.n_layers * sizes.layer_weights / 1e9
    return QuantizingSeconds(rate.measure * weights, rate.quantize * weights)


def numbers_of_gpus(text: str, where: str) -> Sequence[int]:
    """Return the numbers of GPUs that a text lists, as in "1,4,16"; none of an empty text.

    Raises:
        UserError: it lists something else; names it and `where` it stands.
    """
    parts = text.split(",") if text else []
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise UserError(
            f'{where} "{text}": a whole number from 1 on is expected, or several, as in 1,4,16'
        )
    return [int(part) for part in parts]
