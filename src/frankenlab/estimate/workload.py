"""What the jobs of an experiment have to compute, and how long that takes, before any runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import NonNegativeInt

from frankenlab.config import stages as rounds
from frankenlab.config.experiment import (
    DECODED_TOKENS,
    PROMPT_TOKENS,
    RESOURCES,
    TASKS_FOLDER,
    Experiment,
    ModelSettings,
)
from frankenlab.estimate.capacity import TEXT_METRICS, Cell, cells, quantizing_seconds, sizes_of
from frankenlab.estimate.throughput import FALLBACK_FLOPS, Speed, from_matrix_product, speed_of
from frankenlab.io.errors import UserError
from frankenlab.io.files import cache_folder, content_hash, write_json
from frankenlab.io.fingerprints import code_fingerprint
from frankenlab.io.records import read_record
from frankenlab.models.quantization import NONE
from frankenlab.plans.grid import Grid
from frankenlab.plans.shards import Shard, divide
from frankenlab.tasks.index import TaskSettings, task_file, task_fingerprint

STAGES = ("search", "select", "confirm")

# Tokens of a document before its data is there to be counted.
ASSUMED_TOKENS = 60

# Scored positions of such a document: four answers of a few tokens.
ASSUMED_SCORED = 15

# Tokens of a text that is scored whole: between a paragraph and an article.
ASSUMED_TEXT_TOKENS = 1000

# Documents of a task in a stage without a limit, before its data is there.
ASSUMED_DOCUMENTS = 1000

# Start of a job: imports, lm-eval's task; and loading the model, from a file system that many
# nodes share.
JOB_SECONDS = 10.0
LOAD_BYTES_PER_SECOND = 1e9

# A decoded token reads all weights, as a batch does: in that time a prompt of so many is read.
DECODED_AS_PROMPT = 100

# From a hub or a registry.
DOWNLOAD_BYTES_PER_SECOND = 50e6


class Job(NamedTuple):
    """A job of the workflow, by its rule and as many wildcards as it has.

    `stage` may be a round of a race, "search-2"; of the rule `race` it is the round that it judges.
    """

    rule: str
    model: str = ""
    quantization: str = ""
    stage: str = ""
    task: str = ""
    shard: int = 0


@dataclass(frozen=True)
class Documents:
    """A task's documents in a stage.

    `tokens` counts each document once, its requests merged; `scored` the positions of them whose
    next token is scored; `prefix` is what all of them begin with (few-shot examples), in tokens;
    `assumed`: not counted, model and data are not there yet.
    """

    count: int
    tokens: int
    scored: int
    prefix: int
    assumed: bool

    def computed(self, token_budget: int) -> int:
        """Tokens of the batches of an engine that takes token trees: the prefix once in each."""
        own = self.tokens - self.prefix * self.count
        return own + self.prefix * math.ceil(own / token_budget)

    def first(self, count: int | None) -> "Documents":
        """At most so many of them, None for all; of average length, for their order is random."""
        if count is None or count >= self.count:
            return self
        tokens, scored = (round(x * count / self.count) for x in (self.tokens, self.scored))
        return replace(self, count=count, tokens=tokens, scored=scored)

    def without(self, seen: "Documents") -> "Documents":
        """Those that are not among the first ones, `seen`."""
        return replace(
            self,
            count=self.count - seen.count,
            tokens=self.tokens - seen.tokens,
            scored=self.scored - seen.scored,
        )


@dataclass(frozen=True)
class PlanWork:
    """Plans that a job runs, and the layer passes that they take for each token, common prefixes
    once and plan by plan."""

    count: int
    passes: float
    unshared: float


class Workload:
    """The jobs of an experiment with what each has to compute.

    Args:
        given: tokens a second by model, as `speeds.speed_of` takes them.
        thorough: count tokens once model and data are there (which imports lm-eval, the first
            time) and measure a matrix product where no speed is known; else what is remembered and
            assumptions must do.
    """

    def __init__(
        self,
        experiment: Experiment,
        given: Mapping[str, float] | None = None,
        thorough: bool = False,
    ) -> None:
        self.experiment, self.given, self.thorough = experiment, given, thorough
        for name in ("grid", "shards", "plans", "documents", "speed", "cells", "seconds"):
            setattr(self, name, _remembering(getattr(self, name)))

    def thoroughly(self) -> "Workload":
        """The same with everything counted and measured."""
        other = Workload(self.experiment, self.given, thorough=True)
        other.grid, other.shards, other.cells = self.grid, self.shards, self.cells
        return other

    def model(self, name: str) -> ModelSettings:
        return self.experiment.models[name]

    def grid(self, model: str) -> Grid:
        return self.experiment.grid(model)

    def stage_shards(self, model: str, stage: str) -> list[int]:
        """Numbers of a stage's or a round's shards: only the search is divided."""
        return list(self.shards(model)) if rounds.split(stage)[0] == rounds.SEARCH else [0]

    def shards(self, model: str) -> Mapping[int, Shard]:
        """Those that have a plan, by number."""
        count = self.experiment.raw["stages"]["search"]["shards"]
        return divide(self.grid(model).plans, count)

    def cells(self, model: str) -> Mapping[str, Cell]:
        """Quantization -> memory and disk; empty where the model's shapes are not known yet."""
        return {row.quantization: row for row in cells(self.experiment, self.model(model))}

    def tasks(self, stage: str) -> list[TaskSettings]:
        tasks = self.experiment.tasks.values()
        return [task for task in tasks if stage == "confirm" or task.role == "search"]

    def plans(self, model: str, stage: str, shard: int = 0) -> PlanWork:
        """What one job runs at most: which plans a race drops is not known yet. After the search
        as many as are allowed, of the grid's mean depth and with half of it shared."""
        if rounds.split(stage)[0] == rounds.SEARCH:
            found = self.shards(model)[shard]
            return PlanWork(len(found.items), found.passes, found.unshared)
        settings, n = self.experiment.raw["stages"][stage], self.model(model).n_layers
        extra = settings.get("shortlist", settings.get("controls", 0) + 1)
        plans = self.grid(model).plans
        mean = sum(item.plan.depth for item in plans) / len(plans)
        return PlanWork(1 + extra, n + extra * mean / 2, n + extra * mean)

    def documents(self, model: str, task: str, stage: str) -> Documents:
        """Of a task in a stage; in a round of a race all that its plans have seen after it."""
        experiment, (name, _) = self.experiment, rounds.split(stage)
        settings, limit = experiment.tasks[task], experiment.limit(name, task)
        whole = document_tokens(self.model(model), settings, name, limit, self.thorough)
        return whole.first(experiment.limit(stage, task))

    def unseen(self, model: str, task: str, stage: str) -> Documents:
        """What a run from nothing has to score in a stage or a round; of the rounds before the rows
        are in the store."""
        found, before = self.documents(model, task, stage), rounds.before(stage)
        return found.without(self.documents(model, task, before)) if before else found

    def speed(self, model: str, quantization: str, stage: str) -> Speed | None:
        settings = self.model(model)
        return speed_of(self.experiment, settings, quantization, stage, self.given, self.thorough)

    def seconds(self, job: Job) -> float | None:
        """Predicted time of a job in a run from nothing; None where it cannot be known."""
        if job.rule == "evaluate_task":
            return self._evaluating(job)
        if job.rule == "measure_cost":
            return self._timing(job)
        sizes = sizes_of(self.model(job.model)) if job.model else None
        if job.rule == "download_model":
            cell = self.cells(job.model).get(NONE.text)
            return cell and JOB_SECONDS + cell.disk / DOWNLOAD_BYTES_PER_SECOND
        if job.rule in ("measure_exl2", "quantize_exl2"):
            assert job.model
            times = quantizing_seconds(self.experiment, self.model(job.model)) if sizes else None
            return times and JOB_SECONDS + times[job.rule == "quantize_exl2"]
        return JOB_SECONDS

    def _evaluating(self, job: Job) -> float | None:
        speed = self._usable_speed(job.model, job.quantization, job.stage)
        if speed is None:
            return None
        documents = self.unseen(job.model, job.task, job.stage)
        plans, n = self.plans(job.model, job.stage, job.shard), self.model(job.model).n_layers
        tokens = documents.tokens
        if self.experiment.engine(job.model, job.quantization) == "torch":
            tokens = documents.computed(self.experiment.raw["token_budget"])
        layers = tokens * plans.passes / n / speed.tokens
        return self._start(job) + layers + documents.scored * plans.count / speed.scored

    def _timing(self, job: Job) -> float | None:
        """`efficiency.measure`: every confirmed plan alone, once to warm up and `repeats` times."""
        speed = self._usable_speed(job.model, job.quantization, "search")
        if speed is None:
            return None
        plans, n = self.plans(job.model, "confirm"), self.model(job.model).n_layers
        tokens = PROMPT_TOKENS + DECODED_AS_PROMPT * DECODED_TOKENS
        turns = 1 + self.experiment.raw["cost"]["repeats"]
        return self._start(job) + turns * tokens * plans.unshared / n / speed.tokens

    def _start(self, job: Job) -> float:
        cell = self.cells(job.model).get(job.quantization)
        return JOB_SECONDS + (cell.disk / LOAD_BYTES_PER_SECOND if cell else 0.0)

    def _usable_speed(self, model: str, quantization: str, stage: str) -> Speed | None:
        """A stated constant where nothing may be measured."""
        speed, sizes = self.speed(model, quantization, stage), sizes_of(self.model(model))
        if speed is not None or self.thorough or sizes is None:
            return speed
        device = self.experiment.raw["device"]
        return from_matrix_product(sizes, FALLBACK_FLOPS[device], device, "assumed")


def _remembering(method: Callable) -> Callable:
    """Once is enough; but what is not known before the model is there may be known later."""
    found: dict[tuple, Any] = {}

    def remembered(*arguments: Any) -> Any:
        if not found.get(arguments):
            found[arguments] = method(*arguments)
        return found[arguments]

    return remembered


def document_tokens(
    model: ModelSettings, task: TaskSettings, stage: str, limit: int | None, counting: bool = True
) -> Documents:
    """Documents, tokens and scored positions of a task in a stage.

    Counted once model and data are there, if `counting`, and remembered; before that, as many
    documents as the limit allows with as many tokens each as the assumptions above say.
    """
    # Not in the project: a dry run or `frankenlab plans` counts, and changes nothing there.
    remembered = cache_folder() / "counts" / f"{_count_key(model, task, stage, limit)}.json"
    counts = _remembered(remembered)
    if counts is None:
        directory = RESOURCES / "models" / model.folder
        if not (counting and _there(directory, task)):
            count = limit or ASSUMED_DOCUMENTS
            if task.metric in TEXT_METRICS:
                tokens = count * ASSUMED_TEXT_TOKENS
                return Documents(count, tokens, tokens, 0, True)
            return Documents(count, count * ASSUMED_TOKENS, count * ASSUMED_SCORED, 0, True)
        counts = _count(directory, task, stage, limit)
        with suppress(OSError, UserError):  # a home that cannot be written to
            write_json(remembered, counts)
    return Documents(*counts, assumed=False)


def _remembered(path: Path) -> Sequence[int] | None:
    """Return the counts that were written down; None where there are none, or damaged ones."""
    try:
        found = read_record(path, tuple[(NonNegativeInt,) * 4])
    except UserError:
        return None
    return found


def _count_key(model: ModelSettings, task: TaskSettings, stage: str, limit: int | None) -> str:
    """Of everything that a count depends on: also the data file's state and the code."""
    file = task.data_file
    state = file.stat() if file is not None and file.is_file() else None
    return content_hash(
        [
            *(str(Path.cwd()), model.folder, str(task), stage, limit),
            state and [state.st_size, state.st_mtime_ns],
            task_fingerprint(task_file(task.task, TASKS_FOLDER)),
            code_fingerprint(*COUNTING_MODULES),
            [field.name for field in fields(Documents)],
        ]
    )


# What a count depends on.
COUNTING_MODULES = (
    "frankenlab.engines.batches",
    "frankenlab.tasks.encoding",
    "frankenlab.tasks.task",
)


def _there(directory: Path, task: TaskSettings) -> bool:
    has_model = (directory / "manifest.json").is_file()
    return has_model and task.data_file is not None and task.data_file.is_file()


def _count(directory: Path, task: TaskSettings, stage: str, limit: int | None) -> Sequence[int]:
    # Imported here: lm-eval and transformers take seconds, and a count is made only once.
    from frankenlab.engines.batches import shared_prefix
    from frankenlab.tasks.encoding import document_trees, encoder_of, requests_name
    from frankenlab.tasks.task import EvaluationTask

    loaded = EvaluationTask(task, TASKS_FOLDER)
    documents = loaded.documents(loaded.indices(stage, limit))
    found = document_trees(encoder_of(directory), documents, loaded.rolling, task.name)
    trees = [found[requests_name(document)] for document in documents]
    scored = sum(len({node for node, _ in tree.scored}) for tree in trees)
    return [len(documents), sum(map(len, trees)), scored, shared_prefix(trees)]
