"""What the jobs of an experiment took, beside what was predicted and asked for."""

import csv
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.config.experiment import Experiment
from frankenlab.estimate.accounting import Took, as_number
from frankenlab.estimate.resources import Limit, request
from frankenlab.estimate.schedule import GPU_RULES, jobs, on_gpu
from frankenlab.estimate.workload import Job, Workload

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

# Columns of the table that may be unknown.
NUMBERS = (
    *("predicted_hours", "asked_hours", "asked_mem_mb", "asked_gpu_hours"),
    *("used_hours", "used_mem_mb", "used_gpu_hours"),
)


class Expected(TypedDict):
    """What a rule's jobs are predicted to take and ask for."""

    jobs: NonNegativeInt
    predicted_hours: float | None
    asked_hours: float
    asked_mem_mb: float
    asked_gpu_hours: float


def expected(workload: Workload, limits: Sequence[Limit] = ()) -> dict[str, Expected]:
    """Rule -> jobs of a run from nothing, and what they are predicted to take and ask for at their
    first attempt; hours are None where a prediction is not known."""
    found = {}
    for rule in GPU_RULES:
        own = [job for job in jobs(workload) if job.rule == rule]
        if not own:
            continue
        seconds = [workload.seconds(job) for job in own]
        asked = [request(workload, job, 1, limits) for job in own]
        hours = sum(each.runtime for each in asked) / 60
        found[rule] = {
            "jobs": len(own),
            "predicted_hours": None if None in seconds else sum(s or 0.0 for s in seconds) / 3600,
            "asked_hours": hours,
            "asked_mem_mb": max(each.mem_mb for each in asked),
            "asked_gpu_hours": hours if on_gpu(workload, own[0]) else 0.0,
        }
    return found


def measured(experiment: Experiment, results: Path) -> dict[str, list[Took]]:
    """Rule -> the last run of each job, from Snakemake's benchmark files."""
    gpu = int(experiment.raw["device"] == "cuda")
    found: dict[str, list[Took]] = {}
    for job in jobs(Workload(experiment)):
        path = results / "benchmarks" / benchmark_file(experiment, job)
        if job.rule not in GPU_RULES or not path.is_file():
            continue
        seconds, memory = _benchmark(path)
        if seconds is None:
            log.warning("%s: damaged, so what this job took is not known", path)
            continue
        found.setdefault(job.rule, []).append(Took(seconds, memory, "", gpu))
    return found


def _benchmark(path: Path) -> tuple[float | None, float | None]:
    """Return the seconds and the MB of the last run in a benchmark file, None for what it does not
    say."""
    with path.open(newline="", encoding="utf-8", errors="replace") as handle:
        try:
            rows = list(csv.DictReader(handle, delimiter="\t"))
        except csv.Error:
            rows = []
    last = rows[-1] if rows else {}
    seconds, memory = (as_number(last.get(name) or "") for name in ("s", "max_rss"))
    return seconds, memory


def benchmark_file(experiment: Experiment, job: Job) -> Path:
    """Below the folder of benchmarks, as the rules name them."""
    parts: tuple[Any, ...] = (job.model, job.quantization)
    if job.rule == "evaluate_task":
        parts = (job.stage, *parts, job.task, job.shard)
    elif job.rule in ("measure_exl2", "quantize_exl2"):
        folder = experiment.quantized_folder(job.model)
        parts = (folder.parent.name, folder.name, job.quantization)
    return Path(job.rule, ".".join(str(part) for part in parts if part != "") + ".tsv")


def table(
    wanted: Mapping[str, Mapping[str, Any]],
    by_benchmark: Mapping[str, Sequence[Took]],
    by_accounting: Mapping[str, Sequence[Took]],
) -> "pd.DataFrame":
    """A row for each rule; where a rule is accounted for, that counts: it has retried jobs too."""
    # Imported here: every parse of the workflow reads this module.
    import pandas as pd

    rows = []
    for rule, row in wanted.items():
        accounting = bool(by_accounting.get(rule))
        took = (by_accounting if accounting else by_benchmark).get(rule, [])
        ends = Counter(each.state for each in took if each.state)
        rows.append(
            {
                "rule": rule,
                **row,
                "runs": len(took),
                "used_hours": sum(each.seconds for each in took) / 3600 if took else None,
                # Accounting samples twice a minute, Snakemake too: the larger has seen more.
                "used_mem_mb": _largest([*by_benchmark.get(rule, []), *took]),
                "used_gpu_hours": sum(each.seconds * each.gpus for each in took) / 3600
                if took
                else None,
                "ended": ", ".join(f"{state} {count}" for state, count in ends.most_common()),
                "source": ("sacct" if accounting else "benchmark") if took else "",
            }
        )
    frame = pd.DataFrame(rows, columns=None if rows else ["rule", *NUMBERS])
    # Without a single value a column would be of no type.
    return frame.astype(dict.fromkeys(NUMBERS, float))


def _largest(took: Iterable[Took]) -> float | None:
    return max((each.memory_mb for each in took if each.memory_mb is not None), default=None)
