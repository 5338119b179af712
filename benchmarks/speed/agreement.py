"""Whether the sweep's numbers are right: beside lm-eval's in float32, and bf16 beside float32."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.speed.ours import Ours, load_task
from benchmarks.speed.peers import harness, harness_task, load_model, rearranged, scored
from benchmarks.speed.setting import Setting, spread
from frankenlab.plans.plan import Plan, base

# The harness in float32 takes minutes a plan; its documents are spread over the sweep's.
HARNESS_DOCUMENTS = 20


def run_agreement(setting: Setting, grid: str) -> dict[str, Any]:
    """On the base and some plans of the grid: decisions that bf16 changes, and the largest
    difference to the harness in float32."""
    plans = list(dict.fromkeys([base(setting.n_layers), *spread(setting.grid(grid), 4)]))
    tables = {p: _tables(setting, plans, p) for p in ("bfloat16", "float32")}
    harness_plans = plans[:: len(plans) - 1]
    answers = _harness(setting, harness_plans)
    tasks = {}
    for name in setting.tasks:
        bf16, exact = tables["bfloat16"][name], tables["float32"][name]
        differ = pd.Series(_decisions(bf16) != _decisions(exact))
        by_plan = differ.groupby(exact["plan"]).mean()
        apart = _differences(bf16["loglikelihoods"], exact["loglikelihoods"])
        ours = exact.set_index(["plan", "document"])["loglikelihoods"]
        tasks[name] = {
            "pairs": len(differ),
            "decisions_that_differ": float(differ.mean()),
            "by_plan": by_plan.to_dict(),
            "bf16_largest_difference": float(apart.max()),
            "bf16_median_difference": float(np.median(apart)),
            "harness_documents": len(next(iter(answers[name].values()))),
            "harness_largest_difference": max(
                float(_differences([ours[plan, d]], [values]).max())
                for plan, documents in answers[name].items()
                for d, values in documents.items()
            ),
        }
    return {
        "plans": [p.text for p in plans],
        "harness_plans": [p.text for p in harness_plans],
        "tasks": tasks,
    }


def _tables(setting: Setting, plans: Sequence[Plan], precision: str) -> dict[str, pd.DataFrame]:
    """Each task's scores, in the same order of rows."""
    ours = Ours(setting.model, precision)
    found = {}
    for name in setting.tasks:
        task, documents = load_task(setting, name)
        with tempfile.TemporaryDirectory() as root:
            found[name] = ours.sweep(plans, task, documents, Path(root))
    return found


def _harness(
    setting: Setting, plans: Sequence[Plan]
) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Task -> plan -> document -> the log-likelihoods that the harness finds in float32."""
    model = load_model(setting.model, torch.float32)
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for name in setting.tasks:
        task, (_, documents) = harness_task(setting, name), load_task(setting, name)
        step = max(len(documents) // HARNESS_DOCUMENTS, 1)
        few = [document.index for document in documents[::step]][:HARNESS_DOCUMENTS]
        found[name] = {}
        for plan in plans:
            with rearranged(model, plan):
                lm = harness(setting, model, "float32", 1)
                answers = scored(lm, task, few, setting.task(name).metric)
            found[name][plan.text] = answers.loglikelihoods
    return found


def _decisions(table: pd.DataFrame) -> np.ndarray:
    return np.array([int(np.argmax(values)) for values in table["loglikelihoods"]])


def _differences(a: Iterable[Sequence[float]], b: Iterable[Sequence[float]]) -> np.ndarray:
    """Absolute, of every log-likelihood."""
    return np.abs(np.concatenate([np.subtract(x, y) for x, y in zip(a, b, strict=True)]))
