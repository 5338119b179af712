"""What a job asks the scheduler for: time and host memory, from what it has to compute."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from frankenlab.estimate.capacity import sizes_of
from frankenlab.estimate.schedule import on_gpu
from frankenlab.estimate.workload import Job, Workload
from frankenlab.io.errors import UserError
from frankenlab.models.memory import GB
from frankenlab.models.quantization import NONE

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

# A row of scores as it is put together: a dict, two lists and their numbers.
ROW_BYTES = 2000


@dataclass(frozen=True)
class Limit:
    """What a partition of the cluster allows: minutes, MB and GPUs of one job."""

    name: str
    runtime: float
    mem_mb: float
    gpus: int


@dataclass(frozen=True)
class Request:
    """`runtime` in minutes, `mem_mb` in 10^6 bytes; `capped`: the partitions allow less than was
    to be asked for."""

    runtime: int
    mem_mb: int
    capped: bool


def request(
    workload: Workload, job: Job, attempt: int = 1, limits: Sequence[Limit] = ()
) -> Request:
    """What a job asks for at its `attempt`-th time.

    A job that the cap cuts off goes on from the store when it is tried again.
    """
    seconds = workload.seconds(job)
    minutes = (UNKNOWN_SECONDS if seconds is None else seconds) * TIME_MARGIN / 60
    megabytes = memory_bytes(workload, job) * MEMORY_MARGIN / 1e6
    runtime = max(LEAST_MINUTES, math.ceil(minutes)) * attempt
    mem_mb = max(LEAST_MB, math.ceil(megabytes)) * attempt
    gpu = on_gpu(workload, job)
    # Other jobs may run on a GPU's partition as well, and must not.
    usable = [limit for limit in limits if (limit.gpus > 0) == gpu]
    if not usable:
        return Request(runtime, mem_mb, False)
    allowed = min(runtime, max(limit.runtime for limit in usable))
    most = max(limit.mem_mb for limit in usable if limit.runtime >= allowed)
    given = Request(math.floor(allowed), math.floor(min(mem_mb, most)), False)
    return Request(given.runtime, given.mem_mb, (given.runtime, given.mem_mb) != (runtime, mem_mb))


def memory_bytes(workload: Workload, job: Job) -> float:
    """Predicted host memory of a job."""
    device = workload.experiment.raw["device"]
    sizes = sizes_of(workload.model(job.model)) if job.model else None
    if sizes is None:
        return UNKNOWN_BYTES if job.model else 0.0
    if job.rule in ("measure_exl2", "quantize_exl2"):
        return PROCESS_BYTES[device] + _quantizing(workload, job)
    cell = workload.cells(job.model)[job.quantization]
    if device == "cuda":
        need = PROCESS_BYTES["cuda"] + min(cell.disk, LARGEST_FILE)
    else:
        need = PROCESS_BYTES["cpu"] + cell.memory.total - cell.memory.overhead
    if job.rule == "evaluate_task":
        documents = workload.documents(job.model, job.task, job.stage)
        plans = workload.plans(job.model, job.stage, job.shard)
        need += ROW_BYTES * documents.count * plans.count
    return need


def _quantizing(workload: Workload, job: Job) -> float:
    """The hidden states of the calibration rows before and after a layer; a layer in float32 with
    its quantized copy; the widest inputs' second moments and their factor; a file of weights."""
    sizes, calibration = sizes_of(workload.model(job.model)), workload.experiment.calibration
    assert sizes is not None and calibration is not None
    states = 2 * 4 * calibration.rows * calibration.length * sizes.hidden_size
    layer = 2 * 4 * max(sizes.layer_weights, sizes.head_weights)
    moments = 3 * 4 * max(max(shape) for shape in sizes.layer_linears.values()) ** 2
    stored = workload.cells(job.model)[NONE.text].disk
    return states + layer + moments + min(stored, LARGEST_FILE)


@cache
def read_limits(path: Path) -> tuple[Limit, ...]:
    """The partitions of the SLURM executor's `partition-config`, read as it reads them.

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
