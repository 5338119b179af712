"""What people use instead: a merge written by mergekit and scored by lm-evaluation-harness, the
harness on a model whose layers were put in another order in memory, layer-scan's own scan."""

import copy
import gc
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import AutoModelForCausalLM

from benchmarks.speed.setting import Setting, spread, timed
from frankenlab.config.experiment import TASKS_FOLDER
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.plans.plan import Plan
from frankenlab.tasks.index import task_file
from frankenlab.tasks.task import EvaluationTask

# Rows that the harness runs at once, of which each task takes the fastest.
BATCH_SIZES = (1, 4, 16, 64)
TUNING_DOCUMENTS = 16


def harness_task(setting: Setting, name: str) -> Task:
    """The task as lm-eval alone loads it: its YAML, the data file read by `datasets` itself."""
    settings = setting.task(name)
    assert settings.data_file is not None
    data = {
        "data_files": {settings.split: str(settings.data_file.resolve())},
        "cache_dir": str(setting.scratch_folder("datasets")),
    }
    kind = settings.data_file.name.removesuffix(".gz").rpartition(".")[2]
    changes = {
        "dataset_path": {"jsonl": "json"}.get(kind, kind),
        "dataset_name": None,
        "dataset_kwargs": data,
        "training_split": None,
        "validation_split": settings.split,
        "test_split": None,
        "fewshot_split": settings.split if settings.num_fewshot else None,
        "num_fewshot": settings.num_fewshot,
        **settings.overrides,
    }
    config = load_yaml(task_file(settings.task, TASKS_FOLDER)) | changes
    (task,) = TaskManager(include_defaults=False).load([config])["tasks"].values()
    return task


@dataclass(frozen=True)
class Answers:
    """Log-likelihoods of each document's requests, and the mean of the primary metric."""

    loglikelihoods: dict[int, list[float]]
    mean: float


def indices(setting: Setting, name: str) -> list[int]:
    """The documents that the sweep scores, by their numbers in the harness."""
    return EvaluationTask(setting.task(name), TASKS_FOLDER).indices(None, setting.limit(name))


def harness(setting: Setting, model: Any, dtype: str, batch_size: int) -> HFLM:
    """`model` is a directory or a model."""
    return HFLM(
        pretrained=str(model) if isinstance(model, Path) else model,
        tokenizer=load_tokenizer(setting.model),
        dtype=dtype,
        batch_size=batch_size,
        device=setting.device,
    )


def scored(lm: HFLM, task: Task, documents: list[int], metric: str) -> Answers:
    """What the harness finds for these documents, by their numbers in it."""
    name = task.config.task
    found = simple_evaluate(
        lm,
        tasks=[task],
        samples={name: documents},
        task_manager=TaskManager(include_defaults=False),
    )
    samples = found["samples"][name]
    return Answers(
        {s["doc_id"]: [float(answer[0][0]) for answer in s["resps"]] for s in samples},
        sum(float(s[metric]) for s in samples) / len(samples),
    )


def load_model(directory: Path, dtype: torch.dtype, device: str = "cpu") -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    return model.to(device).eval()


@contextmanager
def rearranged(model: torch.nn.Module, plan: Plan) -> Iterator[torch.nn.Module]:
    """The model with its layers in a plan's order; weights are shared, each occurrence has its own
    place in the cache."""
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList(
        _occurrence(layers[step.layer], number) for number, step in enumerate(plan.steps)
    )
    model.config.num_hidden_layers = len(plan.steps)
    try:
        yield model
    finally:
        model.model.layers = layers
        model.config.num_hidden_layers = len(layers)


def _occurrence(layer: torch.nn.Module, number: int) -> torch.nn.Module:
    # A module's submodules are in a dictionary that a shallow copy would share.
    twin = copy.copy(layer)
    twin._modules = dict(layer._modules)
    twin.self_attn = copy.copy(layer.self_attn)
    twin.self_attn.layer_idx = number
    return twin


def run_in_memory(setting: Setting, batch_sizes: str) -> dict[str, Any]:
    """lm-eval on a model in memory; `batch_sizes` is "task=size,...", or "tune" to find them."""
    seconds, model = timed(lambda: load_model(setting.model, torch.bfloat16, setting.device))
    plans = spread(setting.grid("blocks"), setting.peer_plans)
    found: dict[str, Any] = {"load_seconds": seconds, "tasks": {}}
    warm_up(setting, harness(setting, model, "bfloat16", 1))
    for name in setting.tasks:
        task, documents = harness_task(setting, name), indices(setting, name)
        if batch_sizes == "tune":
            with rearranged(model, plans[0]):
                found["tasks"][name] = _tuned(setting, model, name, task, documents)
            continue
        lm = harness(setting, model, "bfloat16", read_sizes(batch_sizes)[name])
        rows = {}
        for plan in plans:
            with rearranged(model, plan):
                rows[plan.text] = timed_scoring(setting, lm, name, task, documents)
        found["tasks"][name] = rows
    return found


def timed_scoring(
    setting: Setting, lm: HFLM, name: str, task: Task, documents: list[int]
) -> dict[str, float]:
    metric = setting.task(name).metric
    seconds, answers = timed(lambda: scored(lm, task, documents, metric))
    return {"seconds": seconds, "mean": answers.mean}


def warm_up(setting: Setting, lm: HFLM) -> None:
    """What is imported and made ready at the first use is in nobody's time."""
    name = setting.tasks[0]
    timed_scoring(setting, lm, name, harness_task(setting, name), indices(setting, name)[:1])


def read_sizes(text: str) -> dict[str, int]:
    return {name: int(size) for name, size in (item.split("=") for item in text.split(","))}


def _tuned(
    setting: Setting, model: Any, name: str, task: Task, documents: list[int]
) -> dict[int, float]:
    """Seconds on a few documents, by batch size."""
    few = documents[:: max(len(documents) // TUNING_DOCUMENTS, 1)][:TUNING_DOCUMENTS]
    found = {}
    for size in BATCH_SIZES:
        lm = harness(setting, model, "bfloat16", size)
        found[size] = timed_scoring(setting, lm, name, task, few)["seconds"]
    return found


def run_written(setting: Setting, batch_sizes: str) -> dict[str, Any]:
    """mergekit writes each plan's merge; lm-eval loads and scores it."""
    # Imported here: no other way needs it.
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    def write(plan: Plan) -> Path:
        folder = setting.scratch_folder("merge")
        merge = MergeConfiguration.model_validate(merge_config(setting.model, plan))
        run_merge(merge, str(folder), MergeOptions(quiet=True))
        return folder

    sizes, plans = read_sizes(batch_sizes), spread(setting.grid("blocks"), setting.peer_plans)
    tasks = {n: (harness_task(setting, n), indices(setting, n)) for n in setting.tasks}
    found: dict[str, Any] = {"tasks": {name: {} for name in tasks}, "plans": {}}
    warm_up(setting, harness(setting, write(plans[0]), "bfloat16", 1))
    for plan in plans:
        shutil.rmtree(setting.scratch_folder("merge"))
        writing, folder = timed(lambda p=plan: write(p))
        written = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        loading, lm = timed(lambda f=folder: harness(setting, f, "bfloat16", 1))
        found["plans"][plan.text] = {"write": writing, "load": loading, "bytes": written}
        for name, (task, documents) in tasks.items():
            lm.batch_size_per_gpu = sizes[name]
            found["tasks"][name][plan.text] = timed_scoring(setting, lm, name, task, documents)
        del lm
        gc.collect()
    shutil.rmtree(setting.scratch_folder("merge"))
    return found


def merge_config(model: Path, plan: Plan) -> dict[str, Any]:
    """A passthrough merge of one model with itself: a slice for each run of ascending layers."""
    layers = [step.layer for step in plan.steps]
    cuts = [i for i in range(1, len(layers)) if layers[i] != layers[i - 1] + 1]
    ends = [0, *cuts, len(layers)]
    slices = [
        {"sources": [{"model": str(model), "layer_range": [layers[a], layers[b - 1] + 1]}]}
        for a, b in zip(ends, ends[1:], strict=False)
    ]
    return {"slices": slices, "merge_method": "passthrough", "dtype": "bfloat16"}


def run_layer_scan(setting: Setting, _: str) -> dict[str, Any]:
    """layer-scan on its mathematics probe: one block a scan, as its (i, j)."""
    from layer_scan.backends.transformers_backend import TransformersBackend
    from layer_scan.config import ScanConfig
    from layer_scan.probes.math_probe import MathProbe
    from layer_scan.scanner import run_scan

    backend, probe = TransformersBackend(), MathProbe()
    loading, _ = timed(lambda: backend.load(str(setting.model), dtype="bfloat16", device_map="cpu"))
    tokenizer = backend.get_tokenizer()
    tokens = sum(len(tokenizer(sample.full_text)["input_ids"]) for sample in probe.get_samples())
    rows = {}
    for plan in spread(setting.grid("blocks"), setting.peer_plans):
        start, stop, _ = plan.loop
        only = {"skip_early": start, "skip_late": plan.n_layers - stop}
        scan = ScanConfig(str(setting.model), min_block_size=stop - start, **only)
        report = run_scan(backend, probe, scan)
        assert len(report.results) == 1, "the scan is to be of one block"
        rows[plan.text] = {"seconds": report.total_time_seconds}
    return {"load_seconds": loading, "tokens": tokens, "plans": rows}
