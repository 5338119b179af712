"""List the tasks that there are, and read what their files say, without importing lm-eval."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from frankenlab.tasks.folders import harness_tasks, own_tasks

# The first metric of each output type in lm-eval, for tasks that name none.
USUAL_METRICS = {
    "multiple_choice": "acc",
    "loglikelihood": "acc",
    "loglikelihood_rolling": "word_perplexity",
}

# How lm-eval aggregates what can be compared document by document.
COMPARED = ("mean", "perplexity", "weighted_perplexity", "bits_per_byte", None)


def files_of_tasks(own: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the tasks in the folder `own` and those of lm-eval, with their files."""
    return own_tasks(own).tasks, harness_tasks().tasks


def matching_tasks(pattern: str, own: Path) -> dict[str, Path]:
    """Return the tasks, the folder's and lm-eval's, whose names hold a text or match a pattern
    such as `arc_*`, with their files."""
    if not any(character in pattern for character in "*?["):
        pattern = f"*{pattern}*"
    ours, theirs = files_of_tasks(own)
    return {n: path for n, path in sorted((theirs | ours).items()) if fnmatchcase(n, pattern)}


def usual_metric(keys: Mapping[str, Any]) -> str:
    """Return the first metric of a task that can be compared document by document, by its keys."""
    named = keys.get("metric_list")
    entries = [m for m in named if isinstance(m, Mapping)] if isinstance(named, list) else []
    for entry in entries:
        if entry.get("aggregation") in COMPARED:
            return str(entry.get("metric"))
    return USUAL_METRICS.get(str(keys.get("output_type")), "acc")
