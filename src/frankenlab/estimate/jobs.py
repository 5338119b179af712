"""The jobs of an experiment's workflow: which there are, what they wait for, and which are left."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frankenlab.config.experiment import Experiment
from frankenlab.config.stages import Stage

# The rules whose jobs quantize a model, which one GPU does layer by layer.
QUANTIZING_RULES = ("measure_exl2", "quantize_exl2")
# The rules whose jobs score plans, on all tasks of a stage.
SCORING_RULES = ("evaluate", "confirm", "confirm_prompts")

# Those that choose plans.
CHOICES = ("shortlist", "freeze")


@dataclass(frozen=True)
class Job:
    """A job of the workflow, by its rule and as many of these wildcards as it has; or the part of
    one that scores a single task."""

    rule: str
    model: str = ""
    quantization: str = ""
    stage: Stage | None = None
    task: str = ""
    shard: int = 0


@dataclass(frozen=True)
class PlannedJob:
    """A job in the graph of a workflow.

    Attributes:
        needs: the places in the graph of the jobs that it waits for, all before its own.
        runs_model: whether it takes a GPU where the experiment's device is one.
        left: whether it has yet to run.
        took: seconds of its last run if it is done, as Snakemake measured them.
        gpus: how many it takes.
        follows_choice: whether it will not run after all, if the plans that are chosen again are
            the same as before.
    """

    job: Job
    needs: tuple[int, ...]
    runs_model: bool
    left: bool
    took: float | None = None
    gpus: int = 1
    follows_choice: bool = False


def gpus_of(experiment: Experiment, job: Job) -> int:
    """Return how many GPUs a job takes that runs a model; a quantizer takes one."""
    if job.rule in QUANTIZING_RULES:
        return 1 if experiment.settings.device == "cuda" else 0
    return experiment.gpus(job.model, job.quantization)


def job_of(experiment: Experiment, rule: str, wildcards: Mapping[str, str]) -> Job:
    """Return a job of a rule with these wildcards; `folder` is a model's below resources/."""
    model, quantization = (wildcards.get(x, "") for x in ("model", "quantization"))
    for settings in experiment.models.values():
        if settings.folder == wildcards.get("folder"):
            model = settings.name
    text = wildcards.get("stage")
    stage = Stage.parse(text) if text else None
    return Job(rule, model, quantization, stage, shard=int(wildcards.get("shard", 0)))


def planned_jobs(experiment: Experiment, dag: Any, names: Mapping[str, str]) -> list[PlannedJob]:
    """Return the jobs of the graph that Snakemake has built, each after those that it waits for.

    Args:
        dag: Snakemake's `workflow.dag`.
        names: Snakemake's name of a rule -> ours. A module's rules can be renamed, and other rules
            stand beside them.
    """
    found: list[PlannedJob] = []
    places: dict[Any, int] = {}
    for level in dag.toposorted():
        # A job without output is a target, which does nothing.
        jobs = [job for job in level if job.output and job.rule.name in names]
        for job in sorted(jobs, key=lambda job: (job.rule.name, *job.wildcards)):
            left, own = dag.needrun(job), job_of(experiment, names[job.rule.name], job.wildcards)
            needs = tuple(places[other] for other in dag.dependencies[job] if other in places)
            runs_model = "gpu" in job.rule.resources
            places[job] = len(found)
            found.append(
                PlannedJob(
                    own,
                    needs,
                    runs_model,
                    left,
                    None if left or not job.benchmark else _benchmark(Path(job.benchmark)),
                    gpus_of(experiment, own) if runs_model else 0,
                    left and _only_follows(dag.reason(job), [found[place] for place in needs]),
                )
            )
    return found


def _only_follows(reason: Any, needs: Sequence[PlannedJob]) -> bool:
    """Tell whether a job is to run only because plans are chosen again."""
    own = reason.updated_input or reason.missing_output or reason.incomplete_output
    if own or reason.forced or reason.is_provenance_triggered():
        return False
    left = [each for each in needs if each.left]
    return all(each.follows_choice or each.job.rule in CHOICES for each in left) and bool(left)


def _benchmark(path: Path) -> float | None:
    """Return the seconds in a benchmark file of Snakemake; None if it is missing or damaged."""
    with suppress(OSError, ValueError, IndexError):
        seconds = float(path.read_text(encoding="utf-8").splitlines()[-1].split("\t")[0])
        return seconds if math.isfinite(seconds) else None
    return None
