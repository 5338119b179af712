"""The grid and what it will cost, in words: what `make plan` and a dry run print."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from frankenlab.config import stages as rounds
from frankenlab.estimate.capacity import Cell, quantizing_seconds
from frankenlab.estimate.resources import Limit, request
from frankenlab.estimate.schedule import GPU_RULES, jobs, length, on_gpu
from frankenlab.estimate.workload import STAGES, Job, Workload
from frankenlab.models.memory import GB
from frankenlab.models.quantization import NONE

# A row of the store, compressed: plan text, two hashes, a few floats.
BYTES_PER_ROW = 60


def summary(workload: Workload, gpus: Sequence[int] = (), limits: Sequence[Limit] = ()) -> str:
    """The grid in numbers, with predicted jobs, time, memory and disk.

    Args:
        gpus: numbers of GPUs for which the run's length is wanted.
        limits: of the cluster's partitions, where it is known.
    """
    needs = jobs(workload)
    lines = [f"experiment {workload.experiment.name}"]
    for model in workload.experiment.models:
        lines += _grid_lines(workload, model)
        lines += _cell_lines(workload, model)
        lines += [_stage_line(workload, model, stage) for stage in STAGES]
    lines.append(_jobs_line(needs))
    lines += _time_lines(workload, needs, gpus)
    lines += _cap_lines(workload, needs, limits)
    return "\n".join([*lines, _total_line(workload, needs)])


def _grid_lines(workload: Workload, model: str) -> list[str]:
    grid, shards = workload.grid(model), workload.shards(model).values()
    unshared, passes = (sum(getattr(s, x) for s in shards) for x in ("unshared", "passes"))
    groups = Counter(item.group for item in grid.plans)
    made = ", ".join(f"{count} {group}" for group, count in groups.items())
    lines = [
        f"model {model}: {len(grid.plans)} plans ({made}), {len(grid.folded)} duplicates folded",
        f"  layer passes a token: {unshared:.0f} without sharing, {passes:.0f} with "
        f"({unshared / passes:.1f} times fewer), {passes / workload.model(model).n_layers:.1f} "
        "times the base",
    ]
    if len(shards) > 1:
        largest = max(shard.passes for shard in shards) * len(shards) / passes
        lines.append(f"  {len(shards)} shards, the largest {largest:.2f} times their mean")
    return lines


def _cell_lines(workload: Workload, model: str) -> list[str]:
    """Size, memory and making of each quantization."""
    rows, settings = workload.cells(model).values(), workload.model(model)
    seconds = quantizing_seconds(workload.experiment, settings)
    if not rows or seconds is None:
        return ["  size and memory: unknown before the download (models.*.shapes would tell)"]
    measure, quantize = seconds
    lines = []
    if settings.to_quantize:
        quantizer = workload.experiment.quantizer
        lines.append(f"  measured once for EXL2 by {quantizer}: about {duration(measure)}")
    for row in rows:
        making = row.evaluated and row.quantization in settings.to_quantize
        made = f", about {duration(quantize)} to make" if making else ""
        lines.append(_cell_line(workload, row) + made)
    return lines


def _cell_line(workload: Workload, cell: Cell) -> str:
    fits = {True: ": fits", False: ": DOES NOT FIT", None: ""}[cell.fits]
    limit = f" of {workload.experiment.raw['gpu_memory_gb']:g} GB" if fits else ""
    aside = "" if cell.evaluated else " (not evaluated)"
    return (
        f"  {cell.quantization}{aside}: {cell.disk / GB:.1f} GB on disk, {cell.engine} needs at "
        f"most {cell.memory}{limit}{fits}"
    )


def _stage_line(workload: Workload, model: str, stage: str) -> str:
    quantizations = workload.experiment.stage_quantizations(stage, model)
    documents = [workload.documents(model, t.name, stage) for t in workload.tasks(stage)]
    names = workload.experiment.evaluations(stage)
    seconds = [
        workload.seconds(Job("evaluate_task", model, quantizations[0], name, task.name, shard))
        for name in names
        for shard in workload.stage_shards(model, name)
        for task in workload.tasks(name)
    ]
    note = " (assumed: data not downloaded yet)" if any(d.assumed for d in documents) else ""
    each = " each" if len(quantizations) > 1 else ""
    about = "at most" if len(names) > 1 else "about"
    took = "time unknown" if None in seconds else f"{about} {duration(_sum(seconds))}{each}"
    return (
        f"  {stage} at {', '.join(quantizations)}: {_plans(workload, model, stage)} plans x "
        f"{sum(d.count for d in documents)} documents, {sum(d.tokens for d in documents)} "
        f"tokens{note}, {took}"
    )


def _jobs_line(needs: Mapping[Job, Iterable[Job]]) -> str:
    counts = Counter(job.rule for job in needs)
    each = ", ".join(f"{rule} {count}" for rule, count in counts.most_common())
    return f"jobs: {len(needs)} from nothing ({each})"


def _time_lines(
    workload: Workload, needs: Mapping[Job, Iterable[Job]], gpus: Sequence[int]
) -> list[str]:
    """GPU hours, and when the last job ends."""
    if any(workload.seconds(job) is None for job in needs):
        return []

    def seconds(job: Job) -> float:
        return workload.seconds(job) or 0.0

    def takes_gpu(job: Job) -> bool:
        return on_gpu(workload, job)

    at_most = _at_most(workload)
    lines = []
    hours: Counter[str] = Counter()
    for job in filter(takes_gpu, needs):
        hours[job.model] += seconds(job) / 3600
    if hours:
        each = ", ".join(f"{model} {value:.1f}" for model, value in hours.items())
        lines.append(f"GPU hours: {at_most}{sum(hours.values()):.1f} ({each})")
    whole = "on as many GPUs as there are jobs" if hours else "with all jobs side by side"
    longest = [f"{at_most}{duration(length(needs, seconds, takes_gpu))} {whole}"]
    for count in gpus:
        took = duration(length(needs, seconds, takes_gpu, count))
        longest.append(f"{took} on {count} GPU{'s' * (count > 1)}")
    lines.append(f"longest path, waiting in queues aside: {', '.join(longest)}")
    return lines


def _cap_lines(workload: Workload, needs: Iterable[Job], limits: Sequence[Limit]) -> list[str]:
    capped = [
        job for job in needs if job.rule in GPU_RULES and request(workload, job, 1, limits).capped
    ]
    if not capped:
        return []
    counts = Counter(job.rule for job in capped)
    each = ", ".join(f"{count} of {rule}" for rule, count in counts.items())
    advice = ""
    if any(rounds.split(job.stage)[0] == rounds.SEARCH for job in capped):
        advice = "; raise stages.search.shards"
    return [f"more than the cluster's partitions allow: {each}: they get the limit{advice}"]


def _total_line(workload: Workload, needs: Iterable[Job]) -> str:
    seconds = {
        rules: _total(workload, (job for job in needs if job.rule in rules))
        for rules in (("evaluate_task",), ("measure_exl2", "quantize_exl2"))
    }
    scoring, quantizing = seconds.values()
    if scoring is None:
        first = (
            "predicted time: unknown (give --tokens-per-second, planning.gpu_tflops and "
            "models.*.shapes, or download)"
        )
    else:
        took = f"{_at_most(workload)}{duration(scoring)}"
        first = f"predicted: {took} of scoring ({_sources(workload)})"
    parts = [first]
    if quantizing:
        parts.append(f"{duration(quantizing)} of quantizing")
    parts.append(f"{_rows(workload) * BYTES_PER_ROW / 1e6:.1f} MB of scores")
    if models := sum(_disk(workload, model) for model in workload.experiment.models):
        parts.append(f"{models / GB:.1f} GB of models")
    return ", ".join(parts)


def _total(workload: Workload, chosen: Iterable[Job]) -> float | None:
    seconds = [workload.seconds(job) for job in chosen]
    return None if None in seconds else _sum(seconds)


def _sum(seconds: Iterable[float | None]) -> float:
    return sum(value or 0.0 for value in seconds)


def _at_most(workload: Workload) -> str:
    """What a race drops, and when, is not known before it is run."""
    return "at most " if workload.experiment.raced else ""


def _sources(workload: Workload) -> str:
    """Where the speeds are from."""
    found = (
        workload.speed(model, quantization, "search")
        for model, quantization in workload.experiment.cells
    )
    return "; ".join(dict.fromkeys(f"speed {speed.source}" for speed in found if speed))


def _rows(workload: Workload) -> int:
    """Of scores, at all stages."""
    return sum(
        _plans(workload, model, stage)
        * sum(workload.documents(model, t.name, stage).count for t in workload.tasks(stage))
        * len(workload.experiment.stage_quantizations(stage, model))
        for model in workload.experiment.models
        for stage in STAGES
    )


def _plans(workload: Workload, model: str, stage: str) -> int:
    return sum(
        workload.plans(model, stage, shard).count for shard in workload.stage_shards(model, stage)
    )


def _disk(workload: Workload, model: str) -> int:
    """Bytes of the weights that are evaluated, and of those that they are made from."""
    settings = workload.model(model)
    return sum(
        row.disk
        for row in workload.cells(model).values()
        if row.evaluated or (settings.to_quantize and row.quantization == NONE.text)
    )


def duration(seconds: float) -> str:
    """In a fitting unit: "80 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
