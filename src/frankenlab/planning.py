"""What a grid will cost, before it runs."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from frankenlab.config import RESOURCES, TASKS_FOLDER, Experiment, ModelSettings
from frankenlab.errors import UserError
from frankenlab.files import content_hash, write_json
from frankenlab.fingerprints import code_fingerprint
from frankenlab.grid import Grid, expand
from frankenlab.models import model_info
from frankenlab.plans import base
from frankenlab.sweep import layer_passes, plan_trie
from frankenlab.task_index import TaskSettings, task_file, task_fingerprint

# A row of the store, compressed: plan text, two hashes, a few floats.
BYTES_PER_ROW = 60

# Tokens of a document before its data is there to be counted.
ASSUMED_TOKENS = 60

# Scored positions of such a document: four answers of a few tokens.
ASSUMED_SCORED = 15

# Share of the matrix product's speed that the layers reach on small batches, and what a logit
# costs on a CPU beyond its product (log-sum-exp, arg max), in seconds. Both measured.
EFFICIENCY = 0.35
LOGIT_SECONDS = 4e-9

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


def summary(experiment: Experiment, tokens_per_second: float | None = None) -> str:
    """The grid in numbers, with predicted time and disk.

    Args:
        tokens_per_second: of the base reading prompts, in the search stage's precision; None
            measures a matrix product on this machine.
    """
    lines = [f"experiment {experiment.name}"]
    seconds, disk, known = 0.0, 0, True
    for model in experiment.models.values():
        grid = expand(experiment.raw["plans"], model.n_layers)
        lines += _grid_lines(model, grid)
        for quantization in experiment.raw["quantizations"]:
            for stage in ("search", "select", "confirm"):
                cost = stage_cost(experiment, model, grid, stage)
                disk += cost.rows * BYTES_PER_ROW
                predicted = stage_seconds(experiment, model, stage, cost, tokens_per_second)
                known = known and predicted is not None
                predicted = predicted or 0.0
                seconds += predicted
                lines.append(_stage_line(quantization, stage, cost, predicted))
    total = f"predicted: {_duration(seconds)} of scoring" if known else "predicted time: unknown"
    hint = "" if known else " (give --tokens-per-second, or download the model first)"
    lines.append(f"{total}{hint}, {disk / 1e6:.1f} MB of scores")
    return "\n".join(lines)


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
    limit allows with `ASSUMED_TOKENS` each.
    """
    limit = experiment.limit(stage, task.name)
    remembered = RESOURCES / "counts" / f"{_count_key(model, task, stage, limit)}.json"
    if not remembered.is_file():
        directory = RESOURCES / "models" / model.folder
        if not _there(directory, task):
            documents = limit or 1000
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
    try:
        info = model_info(RESOURCES / "models" / model.folder)
    except UserError:
        return None
    device = experiment.raw["device"]
    speed = matrix_speed(experiment.raw["stages"][stage]["precision"], device)
    layers = cost.tokens * cost.passes * 2 * info.parameters_per_layer / (EFFICIENCY * speed)
    logit = 2 * info.hidden_size / speed + (LOGIT_SECONDS if device == "cpu" else 0.0)
    return start + layers + cost.scored * cost.plans * info.vocab_size * logit


_measured: dict[tuple[str, str], float] = {}


def matrix_speed(precision: str, device: str) -> float:
    """Floating-point operations per second of a matrix product on this machine, measured."""
    if (precision, device) not in _measured:
        import torch

        where = device if torch.cuda.is_available() else "cpu"
        a = torch.randn(2048, 1024, dtype=getattr(torch, precision), device=where)
        b = torch.randn(1024, 1024, dtype=a.dtype, device=where)
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


def _stage_line(quantization: str, stage: str, cost: StageCost, seconds: float) -> str:
    note = " (assumed: data not downloaded yet)" if cost.assumed else ""
    return (
        f"  {quantization} {stage}: {cost.plans} plans x {cost.documents} documents, "
        f"{cost.tokens} tokens{note}, about {_duration(seconds)}"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
