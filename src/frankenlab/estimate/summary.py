"""The grid, what it will cost and what is left of it to do, in words."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from frankenlab.config.cards import CARDS, Card
from frankenlab.config.stages import SEARCH, Stage
from frankenlab.estimate.by_card import card_lines, gpu_hours, hours_by_model
from frankenlab.estimate.jobs import SCORING_RULES, Job, PlannedJob
from frankenlab.estimate.memory import Requirements, requirements
from frankenlab.estimate.resources import Limit, Prediction, resources
from frankenlab.estimate.throughput import quantizing_seconds
from frankenlab.estimate.work import STAGES, local_directory
from frankenlab.models.memory import GB
from frankenlab.models.quantization import NONE
from frankenlab.tasks.index import TaskSettings

# A row of the store, compressed: plan text, two hashes, a few floats.
BYTES_PER_ROW = 60


def grid_summary(prediction: Prediction) -> str:
    """Return the grid in numbers, with the memory, time and disk of a run from nothing and the
    verdicts that it can reach: what can be said without the workflow."""
    # Imported here: scipy takes a second, and every process of a workflow imports this module.
    from frankenlab.estimate.reach import reach_lines

    lines = [f"experiment {prediction.experiment.name}"]
    for model in prediction.experiment.models:
        lines += _grid_lines(prediction, model)
        lines += _requirement_lines(prediction, model)
        lines += [
            _stage_line(prediction, model, stage, quantization, tasks, name)
            for stage, quantization, tasks, name in _runs(prediction, model)
        ]
        lines += reach_lines(prediction.workload, model)
    return "\n".join([*lines, _total_line(prediction)])


def jobs_summary(
    prediction: Prediction,
    jobs: Sequence[PlannedJob],
    gpus: Sequence[int] = (),
    limits: Sequence[Limit] = (),
    cards: Sequence[Card] = (),
) -> str:
    """Return which of the workflow's jobs are left to do, and how long these take.

    Args:
        gpus: numbers of GPUs for which the run's length is wanted.
        limits: of the cluster's partitions, where it is known.
        cards: GPUs that are to be compared; without them the config's.
    """
    seconds = [prediction.seconds(each.job) for each in jobs]
    left = [place for place, each in enumerate(jobs) if each.left]
    lines = [f"jobs: {len(jobs)}, {len(left) or 'none'} left to do"]
    for rule, count in Counter(each.job.rule for each in jobs).most_common():
        own = [place for place, each in enumerate(jobs) if each.job.rule == rule]
        lines.append(_rule_line(jobs, seconds, own, f"  {rule}: {count} in all"))
    if behind := Counter(each.job.rule for each in jobs if each.follows_choice):
        named = ", ".join(f"{rule} {count}" for rule, count in behind.most_common())
        lines.append(
            f"{behind.total()} of those left run only if other plans are chosen than before "
            f"({named})"
        )
    if any(seconds[place] is None for place in left):
        lines.append("time of what is left: unknown")
    elif left:
        lines += _time_lines(prediction, jobs, [value or 0.0 for value in seconds], gpus)
    why = _no_answer(prediction, jobs)
    if gpus and why:
        lines.append(f"on {', '.join(map(str, gpus))} GPU{'s' * (gpus != [1])}: {why}")
    if cards and why:
        lines.append(f"on {', '.join(card.name for card in cards)}: {why}")
    if not why:
        lines += card_lines(prediction, jobs, cards or _own_cards(prediction), _at_most(prediction))
    return "\n".join([*lines, *_cap_lines(prediction, jobs, limits)])


def _own_cards(prediction: Prediction) -> list[Card]:
    return [CARDS[name] for name in prediction.experiment.settings.planning.cards]


def _no_answer(prediction: Prediction, jobs: Sequence[PlannedJob]) -> str:
    """Return why nothing is said of GPUs, or "" where something is."""
    left = [each for each in jobs if each.left]
    device = prediction.experiment.settings.device
    if not left:
        return "nothing is left to do"
    if device != "cuda":
        return f"no job takes one, since the experiment has device: {device}"
    if not any(each.runs_model for each in left):
        return "no job that is left takes one"
    unknown = any(prediction.seconds(each.job) is None for each in left)
    return "unknown, because the time of some jobs is unknown" if unknown else ""


def _grid_lines(prediction: Prediction, model: str) -> list[str]:
    work, n_layers = prediction.workload.grid(model), prediction.workload.model(model).n_layers
    unshared, passes = work.whole.unshared, work.whole.passes
    groups = Counter(item.group for item in work.grid.plans)
    made = ", ".join(f"{count} {group}" for group, count in groups.items())
    lines = [
        f"model {model}: {work.whole.count} plans ({made}), {len(work.grid.folded)} duplicates "
        "folded",
        f"  layer passes a token: {unshared:.0f} without sharing, {passes:.0f} with "
        f"({unshared / passes:.1f} times fewer), {passes / n_layers:.1f} times the base",
    ]
    if beam := prediction.experiment.beam:
        lines.append(
            f"  the search grows at most {beam.steps * beam.most} more, {beam.most} in each of "
            f"{beam.steps} steps from the best {beam.width}"
        )
    if len(work.shards) > 1:
        largest = max(s.passes for s in work.shards.values()) * len(work.shards) / passes
        lines.append(f"  {len(work.shards)} shards, the largest {largest:.2f} times their mean")
    return lines


def _requirement_lines(prediction: Prediction, model: str) -> list[str]:
    """Return size, memory and making of each quantization."""
    found, settings = requirements(prediction.workload, model), prediction.workload.model(model)
    seconds = quantizing_seconds(prediction.experiment, settings)
    local = local_directory(settings)
    if seconds is None and local and not local.exists():
        return [f"  size and memory: unknown, since there is no {local}"]
    if seconds is None:
        return ["  size and memory: unknown before the download (models.*.shapes would tell)"]
    lines = []
    if settings.to_quantize:
        quantizer = prediction.experiment.quantizer
        lines.append(
            f"  measured once for EXL2 (quantizer: {quantizer}), about {duration(seconds.measure)}"
        )
    for each in found.values():
        making = each.quantization in settings.to_quantize
        made = f", about {duration(seconds.quantize)} to make" if making else ""
        lines.append(_requirement_line(prediction, each) + made)
    return lines


def _requirement_line(prediction: Prediction, needed: Requirements) -> str:
    fits = {True: ": fits", False: ": DOES NOT FIT", None: ""}[needed.fits]
    limit = f" of {prediction.experiment.settings.gpu_memory_gb:g} GB" if fits else ""
    aside = "" if needed.evaluated else " (not evaluated)"
    return (
        f"  {needed.quantization}{aside}: {needed.disk / GB:.1f} GB on disk, {needed.engine} needs "
        f"at most {needed.needs}{limit}{fits}"
    )


def _runs(
    prediction: Prediction, model: str
) -> Iterator[tuple[Stage, str, list[TaskSettings], str]]:
    """Return each stage of a model with a quantization, its tasks, and its name: confirm also under
    other prompts, at the reference."""
    workload, experiment = prediction.workload, prediction.experiment
    for stage in STAGES:
        for quantization in experiment.stage_quantizations(stage, model):
            yield stage, quantization, workload.tasks(stage), str(stage)
        if variants := workload.variants(stage):
            reference = experiment.models[model].reference
            yield stage, reference, variants, f"{stage} under other prompts"


def _stage_line(
    prediction: Prediction,
    model: str,
    stage: Stage,
    quantization: str,
    tasks: Sequence[TaskSettings],
    name: str,
) -> str:
    workload, experiment = prediction.workload, prediction.experiment
    documents = [workload.documents(model, t.name, stage) for t in tasks]
    seconds = _scoring_seconds(prediction, model, stage, quantization, tasks)
    note = " (assumed: data not downloaded yet)" if any(d.assumed for d in documents) else ""
    about = "at most" if len(experiment.rounds(stage.name)) > 1 else "about"
    took = "time unknown" if seconds is None else f"{about} {duration(seconds)}"
    counts = [_plans(prediction, model, stage, quantization, task.name) for task in tasks]
    fewest, controls = min(counts), max(counts) - min(counts)
    more = f" (and {controls} controls on the search tasks)" if controls else ""
    return (
        f"  {name} at {quantization}: {fewest} plans{more} x {sum(d.count for d in documents)} "
        f"documents, {sum(d.tokens for d in documents)} tokens{note}, {took}"
    )


def _scoring_seconds(
    prediction: Prediction,
    model: str,
    stage: Stage,
    quantization: str,
    tasks: Sequence[TaskSettings],
) -> float | None:
    """Return the seconds of a stage's jobs one after the other; None if they are unknown. Other
    prompts are scored by the jobs that score the tasks themselves, and start nothing."""
    experiment, workload = prediction.experiment, prediction.workload
    jobs = [
        Job(SCORING_RULES[0], model, quantization, each, shard=shard)
        for each in experiment.rounds(stage.name)
        for shard in workload.shards(model, each)
    ]
    starts = 0 if tasks[0].name in experiment.variants else sum(map(prediction.start, jobs))
    return _sum(
        [starts, *(prediction.scoring(replace(job, task=t.name)) for job in jobs for t in tasks)]
    )


def _total_line(prediction: Prediction) -> str:
    experiment = prediction.experiment
    scoring = _sum(
        _scoring_seconds(prediction, model, stage, quantization, tasks)
        for model in experiment.models
        for stage, quantization, tasks, _ in _runs(prediction, model)
    )
    if scoring is None:
        first = (
            "predicted time: unknown (give tokens per second, planning.cards and "
            "models.*.shapes, or download)"
        )
    else:
        took = f"{_at_most(prediction)}{duration(scoring)}"
        first = f"predicted: {took} of scoring from nothing ({_sources(prediction)})"
    parts = [first]
    if quantizing := sum(_quantizing_seconds(prediction, model) for model in experiment.models):
        parts.append(f"{duration(quantizing)} of quantizing")
    parts.append(f"{_rows(prediction) * BYTES_PER_ROW / 1e6:.1f} MB of scores")
    if models := sum(_disk(prediction, model) for model in experiment.models):
        parts.append(f"{models / GB:.1f} GB of models")
    return ", ".join(parts)


def _quantizing_seconds(prediction: Prediction, model: str) -> float:
    bitrates = prediction.workload.model(model).to_quantize
    seconds = [prediction.seconds(Job("quantize_exl2", model, each)) or 0.0 for each in bitrates]
    return sum(seconds) + (prediction.seconds(Job("measure_exl2", model)) or 0.0) * bool(bitrates)


def _sum(values: Iterable[float | None]) -> float | None:
    """Return a sum, or None where a part of it is unknown."""
    found = list(values)
    return None if None in found else sum(value or 0.0 for value in found)


def _at_most(prediction: Prediction) -> str:
    """Return "at most " where the search may drop or grow plans: how many is not known before it is
    run."""
    return "at most " if len(prediction.experiment.rounds(SEARCH)) > 1 else ""


def _sources(prediction: Prediction) -> str:
    """Return where the speeds are from."""
    cells = prediction.experiment.cells
    found = [
        prediction.speeds.of(model, quantization, Stage(SEARCH)) for model, quantization in cells
    ]
    return "; ".join(dict.fromkeys(f"speed {speed.source}" for speed in found if speed))


def _rows(prediction: Prediction) -> int:
    """Return the number of rows of scores that the stages make."""
    workload, experiment = prediction.workload, prediction.experiment
    return sum(
        _plans(prediction, model, stage, quantization, task.name)
        * workload.documents(model, task.name, stage).count
        for model in experiment.models
        for stage, quantization, tasks, _ in _runs(prediction, model)
        for task in tasks
    )


def _plans(prediction: Prediction, model: str, stage: Stage, quantization: str, task: str) -> int:
    """Return how many plans a stage runs on a task."""
    jobs = (
        Job(SCORING_RULES[0], model, quantization, stage, shard=shard)
        for shard in prediction.workload.shards(model, stage)
    )
    return sum(prediction.plans(job, stage, task).count for job in jobs)


def _disk(prediction: Prediction, model: str) -> int:
    """Return the bytes of the weights that are evaluated, and of those that they are made from."""
    made = prediction.workload.model(model).to_quantize
    return sum(
        each.disk
        for each in requirements(prediction.workload, model).values()
        if each.evaluated or (made and each.quantization == NONE.text)
    )


def _rule_line(
    jobs: Sequence[PlannedJob], seconds: Sequence[float | None], own: Sequence[int], start: str
) -> str:
    """Return how many jobs of a rule are left with their seconds, and what the others took."""
    left = [seconds[place] for place in own if jobs[place].left]
    measured = [place for place in own if jobs[place].took is not None]
    line = f"{start}, {len(left)} left"
    if (whole := _sum(left)) is not None and left:
        longest = f", the longest {duration(max(each or 0.0 for each in left))}"
        line += f" ({duration(whole)}{longest if len(left) > 1 else ''})"
    predicted = _sum(seconds[place] for place in measured)
    if measured and predicted is not None:
        took = sum(jobs[place].took or 0.0 for place in measured)
        line += f"; {len(measured)} took {duration(took)}, predicted {duration(predicted)}"
    return line


def _time_lines(
    prediction: Prediction,
    jobs: Sequence[PlannedJob],
    seconds: Sequence[float],
    gpus: Sequence[int],
) -> list[str]:
    """Return the GPU hours of what is left, and when its last job ends."""
    at_most, on_gpu = _at_most(prediction), prediction.experiment.settings.device == "cuda"
    lines, hours = [], gpu_hours(prediction, jobs) if on_gpu else None
    if hours:
        lines.append(f"GPU hours of what is left: {hours_by_model(hours, at_most)}")
    whole = "on as many GPUs as the jobs take" if hours else "with all jobs side by side"
    longest = [f"{at_most}{duration(length(jobs, seconds))} {whole}"]
    most = max((each.gpus for each in jobs if each.left), default=1)
    for count in gpus if hours else ():
        took = duration(length(jobs, seconds, count)) if count >= most else "never"
        note = "" if count >= most else f" (a job takes {most})"
        longest.append(f"{took} on {count} GPU{'s' * (count > 1)}{note}")
    lines.append(f"longest path of what is left, waiting in queues aside: {', '.join(longest)}")
    return lines


def length(jobs: Sequence[PlannedJob], seconds: Sequence[float], gpus: int | None = None) -> float:
    """Return the seconds until the last job that is left ends, if each starts as soon as it can.

    Args:
        seconds: of each job.
        gpus: how many there are for the jobs that run a model, first come first served, at least
            what a job takes; None for as many as are wanted.
    """
    after: list[list[int]] = [[] for _ in jobs]
    waits = [0] * len(jobs)
    for place, job in enumerate(jobs):
        for other in job.needs:
            if job.left and jobs[other].left:
                after[other].append(place)
                waits[place] += 1
    queue = [(0.0, place) for place, job in enumerate(jobs) if job.left and not waits[place]]
    ready, free, last = [0.0] * len(jobs), [0.0] * (gpus or 0), 0.0
    while queue:
        start, place = heapq.heappop(queue)
        end = start + seconds[place]
        if gpus is not None and jobs[place].runs_model:
            taken = [heapq.heappop(free) for _ in range(jobs[place].gpus)]
            end = max(start, *taken) + seconds[place]
            for _ in taken:
                heapq.heappush(free, end)
        last = max(last, end)
        for other in after[place]:
            ready[other] = max(ready[other], end)
            waits[other] -= 1
            if not waits[other]:
                heapq.heappush(queue, (ready[other], other))
    return last


def _cap_lines(
    prediction: Prediction, jobs: Iterable[PlannedJob], limits: Sequence[Limit]
) -> list[str]:
    running = [each for each in jobs if each.left and each.runs_model]
    most = max((limit.gpus for limit in limits), default=0)
    if limits and (wide := [each for each in running if each.gpus > most]):
        return [
            f"more GPUs than the cluster's partitions allow a job ({most}): {len(wide)} jobs take "
            f"{max(each.gpus for each in wide)}; raise max_gpu of a partition, or they are sent to "
            "the cluster's default one"
        ]
    capped = [each.job for each in running if resources(prediction, each.job, 1, limits).capped]
    if not capped:
        return []
    counts = Counter(job.rule for job in capped)
    listed = ", ".join(f"{count} of {rule}" for rule, count in counts.items())
    advice = ""
    if any(job.stage is not None and job.stage.searches for job in capped):
        advice = "; raise stages.search.shards"
    return [f"more than the cluster's partitions allow: {listed}: they get the limit{advice}"]


def duration(seconds: float) -> str:
    """Return a time in a fitting unit: "80 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
