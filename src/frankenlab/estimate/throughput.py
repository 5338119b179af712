"""How fast a model reads prompts: as given, measured, or worked out from a matrix product."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, PositiveFloat, PositiveInt

from frankenlab.config.experiment import RESOURCES, Experiment, ModelSettings
from frankenlab.estimate.capacity import sizes_of
from frankenlab.io.errors import UserError
from frankenlab.io.files import write_json
from frankenlab.io.records import read_record
from frankenlab.models.memory import Sizes

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
    """Of the base: tokens a second through its layers, scored positions a second through its head
    (infinite where the head is not told apart), and where these numbers are from."""

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
        device: "cpu" or "cuda"; device_name: as torch or the system tells it.
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
    def key(self) -> tuple:
        """What a later measurement replaces."""
        return (
            *(self.shapes, self.engine, self.weights),
            *(self.precision, self.device, self.device_name),
        )


def speeds_file() -> Path:
    """Where measured speeds are kept, for all experiments."""
    return RESOURCES / "speeds.json"


def read_speeds() -> list[Measured]:
    """The measured speeds; none where nothing was measured.

    Raises:
        UserError: the file is not what `write_speeds` wrote.
    """
    path = speeds_file()
    if not path.is_file():
        return []
    rows = read_record(path, list[Measured])
    return [Measured(**row | {"shapes": tuple(row["shapes"])}) for row in rows]


def write_speeds(measured: Iterable[Measured]) -> None:
    """Adds to resources/speeds.json; a measurement of the same thing replaces the older."""
    kept = {row.key: row for row in [*read_speeds(), *measured]}
    write_json(speeds_file(), [asdict(row) for row in kept.values()])


def given_speeds(text: str, experiment: Experiment) -> dict[str, float]:
    """Reads "4000" (of the first model of the config) or "llama-7b=4000,llama-13b=2200".

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
                f'tokens per second "{text}": a number above 0, or model=number,model=number'
            )
        if (name or first) not in experiment.models:
            raise UserError(
                f'tokens per second: "{name}" is no model of the config; it has '
                f"{', '.join(experiment.models)}"
            )
        found[name or first] = speed
    return found


def speed_of(
    experiment: Experiment,
    model: ModelSettings,
    quantization: str,
    stage: str,
    given: Mapping[str, float] | None = None,
    measuring: bool = True,
) -> Speed | None:
    """The speed of a model's base at a quantization in a stage's precision; None if unknown.

    What is `given` counts most, then a measurement (`frankenlab speed`), then the config's
    `planning.gpu_tflops` for a GPU, then, if `measuring`, a matrix product on this machine. What is
    known of another model is scaled by the weights of the layers.
    """
    if given:
        return _given(experiment, model, given)
    sizes = sizes_of(model)
    if sizes is None:
        return None
    engine = experiment.engine(model.name, quantization)
    precision, device = experiment.precision(stage, model.name, quantization), _device(experiment)
    found = [
        row
        for row in read_speeds()
        if (row.engine, row.precision, row.device) == (engine, precision, device)
        and row.weights == weights_kind(engine)
    ]
    if found:
        return _measured(found, sizes)
    flops, source = _flops(experiment, precision, measuring)
    return flops and from_matrix_product(sizes, flops, device, source)


def weights_kind(engine: str) -> str:
    """What an engine multiplies by: torch dequantizes EXL2 when it loads it."""
    return "exl2" if engine == "exllamav2" else "none"


def shapes_of(sizes: Sizes) -> tuple[int, int, int, int]:
    """What a speed depends on, in `Measured`."""
    return (sizes.n_layers, sizes.layer_weights, sizes.hidden, sizes.vocab)


def from_matrix_product(sizes: Sizes, flops: float, device: str, source: str) -> Speed:
    """From the operations a second of a matrix product."""
    layers = 2 * sizes.n_layers * sizes.layer_weights / (EFFICIENCY[device] * flops)
    logit = 2 * sizes.hidden / flops + (LOGIT_SECONDS if device == "cpu" else 0.0)
    return Speed(1 / layers, 1 / (sizes.vocab * logit), source)


def _device(experiment: Experiment) -> str:
    return experiment.raw["device"]


def _given(experiment: Experiment, model: ModelSettings, given: Mapping[str, float]) -> Speed:
    named = model.name if model.name in given else next(iter(given))
    own, other = sizes_of(model), sizes_of(experiment.models[named])
    ratio = 1.0
    if named != model.name and own is not None and other is not None:
        ratio = _layers(shapes_of(other)) / _layers(shapes_of(own))
    return Speed(given[named] * ratio, math.inf, "given")


def _measured(rows: Sequence[Measured], sizes: Sizes) -> Speed:
    """Of the same shapes, else of the nearest in size; of several devices, on the slowest."""
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


def _flops(experiment: Experiment, precision: str, measuring: bool) -> tuple[float | None, str]:
    """Operations a second of a matrix product where the experiment runs."""
    tflops = experiment.raw["planning"].get("gpu_tflops")
    device = _device(experiment)
    if device == "cuda" and tflops is not None:
        share = FLOAT32_SPEED if precision == "float32" else 1.0
        return tflops * 1e12 * share, f"{EFFICIENCY[device]:.0%} of {tflops:g} TFLOP/s assumed"
    if not measuring:
        return None, ""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return None, ""
    return matrix_speed(precision, device), "from a matrix product on this machine"


_matrix_speeds: dict[tuple[str, str], float] = {}


def matrix_speed(precision: str, device: str) -> float:
    """Floating-point operations per second of a matrix product on this machine, measured."""
    if (precision, device) not in _matrix_speeds:
        import torch

        rows, inner, outer = PRODUCT
        a = torch.randn(rows, inner, dtype=getattr(torch, precision), device=device)
        b = torch.randn(inner, outer, dtype=a.dtype, device=device)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            (a @ b).sum().item()
            times.append(time.perf_counter() - start)
        _matrix_speeds[precision, device] = 2 * rows * inner * outer / min(times)
    return _matrix_speeds[precision, device]
