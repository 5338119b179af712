"""Score every plan of a grid on every document: what a racing search is replayed on.

All 465 blocks [start, stop) of SmolLM2-135M, run twice, with the base, on the first documents of
ARC-Easy and SST-2, in bfloat16: this takes about an hour on 2 cores, and a kill loses the batch in
hand. The file keeps whether each plan is right on each document and by how much, and how long the
document is, but nothing of its text.

    python benchmarks/exhaustive.py --output benchmarks/data/exhaustive.npz

The documents of the search stage come first. There are fewer than 300 of ARC-Easy, so those of
select and confirm follow: the file is for measuring a method of search, not for choosing a plan.
"""

import argparse
import logging
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from frankenlab.config import experiment as config
from frankenlab.config.stages import SEARCH, Stage
from frankenlab.engines.token_tree import token_tree
from frankenlab.evaluate.model_spec import ModelSpec, scoring_fingerprint
from frankenlab.evaluate.runner import evaluate
from frankenlab.evaluate.store import Store
from frankenlab.io.files import atomic_path
from frankenlab.plans.grid import expand
from frankenlab.plans.plan import Plan
from frankenlab.plans.repeats import Rys
from frankenlab.tasks.encoding import encoder_of
from frankenlab.tasks.task import STAGES, Document, EvaluationTask

# Every block of consecutive layers, run twice.
BLOCKS = [Rys()]


def documents_of(task: EvaluationTask, count: int) -> tuple[list[Document], list[str]]:
    """Return the first documents in the order of the stages, and the stage of each."""
    staged = [(index, stage) for stage in STAGES for index in task.indices(stage)][:count]
    return task.documents([index for index, _ in staged]), [stage for _, stage in staged]


def margins(scores: pd.DataFrame) -> np.ndarray:
    """Return each row's log-probability of the gold answer minus that of the best other one."""
    found = []
    for values, target in zip(scores["loglikelihoods"], scores["target"], strict=True):
        gold = int(target)
        found.append(values[gold] - max(v for i, v in enumerate(values) if i != gold))
    return np.array(found)


def matrix(scores: pd.DataFrame, values: Sequence[float], plans: Sequence[Plan]) -> np.ndarray:
    """Return values [plans, documents] in the order in which these were asked for."""
    documents = scores["document"].unique()
    table = scores.assign(value=values).pivot(index="plan", columns="document", values="value")
    return table.loc[[plan.text for plan in plans], documents].to_numpy()


def task_arrays(
    spec: ModelSpec, plans: Sequence[Plan], task: EvaluationTask, count: int, store: Path
) -> dict[str, np.ndarray]:
    """Return the arrays of one task; what the store lacks is scored.

    Returns:
        correct: bool [plans, documents]; margin: float16 [plans, documents]; tokens, scored: int32
        [documents], tokens and scored positions with all requests of a document merged; key, stage:
        [documents], hash of the content and the stage that it belongs to.
    """
    documents, stages = documents_of(task, count)
    encoder = encoder_of(spec.directory)
    trees = [token_tree(r for (r,) in encoder.encode(document, False)) for document in documents]
    scores = evaluate(
        spec.load_engine,
        lambda: encoder,
        plans,
        task,
        documents,
        Store(store, spec.identity(task.settings.name)),
        spec.token_budget,
    )
    return {
        "correct": matrix(scores, scores[task.settings.metric], plans).astype(bool),
        "margin": matrix(scores, margins(scores), plans).astype(np.float16),
        "tokens": np.array([len(tree) for tree in trees], np.int32),
        "scored": np.array([len({node for node, _ in t.scored}) for t in trees], np.int32),
        "key": np.array([document.key for document in documents]),
        "stage": np.array(stages),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=config.DEFAULT, help="model, data, tasks")
    parser.add_argument("--model", help="a model of the config; by default its first")
    parser.add_argument(
        "--grid", choices=("blocks", "config"), default="blocks", help="all blocks, or the config's"
    )
    parser.add_argument("--documents", type=int, default=300, help="documents of each search task")
    parser.add_argument("--plans", type=int, help="only the first of them, to try it")
    parser.add_argument("--store", type=Path, default=Path("results/store"))
    parser.add_argument("--output", type=Path, required=True, help="an .npz file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    torch.set_num_threads(options.threads)

    experiment = config.load(options.config)
    name = options.model or next(iter(experiment.models))
    model = experiment.models[name]
    blocks = options.grid == "blocks"
    grid = expand(BLOCKS, model.n_layers) if blocks else experiment.grid(name)
    plans = [item.plan for item in grid.plans][: options.plans]
    spec = ModelSpec.for_stage(experiment, name, model.reference, Stage(SEARCH))
    begun = time.monotonic()
    arrays: dict[str, np.ndarray] = {
        "plans": np.array([plan.text for plan in plans]),
        "tasks": np.array(experiment.search_tasks),
        "n_layers": np.array(model.n_layers),
    }
    for task in experiment.search_tasks:
        loaded = EvaluationTask(experiment.tasks[task], config.TASKS_FOLDER)
        made = task_arrays(spec, plans, loaded, options.documents, options.store)
        arrays |= {f"{task}.{key}": value for key, value in made.items()}
    arrays["made"] = np.array(
        f"{name} at {model.reference}, {spec.precision}, {options.threads} threads, "
        f"{platform.machine()}, torch {torch.__version__}, code {scoring_fingerprint()}"
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.output) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    size = options.output.stat().st_size / 1e6
    print(f"{options.output}: {size:.2f} MB, {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
