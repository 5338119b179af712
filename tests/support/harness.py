"""What lm-eval itself finds for a model, beside the scores of `evaluate`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from frankenlab.config.experiment import TASKS_FOLDER
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate.runner import evaluate
from frankenlab.evaluate.store import Store
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.plans.plan import Plan
from frankenlab.tasks.encoding import encoder_of
from frankenlab.tasks.index import TaskSettings, task_file
from frankenlab.tasks.task import EvaluationTask
from tests.support.models import load_hf


def scores_of(directory: Path, plans: Sequence[Plan], task: EvaluationTask, store: Store, **more):
    """The table of `evaluate` on a task's documents, in float32. `more` may hold a `limit` and
    another `engine` (a function that makes it), and is else handed on."""
    make_engine = more.pop("engine", lambda: TorchEngine(directory, "float32"))
    documents = task.documents(task.indices(None, more.pop("limit", None)))
    return evaluate(
        make_engine, lambda: encoder_of(directory), plans, task, documents, store, **more
    )


def reference_config(settings: TaskSettings, folder: Path) -> dict[str, Any]:
    """A task as lm-eval alone would load it: its YAML, the file read by `datasets` itself."""
    file = settings.data_file
    kind = file.name.removesuffix(".gz").rpartition(".")[2]
    data = {"data_files": {settings.split: str(file)}, "cache_dir": str(folder / "cache")}
    return load_yaml(task_file(settings.task, TASKS_FOLDER)) | {
        "dataset_path": {"jsonl": "json"}.get(kind, kind),
        "dataset_name": None,
        "dataset_kwargs": data,
        "training_split": None,
        "validation_split": settings.split,
        "test_split": None,
        **settings.overrides,
    }


def harness_results(
    directory: Path,
    settings: Sequence[TaskSettings],
    folder: Path,
    limit: int,
    softmax_dtype: str | None = None,
) -> dict[str, tuple[dict[str, float], list[list[tuple[float, bool | None]]]]]:
    """What lm-eval itself finds for a model directory, in float32.

    Returns:
        Task name -> its metrics by name, and for each document the (log-likelihood, is greedy) of
        each request, in lm-eval's order (is greedy None for rolling requests, which have none).
    """
    harness = HFLM(
        pretrained=load_hf(directory),
        tokenizer=load_tokenizer(directory),
        batch_size=8,
        softmax_dtype=softmax_dtype,
    )
    found = simple_evaluate(
        harness,
        tasks=[reference_config(task, folder) for task in settings],
        task_manager=TaskManager(include_defaults=False),
        limit=limit,
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    results = {}
    for task in settings:
        metrics = {name.removesuffix(",none"): v for name, v in found["results"][task.task].items()}
        samples = sorted(found["samples"][task.task], key=lambda sample: sample["doc_id"])
        answers = [[answer for (answer,) in sample["resps"]] for sample in samples]
        pairs = [[a if isinstance(a, tuple) else (a, None) for a in one] for one in answers]
        results[task.name] = metrics, pairs
    return results


def assert_same_scores(
    table: pd.DataFrame, answers: list[list[tuple[float, bool | None]]], tolerance: float
) -> None:
    """The rows of one plan, in order, hold those log-likelihoods and greedy flags."""
    assert len(table) == len(answers)
    for row, expected in zip(table.itertuples(), answers, strict=True):
        values = [value for value, _ in expected]
        assert row.loglikelihoods == pytest.approx(values, abs=tolerance), row.document
        for found, (_, greedy) in zip(row.is_greedy, expected, strict=True):
            assert greedy is None or found == greedy


def aggregate(table: pd.DataFrame, metric: str, kind: str) -> float:
    """A metric over the documents of a table of scores, by the rule that `metrics` documents."""
    if kind == "mean":
        return table[metric].mean()
    weights = table[f"{metric}_weight"]
    values = np.log(table[metric]) if kind == "perplexity" else table[metric]
    mean = (weights.replace(0, 1) * values).sum() / weights.sum()
    return math.exp(mean) if kind == "perplexity" else mean
