"""The jobs that a run from nothing consists of, what each waits for, and when the last one ends."""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence

from frankenlab.estimate.workload import STAGES, Job, Workload
from frankenlab.models.quantization import NONE

# Rules whose jobs ask for a GPU where the experiment's device is one.
GPU_RULES = ("evaluate_task", "measure_cost", "measure_exl2", "quantize_exl2")


def jobs(workload: Workload) -> dict[Job, tuple[Job, ...]]:
    """Every job of a run from nothing -> the jobs it waits for, which come before it.

    Those of the rule `all` and of checkpoints that are made on request are not among them.
    """
    experiment = workload.experiment
    data = tuple(Job("download_data", task=name) for name in experiment.data)
    found: dict[Job, tuple[Job, ...]] = dict.fromkeys(data, ())
    ends: list[Job] = []
    for model in experiment.models:
        found |= _model_jobs(workload, model, data)
        ends += [job for job in found if job.model == model]
    tables = Job("tables")
    found[tables] = tuple(ends)
    figures = _figures(workload)
    found |= dict.fromkeys(figures, (tables,))
    resources, provenance = Job("resources"), Job("provenance")
    found[resources] = (tables,)
    found[provenance] = (tables,)
    found[Job("render_notebook")] = (*figures, resources, provenance)
    return found


def _model_jobs(workload: Workload, model: str, data: Sequence[Job]) -> dict[Job, tuple[Job, ...]]:
    experiment, settings = workload.experiment, workload.model(model)
    download, measure = Job("download_model", model), Job("measure_exl2", model)
    found: dict[Job, tuple[Job, ...]] = {download: ()}
    weights = {NONE.text: download}
    if settings.to_quantize:
        found[measure] = (download, *data)
    for name in settings.to_quantize:
        weights[name] = Job("quantize_exl2", model, name)
        found[weights[name]] = (measure,)
    chosen: tuple[Job, ...] = ()
    for stage in STAGES:
        compared = []
        for name in experiment.stage_quantizations(stage, model):
            first = Job("construct_frankens", model, name, stage)
            scored = _scoring_jobs(workload, first, (download, *chosen), (weights[name], *data))
            found |= scored
            compared.append(Job("aggregate", model, name, stage))
            found[compared[-1]] = tuple(scored)
            if stage == "confirm":
                found[Job("measure_cost", model, name)] = (first, weights[name])
        if stage != "confirm":
            # The franken is chosen at the reference.
            chosen = (Job("shortlist" if stage == "search" else "freeze", model),)
            found[chosen[0]] = (compared[0],)
    return found


def _scoring_jobs(
    workload: Workload, first: Job, planned: tuple[Job, ...], ready: tuple[Job, ...]
) -> dict[Job, tuple[Job, ...]]:
    """A stage at one quantization; each round of a race waits until the one before is judged.

    Args:
        first: of the stage's jobs, with shard 0.
        planned: what the plans of the stage wait for.
        ready: what scoring waits for besides its plans.
    """
    found: dict[Job, tuple[Job, ...]] = {}
    *judged, last = workload.experiment.evaluations(first.stage)
    for name in (*judged, last):
        scores = []
        for shard in workload.stage_shards(first.model, name):
            constructed = first._replace(stage=name, shard=shard)
            found[constructed] = planned
            for task in workload.tasks(name):
                scores.append(constructed._replace(rule="evaluate_task", task=task.name))
                found[scores[-1]] = (constructed, *ready)
        if name in judged:
            race = Job("race", first.model, stage=name)
            found[race] = tuple(scores)
            planned = (*planned, race)
    return found


def _figures(workload: Workload) -> tuple[Job, ...]:
    models = workload.experiment.models.values()
    return (
        *(Job("plot_search", model.name, model.reference) for model in models),
        *(Job("plot_confirm", *cell) for cell in workload.experiment.cells),
        *(Job("plot_bits", model.name) for model in models if len(model.quantizations) > 1),
    )


def on_gpu(workload: Workload, job: Job) -> bool:
    """Whether a job asks for a GPU."""
    return workload.experiment.raw["device"] == "cuda" and job.rule in GPU_RULES


def length(
    needs: Mapping[Job, Iterable[Job]],
    seconds: Callable[[Job], float],
    takes_gpu: Callable[[Job], bool],
    gpus: int | None = None,
) -> float:
    """Seconds until the last job ends when each starts as soon as it can, first come first served.

    Args:
        needs: job -> the jobs it waits for.
        gpus: how many there are, for the jobs that take one; None for as many as are wanted.
    """
    order = {job: number for number, job in enumerate(needs)}
    waits = {job: set(before) for job, before in needs.items()}
    after: dict[Job, list[Job]] = {job: [] for job in needs}
    for job, before in waits.items():
        for other in before:
            after[other].append(job)
    ready = {job: 0.0 for job in needs}
    queue = [(0.0, order[job], job) for job, before in waits.items() if not before]
    free = [0.0] * (gpus or 0)
    last = 0.0
    while queue:
        start, _, job = heapq.heappop(queue)
        end = start + seconds(job)
        if gpus is not None and takes_gpu(job):
            end = max(start, free[0]) + seconds(job)
            heapq.heapreplace(free, end)
        last = max(last, end)
        for other in after[job]:
            ready[other] = max(ready[other], end)
            waits[other].discard(job)
            if not waits[other]:
                heapq.heappush(queue, (ready[other], order[other], other))
    return last
