"""What a grid will cost, before it runs."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from frankenlab.capacity import TEXT_METRICS, Cell, cells, quantizing_seconds, sizes_of
from frankenlab.config import RESOURCES, TASKS_FOLDER, Experiment, ModelSettings
from frankenlab.files import content_hash, write_json
from frankenlab.fingerprints import code_fingerprint
from frankenlab.grid import Grid, expand
from frankenlab.memory import GB
from frankenlab.models import model_info
from frankenlab.plans import base
from frankenlab.quantization import NONE
from frankenlab.sweep import layer_passes, plan_trie
from frankenlab.task_index import TaskSettings, task_file, task_fingerprint

# A row of the store, compressed: plan text, two hashes, a few floats.
BYTES_PER_ROW = 60

# Tokens of a document before its data is there to be counted.
ASSUMED_TOKENS = 60

# Scored positions of such a document: four answers of a few tokens.
ASSUMED_SCORED = 15

# Tokens of a text that is scored whole: between a paragraph and an article.
ASSUMED_TEXT_TOKENS = 1000

# Share of the matrix product's speed that the layers reach on small batches, and what a logit
# costs on a CPU beyond its product (log-sum-exp, arg max), in seconds. Both measured.
EFFICIENCY = 0.35
LOGIT_SECONDS = 4e-9

# float32 products, to 16-bit ones on tensor cores: a half on some GPUs, an eighth on others.
FLOAT32_SPEED = 0.25

# Start of a job: imports, lm-eval's task, loading the model.
JOB_SECONDS = 10.0


@dataclass(frozen=True)
class StageCost:
    """A stage of one model and quantization, over all its tasks.

    `tokens` counts each document once, its requests merged; `scored` the positions of them whose
    next token is scored.
    """

    tasks: int
    documents: int
    tokens: int
    scored: int
    plans: int
    passes: float
    passes_unshared: float
    assumed: bool

    @property
    def rows(self) -> int:
        return self.documents * self.plans


@dataclass
class _Totals:
    """What the lines of a summary add up to; `known` ends with the first unknown time."""

    scoring: float = 0.0
    quantizing: float = 0.0
    scores: int = 0
    models: int = 0
    known: bool = True


def summary(experiment: Experiment, tokens_per_second: float | None = None) -> str:
    """The grid in numbers, with predicted time, memory and disk.

    Args:
        tokens_per_second: of the base reading prompts, in the search stage's precision; None takes
            the config's `planning.gpu_tflops` for a GPU that is not here, and else measures a
            matrix product on this machine.
    """
    lines, totals = [f"experiment {experiment.name}"], _Totals()
    for model in experiment.models.values():
        grid = expand(experiment.raw["plans"], model.n_layers)
        lines += _grid_lines(model, grid)
        lines += _cell_lines(experiment, model, totals)
        for stage in ("search", "select", "confirm"):
            cost = stage_cost(experiment, model, grid, stage)
            predicted = stage_seconds(experiment, model, stage, cost, tokens_per_second)
            totals.known = totals.known and predicted is not None
            quantizations = experiment.stage_quantizations(stage, model.name)
            totals.scores += cost.rows * BYTES_PER_ROW * len(quantizations)
            totals.scoring += (predicted or 0.0) * len(quantizations)
            raced = len(experiment.evaluations(stage)) > 1
            lines.append(_stage_line(quantizations, stage, cost, predicted, raced))
    return "\n".join([*lines, _total_line(experiment, totals)])


def stage_cost(experiment: Experiment, model: ModelSettings, grid: Grid, stage: str) -> StageCost:
    """Documents, tokens and layer passes of a stage over all its tasks."""
    n = model.n_layers
    settings = experiment.raw["stages"][stage]
    if stage == "search":
        plans = [item.plan for item in grid.plans]
        passes, unshared = layer_passes(plan_trie(plans)), sum(plan.depth for plan in plans)
        count = len(plans)
    else:
        # Which plans come this far is not known yet: as many as allowed, of the grid's mean depth
        # and with half of it shared.
        extra = settings.get("shortlist", settings.get("controls", 0) + 1)
        count = 1 + extra
        mean = sum(item.plan.depth for item in grid.plans) / len(grid.plans)
        unshared = n + extra * mean
        passes = n + extra * mean / 2
    tasks = [t for t in experiment.tasks.values() if stage == "confirm" or t.role == "search"]
    counted = [document_tokens(experiment, model, task, stage) for task in tasks]
    return StageCost(
        tasks=len(tasks),
        documents=sum(documents for documents, _, _, _ in counted),
        tokens=sum(tokens for _, tokens, _, _ in counted),
        scored=sum(scored for _, _, scored, _ in counted),
        plans=count,
        passes=passes,
        passes_unshared=unshared,
        assumed=any(assumed for _, _, _, assumed in counted),
    )


def document_tokens(
    experiment: Experiment, model: ModelSettings, task: TaskSettings, stage: str
) -> tuple[int, int, int, bool]:
    """(documents, tokens, scored positions, whether they are assumed) of a task in a stage.

    Counted once model and data are there, and remembered; before that, as many documents as the
    limit allows with as many tokens each as the assumptions above say.
    """
    limit = experiment.limit(stage, task.name)
    remembered = RESOURCES / "counts" / f"{_count_key(model, task, stage, limit)}.json"
    if not remembered.is_file():
        directory = RESOURCES / "models" / model.folder
        if not _there(directory, task):
            documents = limit or 1000
            if task.metric in TEXT_METRICS:
                tokens = documents * ASSUMED_TEXT_TOKENS
                return documents, tokens, tokens, True
            return documents, documents * ASSUMED_TOKENS, documents * ASSUMED_SCORED, True
        write_json(remembered, _count(directory, task, stage, limit))
    return *json.loads(remembered.read_text()), False


def _count_key(model: ModelSettings, task: TaskSettings, stage: str, limit: int | None) -> str:
    """Of everything that a count depends on: also the data file's state and the code."""
    file = task.data_file
    state = file.stat() if file is not None and file.is_file() else None
    return content_hash(
        [
            *(model.folder, str(task), stage, limit),
            state and [state.st_size, state.st_mtime_ns],
            task_fingerprint(task_file(task.task, TASKS_FOLDER)),
            code_fingerprint("frankenlab.planning"),
        ]
    )


def _there(directory: Path, task: TaskSettings) -> bool:
    has_model = (directory / "manifest.json").is_file()
    return has_model and task.data_file is not None and task.data_file.is_file()


def _count(directory: Path, task: TaskSettings, stage: str, limit: int | None) -> list[int]:
    # Imported here: lm-eval and transformers take seconds, and a count is made only once.
    from frankenlab.batches import token_tree
    from frankenlab.encoding import Encoder
    from frankenlab.models import load_tokenizer
    from frankenlab.tasks import EvaluationTask

    loaded = EvaluationTask(task, TASKS_FOLDER)
    encoder = Encoder(load_tokenizer(directory), model_info(directory).max_position_embeddings)
    documents = loaded.documents(loaded.indices(stage, limit))
    trees = [
        token_tree(part for request in encoder.encode(document, loaded.rolling) for part in request)
        for document in documents
    ]
    scored = sum(len({node for node, _ in tree.scored}) for tree in trees)
    return [len(documents), sum(map(len, trees)), scored]


def stage_seconds(
    experiment: Experiment,
    model: ModelSettings,
    stage: str,
    cost: StageCost,
    tokens_per_second: float | None,
) -> float | None:
    """Predicted time of a stage; None where neither a speed nor the model's shape is known.

    Args:
        tokens_per_second: as in `summary`.
    """
    start = JOB_SECONDS * cost.tasks
    if tokens_per_second is not None:
        return start + cost.tokens * cost.passes / model.n_layers / tokens_per_second
    sizes, device = sizes_of(model), experiment.raw["device"]
    speed = _speed(experiment, experiment.raw["stages"][stage]["precision"])
    if sizes is None or speed is None:
        return None
    layers = cost.tokens * cost.passes * 2 * sizes.layer_weights / (EFFICIENCY * speed)
    logit = 2 * sizes.hidden / speed + (LOGIT_SECONDS if device == "cpu" else 0.0)
    return start + layers + cost.scored * cost.plans * sizes.vocab * logit


def _speed(experiment: Experiment, precision: str) -> float | None:
    """Operations a second of a matrix product where the experiment runs."""
    tflops = experiment.raw["planning"].get("gpu_tflops")
    if experiment.raw["device"] == "cpu":
        return matrix_speed(precision, "cpu")
    if tflops is not None:
        return tflops * 1e12 * (FLOAT32_SPEED if precision == "float32" else 1.0)
    import torch

    return matrix_speed(precision, "cuda") if torch.cuda.is_available() else None


_measured: dict[tuple[str, str], float] = {}


def matrix_speed(precision: str, device: str) -> float:
    """Floating-point operations per second of a matrix product on this machine, measured."""
    if (precision, device) not in _measured:
        import torch

        a = torch.randn(2048, 1024, dtype=getattr(torch, precision), device=device)
        b = torch.randn(1024, 1024, dtype=a.dtype, device=device)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            (a @ b).sum().item()
            times.append(time.perf_counter() - start)
        _measured[precision, device] = 2 * 2048 * 1024 * 1024 / min(times)
    return _measured[precision, device]


def _grid_lines(model: ModelSettings, grid: Grid) -> list[str]:
    plans = [item.plan for item in grid.plans]
    shared, unshared = layer_passes(plan_trie(plans)), sum(plan.depth for plan in plans)
    groups = Counter(item.group for item in grid.plans)
    made = ", ".join(f"{count} {group}" for group, count in groups.items())
    return [
        f"model {model.name}: {len(plans)} plans ({made}), {len(grid.folded)} duplicates folded",
        f"  layer passes a token: {unshared:.0f} without sharing, {shared:.0f} with "
        f"({unshared / shared:.1f} times fewer), {shared / base(model.n_layers).depth:.1f} times "
        "the base",
    ]


def _cell_lines(experiment: Experiment, model: ModelSettings, totals: _Totals) -> list[str]:
    """Size, memory and making of each quantization."""
    rows = cells(experiment, model)
    seconds = quantizing_seconds(experiment, model)
    if not rows or seconds is None:
        return ["  size and memory: unknown before the download (models.*.shapes would tell)"]
    measure, quantize = seconds
    lines = []
    if model.to_quantize:
        totals.quantizing += measure
        lines.append(
            f"  measured once for EXL2 by {experiment.quantizer}: about {_duration(measure)}"
        )
    if model.to_quantize and NONE.text not in model.quantizations:
        totals.models += next(row.disk for row in rows if row.quantization == NONE.text)
    for row in rows:
        making = row.evaluated and row.quantization in model.to_quantize
        totals.quantizing += quantize * making
        totals.models += row.disk * row.evaluated
        made = f", about {_duration(quantize)} to make" if making else ""
        lines.append(_cell_line(experiment, row) + made)
    return lines


def _cell_line(experiment: Experiment, cell: Cell) -> str:
    fits = {True: ": fits", False: ": DOES NOT FIT", None: ""}[cell.fits]
    limit = f" of {experiment.raw['gpu_memory_gb']:g} GB" if fits else ""
    aside = "" if cell.evaluated else " (not evaluated)"
    return (
        f"  {cell.quantization}{aside}: {cell.disk / GB:.1f} GB on disk, {cell.engine} needs at "
        f"most {cell.memory}{limit}{fits}"
    )


def _stage_line(
    quantizations: Sequence[str], stage: str, cost: StageCost, seconds: float | None, raced: bool
) -> str:
    # What a race drops, and when, is not known before it is run.
    about = "at most" if raced else "about"
    note = " (assumed: data not downloaded yet)" if cost.assumed else ""
    each = " each" if len(quantizations) > 1 else ""
    took = "time unknown" if seconds is None else f"{about} {_duration(seconds)}{each}"
    return (
        f"  {stage} at {', '.join(quantizations)}: {cost.plans} plans x {cost.documents} "
        f"documents, {cost.tokens} tokens{note}, {took}"
    )


def _total_line(experiment: Experiment, totals: _Totals) -> str:
    hint = ""
    if totals.known:
        scoring = f"predicted: {_duration(totals.scoring)} of scoring"
        if experiment.raw["device"] == "cuda" and "gpu_tflops" in experiment.raw["planning"]:
            tflops = experiment.raw["planning"]["gpu_tflops"]
            hint = f" ({EFFICIENCY:.0%} of {tflops:g} TFLOP/s assumed)"
    else:
        scoring = "predicted time: unknown"
        hint = " (give --tokens-per-second, planning.gpu_tflops and models.*.shapes, or download)"
    parts = [f"{scoring}{hint}"]
    if totals.quantizing:
        parts.append(f"{_duration(totals.quantizing)} of quantizing")
    parts.append(f"{totals.scores / 1e6:.1f} MB of scores")
    if totals.models:
        parts.append(f"{totals.models / GB:.1f} GB of models")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
