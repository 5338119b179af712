"""The time and memory that a job is predicted to take, and what it asks the scheduler for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from frankenlab.config.cards import Card
from frankenlab.config.experiment import (
    DECODED_TOKENS,
    PROBED_POSITIONS,
    PROMPT_TOKENS,
    Experiment,
)
from frankenlab.config.stages import CONFIRM, SEARCH, Stage
from frankenlab.estimate.grid_work import PlanWork
from frankenlab.estimate.jobs import QUANTIZING_RULES, SCORING_RULES, Job, gpus_of
from frankenlab.estimate.memory import requirements, sizes_of
from frankenlab.estimate.throughput import Speeds, quantizing_seconds
from frankenlab.estimate.work import Workload
from frankenlab.io.errors import UserError
from frankenlab.models.memory import GB
from frankenlab.models.quantization import NONE

# Start of a job: imports, lm-eval's task; with a model on a device, CUDA's start besides (an H100's
# jobs took 13 s); and loading the model, from a file system that many nodes share.
JOB_SECONDS = 10.0
START_SECONDS = {"cpu": JOB_SECONDS, "cuda": 13.0}
LOAD_BYTES_PER_SECOND = 1e9

# A decoded token reads all weights, as a batch does: in that time a prompt of so many is read.
DECODED_AS_PROMPT = 100

# From a hub or a registry.
DOWNLOAD_BYTES_PER_SECOND = 50e6

# A prediction is right within a factor of two; a limit that is too high costs a place in the
# queue, one that is too low a second start.
TIME_MARGIN = 2.0
# Memory follows from shapes, but allocators and libraries add to it.
MEMORY_MARGIN = 1.25

# On a cold file system the imports alone take minutes.
LEAST_MINUTES = 10
LEAST_MB = 1000

# Where neither speed nor shapes are known.
UNKNOWN_SECONDS = 7200.0
UNKNOWN_BYTES = 6 * GB

# Host memory of a process with torch, transformers and lm-eval (0.65 GB) and a task's data set;
# with CUDA's libraries and pinned buffers besides.
PROCESS_BYTES = {"cpu": 1.0 * GB, "cuda": 4.0 * GB}

# Weights pass through host memory on their way to a GPU a file at a time, which distributors cut
# at 10 GB.
LARGEST_FILE = 10 * GB

# What the quantizers free after each layer and the C library keeps (see `runtime.job`): on a CPU
# SmolLM2-135M took 2.06 GB, 0.5 GB more than the rest of its prediction.
QUANTIZER_BYTES = 1.0 * GB

# A row of scores as it is put together: a dict, two lists and their numbers.
ROW_BYTES = 2000


@dataclass(frozen=True)
class Prediction:
    """What the jobs of an experiment will take: their work, at the speeds of its models."""

    workload: Workload
    speeds: Speeds

    @property
    def experiment(self) -> Experiment:
        return self.workload.experiment

    def thorough(self, given: Mapping[str, float] | None = None) -> "Prediction":
        """Return the same with everything counted and measured that can be.

        Args:
            given: tokens a second by model, which count more than what is measured.
        """
        workload = replace(self.workload, counting=True)
        return Prediction(workload, Speeds(self.experiment, given, measuring=True))

    def on(self, card: Card) -> "Prediction":
        """Return the same for a GPU by its data sheet, whatever is given or measured."""
        return Prediction(self.workload, Speeds(self.experiment, card=card))

    def seconds(self, job: Job) -> float | None:
        """Return the time of a job in a run from nothing; None where it cannot be known."""
        if job.rule in SCORING_RULES:
            scoring = self.scoring(job)
            return None if scoring is None else self.start(job) + scoring
        if job.rule == "measure_cost":
            return self._timing(job)
        if job.rule == "probe":
            return self._probing(job)
        if job.rule == "download_model":
            needed = requirements(self.workload, job.model).get(NONE.text)
            return JOB_SECONDS + needed.disk / DOWNLOAD_BYTES_PER_SECOND if needed else None
        if job.rule in QUANTIZING_RULES:
            times = quantizing_seconds(self.experiment, self.workload.model(job.model))
            if times is None:
                return None
            return JOB_SECONDS + (times.measure if job.rule == "measure_exl2" else times.quantize)
        return JOB_SECONDS

    def scoring(self, job: Job) -> float | None:
        """Return the time of a job that scores plans, from when it has loaded its model."""
        assert job.stage is not None
        speed = self.speeds.of(job.model, job.quantization, job.stage)
        if speed is None:
            return None
        work = []
        for task in self._tasks(job):
            unseen = self.workload.unseen(job.model, task, job.stage)
            work.append((unseen, self.plans(job, job.stage, task)))
            if before := job.stage.before:
                seen = self.workload.documents(job.model, task, before)
                work.append((seen, self.workload.new_plans(job.model, job.stage, job.shard)))
        seconds = 0.0
        for documents, plans in work:
            tokens = documents.tokens
            if self.experiment.engine(job.model, job.quantization) == "torch":
                tokens = documents.computed(self.experiment.settings.token_budget)
            layers = tokens * plans.passes / self._n_layers(job) / speed.tokens
            seconds += layers + documents.scored * plans.count / speed.scored
        return seconds

    def _timing(self, job: Job) -> float | None:
        """Return the time of `evaluate.cost.measure`: every confirmed plan runs alone, once to warm
        up and `repeats` times."""
        speed = self.speeds.of(job.model, job.quantization, Stage(SEARCH))
        if speed is None:
            return None
        plans = self.plans(job, Stage(CONFIRM))
        tokens = PROMPT_TOKENS + DECODED_AS_PROMPT * DECODED_TOKENS
        turns = 1 + self.experiment.settings.cost.repeats
        layers = tokens * plans.unshared / self._n_layers(job) / speed.tokens
        return self.start(job) + turns * layers

    def _probing(self, job: Job) -> float | None:
        """Return the time of `evaluate.probe`: the base runs once, and each layer a second time
        with all the layers after it, and its attention once more."""
        search = Stage(SEARCH)
        speed = self.speeds.of(job.model, job.quantization, search)
        if speed is None:
            return None
        count, n = self.experiment.settings.probe.documents, self._n_layers(job)
        documents = [
            self.workload.documents(job.model, task, search).first(count)
            for task in self.experiment.search_tasks
        ]
        passes = 2 + n / 2
        tokens = passes * sum(each.tokens for each in documents) / speed.tokens
        compared = (1 + n) * PROBED_POSITIONS * sum(each.count for each in documents)
        return self.start(job) + tokens + compared / speed.scored

    def _tasks(self, job: Job) -> list[str]:
        """Return the tasks that a job scores."""
        if job.task or job.stage is None:
            return [job.task] if job.task else []
        found = self.workload.scored(job.model, job.quantization, job.stage)
        return [task.name for task in found]

    def plans(self, job: Job, stage: Stage, task: str | None = None) -> PlanWork:
        """Return what a job that runs a stage's plans, on a task, runs of them at most."""
        if job.rule == "measure_cost":
            controls = finalists = False
        else:
            controls = self.experiment.runs_controls(job.model, job.quantization, task)
            finalists = self.experiment.runs_controls(job.model, job.quantization)
        return self.workload.plans(job.model, stage, job.shard, controls, finalists)

    def start(self, job: Job) -> float:
        """Return the seconds until a job has loaded its model."""
        needed = requirements(self.workload, job.model).get(job.quantization)
        start = START_SECONDS[self.experiment.settings.device]
        return start + (needed.disk / LOAD_BYTES_PER_SECOND if needed else 0.0)

    def _n_layers(self, job: Job) -> int:
        return self.workload.model(job.model).n_layers

    def memory_bytes(self, job: Job) -> float:
        """Return the host memory of a job that runs a model."""
        device = self.experiment.settings.device
        found = requirements(self.workload, job.model)
        if not found:
            return UNKNOWN_BYTES
        if job.rule in QUANTIZING_RULES:
            stored = min(found[NONE.text].disk, LARGEST_FILE)
            held = stored + self._calibrating(job.model)
            return PROCESS_BYTES[device] + QUANTIZER_BYTES + held
        needed = found[job.quantization]
        if device == "cuda":
            size = PROCESS_BYTES["cuda"] + min(needed.disk, LARGEST_FILE)
        else:
            size = PROCESS_BYTES["cpu"] + needed.memory.total - needed.memory.overhead
        # The rows of a task are put together at its end, and written before the next one's.
        rows = [
            self.workload.documents(job.model, task, job.stage).count
            * self.plans(job, job.stage, task).count
            for task in self._tasks(job)
            if job.stage is not None
        ]
        return size + ROW_BYTES * max(rows, default=0)

    def _calibrating(self, model: str) -> int:
        """Return the bytes of the calibration rows' hidden states before and after a layer, a layer
        in float32 with its quantized copy, and the widest inputs' second moments and factor."""
        sizes, calibration = sizes_of(self.workload.model(model)), self.experiment.calibration
        assert sizes is not None and calibration is not None
        states = 2 * 4 * calibration.rows * calibration.length * sizes.hidden_size
        layer = 2 * 4 * max(sizes.layer_weights, sizes.head_weights)
        moments = 3 * 4 * max(max(shape) for shape in sizes.layer_linears.values()) ** 2
        return states + layer + moments


def predict(experiment: Experiment) -> Prediction:
    """Return the prediction that costs little: what was counted or measured before, else
    assumptions."""
    return Prediction(Workload(experiment), Speeds(experiment))


@dataclass(frozen=True)
class Limit:
    """What a partition of the cluster allows: minutes, MB and GPUs of one job."""

    name: str
    runtime: float
    mem_mb: float
    gpus: int


@dataclass(frozen=True)
class Resources:
    """What a job asks the scheduler for.

    Attributes:
        runtime: minutes.
        mem_mb: 10^6 bytes.
        capped: whether the partitions allow less than the job should have.
    """

    runtime: int
    mem_mb: int
    capped: bool


def resources(
    prediction: Prediction, job: Job, attempt: int = 1, limits: Sequence[Limit] = ()
) -> Resources:
    """Return what a job that runs a model asks for at its `attempt`-th time.

    A job that the limits cut off goes on from the store when it is tried again.
    """
    seconds = prediction.seconds(job)
    minutes = (UNKNOWN_SECONDS if seconds is None else seconds) * TIME_MARGIN / 60
    megabytes = prediction.memory_bytes(job) * MEMORY_MARGIN / 1e6
    runtime = max(LEAST_MINUTES, math.ceil(minutes)) * attempt
    mem_mb = max(LEAST_MB, math.ceil(megabytes)) * attempt
    # A job without a GPU may run on a GPU's partition as well, and must not.
    gpus = gpus_of(prediction.experiment, job)
    usable = [each for each in limits if each.gpus >= gpus and (each.gpus > 0) == (gpus > 0)]
    if not usable:
        return Resources(runtime, mem_mb, False)
    allowed = min(runtime, max(limit.runtime for limit in usable))
    most = max(limit.mem_mb for limit in usable if limit.runtime >= allowed)
    given = math.floor(allowed), math.floor(min(mem_mb, most))
    return Resources(*given, capped=given != (runtime, mem_mb))


@cache
def read_limits(path: Path) -> tuple[Limit, ...]:
    """Return the partitions of the SLURM executor's `partition-config`, read as it reads them.

    Raises:
        UserError: it cannot be read.
    """
    from snakemake_executor_plugin_slurm.partitions import read_partition_file

    try:
        partitions = read_partition_file(path)
    except Exception as error:
        raise UserError(f"{path}: {error}") from None
    return tuple(
        Limit(
            partition.name,
            float(partition.limits.max_runtime),
            float(partition.limits.max_mem_mb),
            int(partition.limits.max_gpu or 0),
        )
        for partition in partitions
    )
