"""How time and memory grow with plans, documents and depth; the cost model beside the clock."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.random_models import LLAMA, random_model
from benchmarks.speed.ours import Ours
from benchmarks.speed.peak import Peaks
from benchmarks.speed.setting import (
    Setting,
    memory,
    reset_peak_memory,
    return_freed_memory,
    spread,
    timed,
)
from benchmarks.speed.spies import Spies
from frankenlab.config.experiment import TASKS_FOLDER
from frankenlab.estimate.memory import sizes_of
from frankenlab.estimate.throughput import from_matrix_product
from frankenlab.plans.grid import expand
from frankenlab.plans.plan import Plan
from frankenlab.plans.repeats import Rys
from frankenlab.plans.trie import layer_passes, plan_trie
from frankenlab.tasks.task import EvaluationTask

TASK = "arc_easy"

# (plans of all (i, j) blocks, documents): first plans grow, then documents.
PLANS, PLANS_DOCUMENTS = (10, 40, 150, 465), 30
DOCUMENTS, DOCUMENTS_PLANS = (50, 100, 200, 500), 10
DEPTHS, DEPTHS_PLANS, DEPTHS_DOCUMENTS = (6, 15, 30, 60), 10, 50

# Of the model with random weights, whose depth grows.
WIDTH, INNER, HEADS, KEY_HEADS = 192, 512, 3, 1


def run_growth(setting: Setting, axis: str) -> dict[str, Any]:
    """Rows of one axis: "plans", "documents" or "depth"."""
    if axis == "depth":
        rows = [_random_model(setting, depth) for depth in DEPTHS]
    else:
        ours = Ours(setting.model)
        _warm_up(setting, ours)
        if axis == "plans":
            sizes = [(plans, PLANS_DOCUMENTS) for plans in PLANS]
        else:
            sizes = [(DOCUMENTS_PLANS, documents) for documents in DOCUMENTS]
        rows = [_row(setting, ours, plans, documents) for plans, documents in sizes]
        for row in rows:
            row["predicted_seconds"] = _predicted(setting, row)
    return {"axis": axis, "rows": rows}


def all_blocks(n_layers: int, count: int) -> list[Plan]:
    """`count` of RYS's (i, j), at even distances."""
    found = expand([Rys()], n_layers).plans
    return spread([item.plan for item in found if item.group != "base"], count)


def _warm_up(setting: Setting, ours: Ours) -> None:
    _row(setting, ours, 1, 2)


def _row(setting: Setting, ours: Ours, n_plans: int, n_documents: int) -> dict[str, Any]:
    plans = all_blocks(ours.engine.n_layers, min(n_plans, setting.plans or n_plans))
    task = EvaluationTask(setting.task(TASK), TASKS_FOLDER)
    limit = min(n_documents, setting.documents or n_documents)
    documents = task.documents(task.indices(None, limit))
    peaks = Peaks(ours.directory, ours.engine.dtype)
    return_freed_memory()
    before = memory()["now"]
    reset_peak_memory()
    with tempfile.TemporaryDirectory() as root, Spies(ours.engine, peaks) as spies:
        seconds, _ = timed(lambda: ours.sweep(plans, task, documents, Path(root)))
    peak = memory()["peak"]
    return {
        "layers": ours.engine.n_layers,
        "plans": len(plans),
        "documents": len(documents),
        "passes": layer_passes(plan_trie(plans)),
        "seconds": seconds - peaks.paused,
        "memory": peak - before,
        "peaks": peaks.found(),
        **spies.found(),
    }


def _predicted(setting: Setting, row: dict[str, Any]) -> float:
    """What `make plan` says of the scoring, without the start of a job, from the matrix product
    that it measures."""
    model = next(iter(setting.experiment.models.values()))
    sizes = sizes_of(model)
    assert sizes is not None, "the model is there: it was run"
    speed = from_matrix_product(sizes, row["peaks"]["planning"], "cpu", "measured")
    layers = row["tokens"] * row["passes"] / model.n_layers / speed.tokens
    return layers + row["positions_scored"] * row["plans"] / speed.scored


def _random_model(setting: Setting, depth: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        directory = make_random_model(Path(folder) / "model", setting.model, depth)
        ours = Ours(directory)
        _warm_up(setting, ours)
        return _row(setting, ours, DEPTHS_PLANS, DEPTHS_DOCUMENTS)


def make_random_model(directory: Path, tokenizer: Path, depth: int) -> Path:
    """A narrow LLaMA of any depth, with the tokenizer of another model."""
    vocabulary = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    config = LLAMA | {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": depth,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }
    random_model(directory, config)
    for name in _tokenizer_files(tokenizer):
        shutil.copy2(tokenizer / name, directory / name)
    return directory


def _tokenizer_files(directory: Path) -> Sequence[str]:
    return [p.name for p in directory.iterdir() if p.name.startswith(("token", "special_tokens"))]
