"""How fast the models of an experiment read prompts here, for the predictions of `make plan`.

The downloaded or quantized model is measured where it is there, else a random one of its shapes, so
that a prediction is good before anything is downloaded. Writes resources/speeds.json.

    python -m benchmarks.model_speed --config config/experiments/llama.yaml
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.random_models import config_of, random_exl2, random_model
from frankenlab.config import experiment as config
from frankenlab.config.experiment import Experiment, ModelSettings
from frankenlab.engines.batches import MAKERS, Batch
from frankenlab.engines.devices import hardware_name, usable_device
from frankenlab.engines.exllamav2 import Exllamav2Engine
from frankenlab.engines.protocol import Engine
from frankenlab.engines.token_tree import TokenRequest, TokenTree, token_tree
from frankenlab.engines.torch import TorchEngine
from frankenlab.estimate.memory import sizes_of
from frankenlab.estimate.throughput import (
    Measured,
    shapes_of,
    speeds_file,
    weights_kind,
    write_speeds,
)
from frankenlab.estimate.work import STAGES
from frankenlab.io.errors import UserError
from frankenlab.models.shape import ModelShape
from frankenlab.plans.steps import Step

# A document of the assumed kind: a context with four answers.
CONTEXT_TOKENS, ANSWERS, ANSWER_TOKENS = 48, 4, 4

# A random model has as many layers as fit here in 16 bits, and two at least: enough to be no
# cache's, little enough for any card.
LAYER_BYTES = 2e9

# A batch is run until this long, and so often at least.
LEAST_SECONDS, LEAST_RUNS = 2.0, 3


def measure_speeds(experiment: Experiment) -> Iterator[tuple[Measured | None, str]]:
    """Measure every model at each engine and precision that the experiment uses it with.

    A random model has a few of the real one's layers.

    Yields:
        What was measured and a line that says it; None for a model whose shapes are not known.

    Raises:
        UserError: the experiment's device is not here.
    """
    usable_device(experiment.settings.device)
    for model in experiment.models.values():
        sizes = sizes_of(model)
        if sizes is None:
            yield None, f"{model.name}: not there yet, and no models.{model.name}.shapes"
            continue
        for quantization, precision in _ways(experiment, model):
            found = _measure(experiment, model, quantization, precision, sizes)
            kind = "" if found.real else ", random weights"
            yield (
                found,
                f"{model.name} ({found.engine}, {precision}{kind}): {found.tokens:,.0f} tokens/s, "
                f"{found.scored:,.0f} scored positions/s on {found.device_name}",
            )


def _ways(experiment: Experiment, model: ModelSettings) -> list[tuple[str, str]]:
    """(quantization, precision): the first quantization of each engine and precision."""
    found: dict[tuple[str, str], str] = {}
    for quantization in model.quantizations:
        for stage in STAGES:
            engine = experiment.engine(model.name, quantization)
            precision = experiment.precision(stage, model.name, quantization)
            found.setdefault((engine, precision), quantization)
    return [(quantization, precision) for (_, precision), quantization in found.items()]


def _measure(
    experiment: Experiment,
    model: ModelSettings,
    quantization: str,
    precision: str,
    sizes: ModelShape,
) -> Measured:
    name, device = experiment.engine(model.name, quantization), experiment.settings.device
    budget = experiment.settings.token_budget
    folder = experiment.weights_folder(model.name, quantization)
    real = (folder / "manifest.json").is_file()
    with tempfile.TemporaryDirectory() as scratch:
        if not real:
            folder = _random_directory(Path(scratch) / "model", sizes, name, device)
        gpus = max(experiment.gpus(model.name, quantization), 1) if real else 1
        if name == "exllamav2":
            engine: Engine = Exllamav2Engine(folder, device, budget, gpus=gpus)
        else:
            engine = TorchEngine(folder, precision, device, gpus=gpus)
        tokens, scored = time_engine(engine, sizes.n_layers, budget)
    return Measured(
        model=model.name,
        shapes=shapes_of(sizes),
        engine=name,
        weights=weights_kind(name),
        precision=precision,
        device=device,
        device_name=device_name(engine.device),
        tokens=tokens,
        scored=scored,
        real=real,
    )


def _random_directory(target: Path, sizes: ModelShape, engine: str, device: str) -> Path:
    layers = min(sizes.n_layers, max(2, int(LAYER_BYTES / (2 * sizes.layer_weights))))
    config = config_of(sizes, layers)
    if engine == "exllamav2":
        return random_exl2(target, config, device)
    return random_model(target, config)


def time_engine(engine: Engine, n_layers: int, token_budget: int) -> tuple[float, float]:
    """(tokens a second through `n_layers` layers, scored positions a second through the head) on
    batches of documents as they are evaluated; the engine may have fewer layers."""
    batch, tokens = _batch(engine, token_budget)
    with torch.inference_mode():
        placed = engine.place(batch)
        first = engine.embed(placed)

        def layers() -> None:
            hidden = first
            for layer in range(engine.n_layers):
                hidden = engine.run(Step(layer), hidden, placed)

        last = engine.finish(Step(0), first, placed)
        through_layers = _seconds(engine.device, layers) / engine.n_layers
        through_head = _seconds(engine.device, lambda: engine.score(last, placed))
    return tokens / (through_layers * n_layers), len(batch.positions_scored) / through_head


def _batch(engine: Engine, token_budget: int) -> tuple[Batch, int]:
    """A batch of random documents, and the tokens of their trees."""
    generator = torch.Generator().manual_seed(0)
    trees: list[TokenTree] = []
    while not trees or sum(map(len, trees)) + len(trees[-1]) <= token_budget:
        trees.append(_document(engine.vocabulary, generator))
    return MAKERS[engine.layout](trees, range(len(trees))), sum(map(len, trees))


def _document(vocabulary: int, generator: torch.Generator) -> TokenTree:
    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (count,), generator=generator).tolist())

    context = draw(CONTEXT_TOKENS)
    return token_tree(TokenRequest(context, draw(ANSWER_TOKENS)) for _ in range(ANSWERS))


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Median time of a run; the first warms up."""
    times: list[float] = []
    while len(times) <= LEAST_RUNS or sum(times) < LEAST_SECONDS:
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """Return the hardware's name, of a CPU with the threads that torch uses."""
    name = hardware_name(device)
    return name if device.type == "cuda" else f"{name}, {torch.get_num_threads()} threads"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, nargs="+", default=[config.default_file()])
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the config's")
    options = parser.parse_args(arguments)
    try:
        experiment = config.load(*options.config)
        if options.device:
            experiment = config.check({**experiment.settings.plain(), "device": options.device})
        for measured, line in measure_speeds(experiment):
            print(line, flush=True)
            if measured:
                write_speeds([measured])
    except UserError as error:
        print(f"model_speed: {error}", file=sys.stderr)
        return 2
    print(f"written to {speeds_file()}: make plan, dry runs and what jobs ask for go by it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
