"""Frankenlab's answer to a case, found as its commands find it."""

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd

from frankenlab.evaluate import runner as evaluation
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.io.errors import UserError
from frankenlab.models.directory import model_shape
from frankenlab.models.export import materialize
from frankenlab.plans.plan import Plan, parse
from frankenlab.tasks.index import TaskSettings

from .answers import Answers, Crash, Document, Refusal
from .specs import Case
from .tasks_of import NAME

PACKAGE = str(Path(evaluation.__file__).parents[1])


def score(
    case: Case, model: Path, folder: Path, settings: dict[str, Any]
) -> Answers | Refusal | Crash:
    """Return the scores of the case's plan on all documents of the task in `folder`."""

    def work() -> Answers:
        n_layers = model_shape(model).n_layers
        plan, *beside = (parse(text, n_layers) for text in (case.plan, *case.beside))
        if case.earlier and beside:
            _table(case, model, beside, folder, settings)
        table = _table(case, model, [plan, *beside], folder, settings)
        metrics = list(table.columns[list(table.columns).index("target") + 1 :])
        rows = {}
        for row in table[table["plan"] == plan.text].to_dict("records"):
            pairs = tuple(zip(row["loglikelihoods"], row["is_greedy"], strict=True))
            rows[row["document"]] = Document(pairs, {name: row[name] for name in metrics})
        return Answers(rows)

    return attempt(work)


def _table(
    case: Case, model: Path, plans: list[Plan], folder: Path, settings: dict[str, Any]
) -> pd.DataFrame:
    task = TaskSettings(name=NAME, task=NAME, role="guard", **settings)
    spec = replace(ModelSpec.for_directory(model, "float32", "cpu"), token_budget=case.budget)
    unique = list(dict.fromkeys(plans))
    with patch.object(evaluation, "TASKS_FOLDER", folder / "tasks"):
        return evaluation.evaluate_task(spec, unique, task, None, case.limit, folder / "store")


def export(model: Path, plan: str, target: Path) -> Path | Refusal | Crash:
    """Write the plan as a checkpoint of its own."""

    def work() -> Path:
        materialize(model, parse(plan, model_shape(model).n_layers), target)
        return target

    return attempt(work)


def attempt(work):  # noqa: ANN001, ANN201
    """Return what the work returns, or how it ended."""
    try:
        return work()
    except UserError as error:
        return Refusal(str(error))
    except Exception as error:  # of any kind: that is what is looked for
        frames = [f for f in traceback.extract_tb(error.__traceback__) if PACKAGE in f.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "elsewhere"
        trace = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
        return Crash(f"{type(error).__name__} in {where}", f"{error} ({trace})")
