"""The sweep as a job of the workflow runs it, timed; and what its time goes into."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.speed.peak import Peaks, least_seconds
from benchmarks.speed.setting import (
    Setting,
    memory,
    reset_peak_memory,
    return_freed_memory,
    timed,
)
from benchmarks.speed.spies import Spies, profile
from frankenlab.config.experiment import TASKS_FOLDER
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate.model_spec import DEFAULT_TOKEN_BUDGET
from frankenlab.evaluate.runner import evaluate
from frankenlab.evaluate.store import Store
from frankenlab.plans.plan import Plan
from frankenlab.plans.trie import layer_passes, plan_trie
from frankenlab.runtime import job
from frankenlab.tasks.encoding import encoder_of
from frankenlab.tasks.task import Document, EvaluationTask


class Ours:
    """A loaded model; `load_seconds` is what loading it took."""

    def __init__(self, model: Path, precision: str = "bfloat16", device: str = "cpu") -> None:
        job._keep_freed_memory()
        self.directory = model
        self.load_seconds, self.engine = timed(lambda: TorchEngine(model, precision, device))
        self.encoder = encoder_of(model)
        self.precision = precision

    def sweep(
        self,
        plans: Sequence[Plan],
        task: EvaluationTask,
        documents: Sequence[Document],
        root: Path,
        budget: int = DEFAULT_TOKEN_BUDGET,
    ) -> pd.DataFrame:
        """The table of scores; the store below `root` is empty before it."""
        store = Store(root, {"task": task.settings.name, "precision": self.precision})
        make_engine, make_encoder = lambda: self.engine, lambda: self.encoder
        return evaluate(make_engine, make_encoder, plans, task, documents, store, budget)


def load_task(setting: Setting, name: str) -> tuple[EvaluationTask, list[Document]]:
    task = EvaluationTask(setting.task(name), TASKS_FOLDER)
    return task, task.documents(task.indices(None, setting.limit(name)))


def run_sweeps(setting: Setting, grid: str) -> dict[str, Any]:
    """Every task's sweep of a grid, and what its matrix products alone would take."""
    plans = setting.grid(grid)
    passes = layer_passes(plan_trie(plans))
    ours = Ours(setting.model)
    return {
        "load_seconds": ours.load_seconds,
        "plans": [plan.text for plan in plans],
        "passes": passes,
        "tasks": {name: _one_task(setting, ours, plans, name) for name in setting.tasks},
    }


def _one_task(setting: Setting, ours: Ours, plans: Sequence[Plan], name: str) -> dict[str, Any]:
    task_seconds, (task, documents) = timed(lambda: load_task(setting, name))
    peaks = Peaks(ours.directory, ours.engine.dtype)
    return_freed_memory()
    before = memory()["now"]
    reset_peak_memory()
    with tempfile.TemporaryDirectory() as root, Spies(ours.engine, peaks) as spies:
        seconds, table = timed(lambda: ours.sweep(plans, task, documents, Path(root)))
        written = sum(p.stat().st_size for p in Path(root).rglob("*") if p.is_file())
    highest, found, metric = memory()["peak"], spies.found(), task.settings.metric
    return {
        "task_seconds": task_seconds,
        "seconds": seconds - peaks.paused,
        "least_seconds": least_seconds(setting.model, peaks.found(), found),
        "peaks": peaks.found(),
        "documents": len(documents),
        "memory_before": before,
        "memory_peak": highest,
        "bytes_written": written,
        "metric": metric,
        "means": {plan: float(rows[metric].mean()) for plan, rows in table.groupby("plan")},
        **found,
    }


def run_split(setting: Setting, grid: str) -> dict[str, Any]:
    """What the time of each task's sweep goes into, beside the machine's matrix peak."""
    plans = setting.grid(grid)
    ours = Ours(setting.model)
    tasks = {}
    for name in setting.tasks:
        task, documents = load_task(setting, name)

        def sweep(task: EvaluationTask = task, documents: list[Document] = documents) -> None:
            with tempfile.TemporaryDirectory() as root:
                ours.sweep(plans, task, documents, Path(root))

        sweep()
        peaks = Peaks(ours.directory, ours.engine.dtype)
        with Spies(ours.engine, peaks) as spies:
            plain, _ = timed(sweep)
        tasks[name] = {
            "plain_seconds": plain - peaks.paused,
            **spies.found(),
            "peaks": peaks.found(),
            **profile(ours.engine, sweep),
        }
    return {"threads": torch.get_num_threads(), "plans": len(plans), "tasks": tasks}
