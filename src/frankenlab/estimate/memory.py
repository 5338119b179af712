"""What the models of an experiment need at each quantization, and whether it fits the GPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from frankenlab.config.experiment import RESOURCES, Experiment, ModelSettings
from frankenlab.config.stages import CONFIRM, SEARCH, SELECT, Stage
from frankenlab.estimate.work import TEXT_METRICS, Workload, local_directory
from frankenlab.io.errors import UserError
from frankenlab.models.files import CONFIG, read_json
from frankenlab.models.memory import GB, Load, Memory, disk_bytes, memory, pass_tokens
from frankenlab.models.quantization import NONE
from frankenlab.models.shape import ModelShape
from frankenlab.tasks.index import TaskSettings

# Tokens of a batch with its padding, to those that count against the budget.
PADDING = 1.25

# Tokens that a timed run reads and decodes (`latency`), and some room.
TIMED_TOKENS = 512

# Tokens of the longest text that is scored whole, assumed: a long article of wikitext.
LONGEST_TEXT = 16384

# Tokens of one few-shot example, assumed: a question of MMLU with its choices.
SHOT_TOKENS = 200


@dataclass(frozen=True)
class Requirements:
    """What a model at a quantization needs.

    Attributes:
        evaluated: whether the config evaluates it.
        disk: bytes of its weights.
        gpus: of a job; 0 on a CPU.
        memory: the most that any job needs, on the fullest of its GPUs.
        fits: whether each GPU can hold it; None where the config names no memory.
    """

    model: str
    quantization: str
    engine: str
    evaluated: bool
    disk: int
    gpus: int
    memory: Memory
    fits: bool | None

    @property
    def needs(self) -> str:
        """The memory in words."""
        return f"{self.memory}{f' on each of {self.gpus} GPUs' if self.gpus > 1 else ''}"


def sizes_of(model: ModelSettings) -> ModelShape | None:
    """Return a model's sizes: by its config.json once it is there (as that of a local directory is
    before any job), else by the config's `shapes`, and None where there are none."""
    for directory in (RESOURCES / "models" / model.folder, local_directory(model)):
        if directory is not None and (directory / CONFIG).is_file():
            return _sizes_in((directory / CONFIG).absolute())
    return model.sizes


@cache
def _sizes_in(path: Path) -> ModelShape:
    return ModelShape.from_config(read_json(path))


def requirements(workload: Workload, name: str) -> dict[str, Requirements]:
    """Return what a model needs by quantization: its own, then the experiment's others and as
    distributed; nothing where its sizes are not known yet."""
    experiment, model = workload.experiment, workload.model(name)
    sizes = sizes_of(model)
    if sizes is None:
        return {}
    others = [*experiment.quantizations, NONE.text] if model.stored == NONE else []
    loads = _loads(workload, model, sizes)
    names = dict.fromkeys([*model.quantizations, *others])
    return {each: _requirements(experiment, model, each, sizes, loads) for each in names}


def check_fits(experiment: Experiment, model: str, quantization: str) -> None:
    """Check a model before it is loaded.

    Raises:
        UserError: it needs more than the GPU has; says which quantizations fit.
    """
    found = requirements(Workload(experiment), model)
    if quantization in found and found[quantization].fits is False:
        raise UserError(_too_large(experiment, found[quantization], found))


def too_large(workload: Workload) -> list[str]:
    """Return a line for each (model, quantization) that the config evaluates and the GPU cannot
    hold."""
    return [
        _too_large(workload.experiment, each, found)
        for found in (requirements(workload, model) for model in workload.experiment.models)
        for each in found.values()
        if each.evaluated and each.fits is False
    ]


def _requirements(
    experiment: Experiment,
    model: ModelSettings,
    quantization: str,
    sizes: ModelShape,
    loads: list[tuple[Stage, Load]],
) -> Requirements:
    weights = model.weights_at(quantization)
    head_bits = model.head_bits or experiment.settings.exl2.head_bits
    engine = experiment.engine(model.name, quantization)
    device, limit = experiment.settings.device, experiment.settings.gpu_memory_gb
    gpus = experiment.gpus(model.name, quantization)
    needs = []
    for stage, load in loads:
        precision = experiment.precision(stage, model.name, quantization)
        where = device, max(gpus, 1)
        needs.append(memory(sizes, weights, head_bits, engine, load, precision, *where))
    most = max(needs, key=lambda need: need.total)
    return Requirements(
        model=model.name,
        quantization=quantization,
        engine=engine,
        evaluated=quantization in model.quantizations,
        disk=disk_bytes(sizes, weights, head_bits),
        gpus=gpus,
        memory=most,
        fits=most.total <= limit * GB if limit is not None and device == "cuda" else None,
    )


def _loads(workload: Workload, model: ModelSettings, sizes: ModelShape) -> list[tuple[Stage, Load]]:
    """Return the heaviest batch of each stage, and a timed run (in the search's precision)."""
    settings, grid = workload.experiment.settings, workload.grid(model.name)
    confirm = settings.stages.confirm
    states = {
        Stage(SEARCH): grid.live_states,
        # The base is one of the plans, and the frozen one of those that are confirmed.
        Stage(SELECT): grid.states_of(settings.stages.select.shortlist + 1),
        Stage(CONFIRM): grid.states_of(
            confirm.controls + confirm.most_finalists + workload.transferred + 2
        ),
    }
    budget = settings.token_budget
    passed = pass_tokens(sizes.max_position_embeddings)
    loads = []
    for stage, alive in states.items():
        tasks = workload.tasks(stage)
        texts = any(task.metric in TEXT_METRICS for task in tasks)
        tokens = max(int(PADDING * budget), LONGEST_TEXT if texts else 0)
        row = min(passed if texts else budget, sizes.max_position_embeddings)
        shots = max(_shots(task) for task in [*tasks, *workload.variants(stage)])
        prefix = min(shots * SHOT_TOKENS, sizes.max_position_embeddings)
        loads.append((stage, Load(tokens, row, passed, alive, prefix=prefix)))
    timed = Load(
        TIMED_TOKENS, TIMED_TOKENS, passed, grid.states_of(1), grid.occurrences * TIMED_TOKENS
    )
    return [*loads, (Stage(SEARCH), timed)]


def _shots(task: TaskSettings) -> int:
    """Return the number of worked examples that a config asks for."""
    return task.num_fewshot or task.overrides.get("num_fewshot") or 0


def _too_large(
    experiment: Experiment, needed: Requirements, found: Mapping[str, Requirements]
) -> str:
    fitting = ", ".join(each.quantization for each in found.values() if each.fits)
    advice = f"these fit: {fitting}" if fitting else "no quantization of the config fits"
    return (
        f"model {needed.model} at {needed.quantization} needs up to {needed.needs} in "
        f"{needed.engine}, gpu_memory_gb is {experiment.settings.gpu_memory_gb:g}; {advice}; "
        f"models.{needed.model}.gpus splits it over several GPUs"
    )
