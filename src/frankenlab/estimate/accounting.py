"""What SLURM's accounting knows of the jobs of an experiment."""

import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

# The shell refuses longer lists of arguments, some way beyond.
IDS_AT_ONCE = 500


@dataclass(frozen=True)
class Took:
    """One run of a job: wall-clock seconds, largest resident memory in MB if known, how it ended
    ("" if only a finished run can be known), GPUs that it held."""

    seconds: float
    memory_mb: float | None
    state: str
    gpus: int


def record(results: Path, rule: str) -> None:
    """Called by a job that SLURM runs: writes its number down, for `accounted`.

    The executor removes the log files of jobs that succeed, and a retried job has another number.
    """
    if number := os.environ.get("SLURM_JOB_ID"):
        folder = results / "usage" / rule
        folder.mkdir(parents=True, exist_ok=True)
        (folder / number).touch()


def accounted(results: Path) -> dict[str, list[Took]]:
    """Rule -> every run of its jobs, ended in whatever way, from SLURM's accounting.

    Empty where no job was recorded or there is no accounting. A number of several rules is an
    allocation in which a whole workflow ran: its time is no rule's.
    """
    rules: dict[str, set[str]] = {}
    for path in sorted((results / "usage").glob("*/*")):
        rules.setdefault(path.name, set()).add(path.parent.name)
    own = {number: next(iter(names)) for number, names in rules.items() if len(names) == 1}
    found: dict[str, list[Took]] = {}
    for number, took in _sacct(list(own)):
        found.setdefault(own[number], []).append(took)
    return found


def _sacct(numbers: Sequence[str]) -> Iterator[tuple[str, Took]]:
    if not numbers or shutil.which("sacct") is None:
        return
    command = ["sacct", "--noheader", "--parsable2", "--units=M", "--duplicates"]
    command += ["--format=JobIDRaw,State,ElapsedRaw,MaxRSS,AllocTRES"]
    for start in range(0, len(numbers), IDS_AT_ONCE):
        some = ",".join(numbers[start : start + IDS_AT_ONCE])
        done = subprocess.run([*command, f"--jobs={some}"], capture_output=True, text=True)
        if done.returncode:
            return
        yield from parse_sacct(done.stdout)


def parse_sacct(text: str) -> list[tuple[str, Took]]:
    """Lines "JobIDRaw|State|ElapsedRaw|MaxRSS|AllocTRES": a job, then its steps, which alone have
    a largest memory. A job that was requeued is there once for each of its runs. Other lines (a
    cluster's own notices, a step whose job is not listed) say nothing."""
    runs: list[tuple[str, Took]] = []
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != 5 or not fields[1].strip():
            continue
        name, state, elapsed, size, resources = fields
        job, _, step = name.partition(".")
        if not step:
            # "CANCELLED by 1000"
            ended = state.split()[0]
            runs.append((job, Took(as_number(elapsed) or 0.0, None, ended, _gpus(resources))))
            continue
        if not runs or runs[-1][0] != job:
            continue
        memory, (_, took) = as_number(size.removesuffix("M")), runs[-1]
        if memory is not None:
            runs[-1] = (job, replace(took, memory_mb=max(memory, took.memory_mb or 0.0)))
    return runs


def _gpus(resources: str) -> int:
    """Of "billing=8,cpu=8,gres/gpu=1,mem=16G,node=1"."""
    each = dict(part.partition("=")[::2] for part in resources.split(","))
    return int(as_number(each.get("gres/gpu", "")) or 0)


def as_number(text: str) -> float | None:
    """A number, or None for what was too short to be measured ("", "-", "NA")."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
