"""What the models of an experiment take at each quantization: memory, disk, time to quantize."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from frankenlab.config.experiment import RESOURCES, Experiment, ModelSettings
from frankenlab.io.errors import UserError
from frankenlab.models.files import read_json
from frankenlab.models.memory import (
    GB,
    Load,
    Memory,
    disk_bytes,
    live_states,
    memory,
    pass_tokens,
)
from frankenlab.models.quantization import NONE
from frankenlab.models.shape import ModelShape
from frankenlab.plans.generators import Generator
from frankenlab.plans.grid import expand
from frankenlab.plans.trie import plan_trie

# Tokens of a batch with its padding, to those that count against the budget.
PADDING = 1.25

# Tokens that a timed run reads and decodes (`efficiency`), and some room.
TIMED_TOKENS = 512

# Tokens of the longest text that is scored whole, assumed: a long article of wikitext.
LONGEST_TEXT = 16384

# Tokens of one few-shot example, assumed: a question of MMLU with its choices.
SHOT_TOKENS = 200

# Metrics of tasks that score whole texts, in windows as long as the model's context.
TEXT_METRICS = ("word_perplexity", "byte_perplexity", "bits_per_byte")


@dataclass(frozen=True)
class QuantizerRate:
    """Seconds for 10^9 weights: to measure a model, once, and to make it at one bitrate."""

    measure: float
    quantize: float


# reference: 84 s to measure and 78 s to make 106 million weights on two CPU cores.
# exllamav2: measuring took 9.3 s for each half of a layer of Phi-3-mini (3.6e9 weights; its issue
# 537, GPU not named); one bitrate is assumed to take a third of that.
RATES = {"reference": QuantizerRate(790.0, 735.0), "exllamav2": QuantizerRate(165.0, 55.0)}


@dataclass(frozen=True)
class Cell:
    """A model at a quantization.

    Attributes:
        disk: bytes of its weights.
        memory: the most that any job needs.
        fits: None where no memory is named.
    """

    model: str
    quantization: str
    engine: str
    evaluated: bool
    disk: int
    memory: Memory
    fits: bool | None


def sizes_of(model: ModelSettings) -> ModelShape | None:
    """From its config.json once it is there, else from the config's `shapes`."""
    path = RESOURCES / "models" / model.folder / "config.json"
    return ModelShape.from_config(read_json(path)) if path.is_file() else model.sizes


def cells(experiment: Experiment, model: ModelSettings) -> list[Cell]:
    """The model at its own quantizations, then at the experiment's others and as distributed.

    Empty where the model's shapes are not known yet.
    """
    sizes = sizes_of(model)
    if sizes is None:
        return []
    others = [*experiment.quantizations, NONE.text] if model.stored == NONE else []
    loads = _loads(experiment, model, sizes)
    names = dict.fromkeys([*model.quantizations, *others])
    return [_cell(experiment, model, name, sizes, loads) for name in names]


def check_fits(experiment: Experiment, model: str, quantization: str) -> None:
    """To be called before a model is loaded.

    Raises:
        UserError: it needs more than the GPU has; says which quantizations fit.
    """
    rows = cells(experiment, experiment.models[model])
    cell = next((row for row in rows if row.quantization == quantization), None)
    if cell is not None and cell.fits is False:
        raise UserError(_too_large(experiment, cell, rows))


def too_large(experiment: Experiment) -> list[str]:
    """A line for each (model, quantization) that the config evaluates and the GPU cannot hold."""
    return [
        _too_large(experiment, cell, rows)
        for rows in (cells(experiment, model) for model in experiment.models.values())
        for cell in rows
        if cell.evaluated and cell.fits is False
    ]


def quantizing_seconds(experiment: Experiment, model: ModelSettings) -> tuple[float, float] | None:
    """(to measure the model, to make it at one bitrate); None where its shapes are not known."""
    sizes = sizes_of(model)
    if sizes is None:
        return None
    rate = RATES[experiment.quantizer]
    weights = sizes.n_layers * sizes.layer_weights / 1e9
    return rate.measure * weights, rate.quantize * weights


def _cell(
    experiment: Experiment,
    model: ModelSettings,
    quantization: str,
    sizes: ModelShape,
    loads: Sequence[tuple[str, Load]],
) -> Cell:
    weights = model.weights_at(quantization)
    head_bits = model.head_bits or experiment.raw["exl2"]["head_bits"]
    engine = experiment.engine(model.name, quantization)
    device, limit = experiment.raw["device"], experiment.raw.get("gpu_memory_gb")
    needs = [
        memory(
            sizes,
            weights,
            head_bits,
            engine,
            load,
            experiment.precision(stage, model.name, quantization),
            device,
        )
        for stage, load in loads
    ]
    most = max(needs, key=lambda need: need.total)
    return Cell(
        model=model.name,
        quantization=quantization,
        engine=engine,
        evaluated=quantization in model.quantizations,
        disk=disk_bytes(sizes, weights, head_bits),
        memory=most,
        fits=most.total <= limit * GB if limit is not None and device == "cuda" else None,
    )


def _loads(
    experiment: Experiment, model: ModelSettings, sizes: ModelShape
) -> list[tuple[str, Load]]:
    """The heaviest batch of each stage, and a timed run (in the search stage's precision)."""
    stages = experiment.raw["stages"]
    alive_in_search, occurrences = _walk(tuple(experiment.settings.plans), model.n_layers)
    # Every state that waits has a plan to come.
    states = {
        "search": alive_in_search,
        "select": stages["select"]["shortlist"] + 2,
        "confirm": stages["confirm"]["controls"] + 3,
    }
    budget = experiment.raw["token_budget"]
    passed = pass_tokens(budget, sizes.max_position_embeddings)
    loads = []
    for stage, alive in states.items():
        tasks = [t for t in experiment.tasks.values() if stage == "confirm" or t.role == "search"]
        texts = any(task.metric in TEXT_METRICS for task in tasks)
        tokens = max(int(PADDING * budget), LONGEST_TEXT if texts else 0)
        row = min(passed if texts else budget, sizes.max_position_embeddings)
        shots = max(task.num_fewshot or 0 for task in tasks)
        prefix = min(shots * SHOT_TOKENS, sizes.max_position_embeddings)
        loads.append((stage, Load(tokens, row, passed, alive, prefix=prefix)))
    timed = Load(TIMED_TOKENS, TIMED_TOKENS, passed, 2, occurrences * TIMED_TOKENS)
    return [*loads, ("search", timed)]


@cache
def _walk(generators: tuple[Generator, ...], n_layers: int) -> tuple[int, int]:
    """(hidden states alive at once in a sweep of all plans, most attending occurrences of one)."""
    plans = [item.plan for item in expand(generators, n_layers).plans]
    occurrences = max(sum(step.attends for step in plan.steps) for plan in plans)
    return live_states(plan_trie(plans)), occurrences


def _too_large(experiment: Experiment, cell: Cell, rows: Sequence[Cell]) -> str:
    fitting = ", ".join(row.quantization for row in rows if row.fits)
    advice = f"these fit: {fitting}" if fitting else "no quantization of the config fits"
    return (
        f"model {cell.model} at {cell.quantization} needs up to {cell.memory} in {cell.engine}, "
        f"gpu_memory_gb is {experiment.raw['gpu_memory_gb']:g}; {advice}"
    )
