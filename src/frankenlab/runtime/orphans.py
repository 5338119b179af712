"""Jobs that a killed workflow left in SLURM's queue.

The names of an experiment's jobs say which results they are for. A workflow that holds the lock of
these has no jobs before it submits some. If there are jobs of that name then whose working
directory is this folder, an earlier workflow left them.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from frankenlab.io.errors import UserError, excerpt, one_line
from frankenlab.io.files import content_hash
from frankenlab.runtime import lock, places

# The executor names jobs by a prefix, an underscore and the run, which is a UUID. A job in which
# somebody runs a whole workflow has another name.
PREFIX = "frankenlab"
NAME = re.compile(rf"(?P<prefix>{PREFIX}(_.+)?)_[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}")
# A prefix that the executor takes.
WORD, LONGEST = re.compile(r"[A-Za-z0-9_-]+"), 50
# The comments that the executor gives to jobs.
COMMENT = re.compile(r"rule_(.+?)(?:_wildcards_.*)?")

# A character that is neither in comments nor in paths.
SEPARATOR = "\x1f"
FIELDS = SEPARATOR.join(("%i", "%j", "%T", "%k", "%Z"))

# SLURM's commands say this on a machine that is in no cluster.
UNCONFIGURED = "Could not establish a configuration source"

# A busy controller answers slowly, and jobs have SLURM's KillWait (30 s by default) to end.
QUERY_SECONDS, GONE_SECONDS = 60, 180
NAMED = 5


class NoAnswer(UserError):
    """SLURM is installed but does not answer."""


@dataclass(frozen=True)
class Orphan:
    """A job, or an element of a job array, in the queue; its comment names the rule."""

    prefix: str
    id: str
    rule: str
    state: str

    def __str__(self) -> str:
        return f"{self.id} ({self.rule}, {self.state.lower()})"


def job_prefix(results: str | os.PathLike) -> str:
    """Return what the names of an experiment's jobs begin with.

    Args:
        results: the folder of its results. Each has another prefix, also where experiments of one
            name have their results in several places.
    """
    place, experiment = Path(results).parent, Path(results).name
    plain = f"{PREFIX}_{experiment}"
    if WORD.fullmatch(plain) and len(plain) <= LONGEST and place == places.RESULTS:
        return plain
    told_apart = content_hash(experiment if place == places.RESULTS else str(results), length=8)
    return "".join(WORD.findall(plain))[: LONGEST - 9] + f"_{told_apart}"


def orphans(folder: str | os.PathLike, results: str | None = None) -> list[Orphan]:
    """Return this user's jobs of workflows in `folder`: those for some results, or all.

    There are none where SLURM is not installed or not configured.

    Raises:
        NoAnswer: SLURM cannot be asked now.
    """
    if shutil.which("squeue") is None:
        return []
    here = os.path.realpath(folder)
    wanted = None if results is None else job_prefix(results)
    found = []
    for identity, name, state, comment, place in _listed():
        job = NAME.fullmatch(name)
        if job is None or os.path.realpath(place) != here:
            continue
        if wanted in (None, job["prefix"]):
            rule = COMMENT.fullmatch(comment)
            found.append(
                Orphan(job["prefix"], identity, rule[1] if rule else "unknown rule", state)
            )
    return found


def _listed() -> Iterator[list[str]]:
    """Yield the fields of every job of this user in the queue.

    Some sites print other lines too, such as "CLUSTER: alpha" and notices, without separators.

    Raises:
        NoAnswer: a line has separators, but not the fields of a job.
    """
    wanted = FIELDS.count(SEPARATOR) + 1
    # str.splitlines() would also split at characters next to the separator.
    for line in _run("squeue", "--me", "--noheader", "-o", FIELDS).split("\n"):
        fields = line.strip("\r").split(SEPARATOR)
        if len(fields) == wanted:
            yield fields
        elif len(fields) > 1:
            shown = excerpt(line.replace(SEPARATOR, " "))
            raise NoAnswer(f"squeue does not list jobs as it was asked to, but as: {shown}")


def named(jobs: Sequence[Orphan]) -> str:
    """Return a text that names the first few jobs and counts the others."""
    more = f" and {len(jobs) - NAMED} more" if len(jobs) > NAMED else ""
    return ", ".join(map(str, jobs[:NAMED])) + more


def cancel(folder: str | os.PathLike, jobs: Sequence[Orphan]) -> None:
    """Cancel the jobs, and wait until the folder has none of these experiments in the queue.

    Raises:
        UserError: the cluster cannot be asked, or some jobs do not end.
    """
    # The length of a command line is limited, and there may be thousands of jobs.
    for start in range(0, len(jobs), 500):
        _run("scancel", *(job.id for job in jobs[start : start + 500]))
    left = _wait(folder, jobs)
    if left:
        raise UserError(
            f"cancelled, but still in the queue after {GONE_SECONDS} s: {named(left)}; "
            "a node may not answer: ask the cluster's administrators, or wait"
        )


def check_none(folder: str | os.PathLike, results: str) -> None:
    """Check that an earlier workflow left no jobs that write these results, after a wait for those
    that are ending.

    Raises:
        NoAnswer: as `orphans`.
        UserError: there are jobs; names them and the command that cancels them.
    """
    jobs: Sequence[Orphan] = orphans(folder, results)
    if jobs and all(job.state == "COMPLETING" for job in jobs):
        jobs = _wait(folder, jobs)
    if jobs:
        count = f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}"
        raise UserError(
            f"{count} of an earlier workflow on {results}/ in this folder: {named(jobs)}; "
            f"wait for them, or cancel them with {lock.CLEAR}"
        )


def _wait(folder: str | os.PathLike, jobs: Sequence[Orphan]) -> Sequence[Orphan]:
    """Return the jobs that are left when all have ended or the time is over.

    Elements of an array have other numbers once they run, so jobs are told by their experiments.
    """
    prefixes = {job.prefix for job in jobs}
    end = time.monotonic() + GONE_SECONDS
    while jobs and time.monotonic() < end:
        time.sleep(1)
        jobs = [job for job in orphans(folder) if job.prefix in prefixes]
    return jobs


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=QUERY_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswer(f"{command[0]} does not answer ({type(error).__name__})") from None
    if done.returncode and UNCONFIGURED not in done.stderr:
        reason = one_line(done.stderr) or f"exit status {done.returncode}"
        raise NoAnswer(f"{command[0]} failed: {reason}")
    return done.stdout
