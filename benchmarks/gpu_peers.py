"""The sweep beside lm-evaluation-harness and mergekit on one card, and beside the card's peak.

All run the same random model in bfloat16, on the same documents: speed does not depend on what the
weights mean. The tokenizer, the tasks and their data are those of an experiment.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_measure import Rows, free_memory
from random_models import random_model

from benchmarks.speed.ours import Ours, load_task
from benchmarks.speed.peak import layer_shapes
from benchmarks.speed.setting import Setting, blocks, timed
from frankenlab.config.experiment import load
from frankenlab.estimate.throughput import CUDA_PRODUCT, PRODUCT, product_flops
from frankenlab.estimate.work import Documents, documents_of
from frankenlab.evaluate.model_spec import DEFAULT_TOKEN_BUDGET
from frankenlab.io.errors import UserError
from frankenlab.models.directory import model_shape
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.plans.plan import Plan, base, looped
from frankenlab.plans.trie import layer_passes, plan_trie
from frankenlab.tasks.encoding import document_trees, requests_name

# The harness is timed on so many documents with each of these batch sizes, and then takes the
# fastest. A batch size that does not fit in memory is passed over.
TUNING_DOCUMENTS = 64
BATCH_SIZES = (32, 64, 128, 256)

REPEATS = 10
SHOWN_OPERATORS = 14


def setting_of(
    directory: Path, config: Path, scratch: Path, device: str, documents: int, plans: int
) -> Setting:
    """Return what the measurements of `benchmarks.speed` work with on this model."""
    return Setting(
        config=str(config),
        tasks=("arc_easy", "arc_easy_5shot"),
        documents=documents,
        peer_plans=plans,
        scratch=str(scratch),
        device=device,
        directory=str(directory),
    )


def random_with_tokenizer(
    target: Path, shapes: Mapping[str, Any], config: Path, device: str, rows: Rows
) -> Path:
    """Make a random model of these shapes for the tokenizer of an experiment's first model."""
    experiment = load(config)
    source = experiment.weights_folder(next(iter(experiment.models)))
    if not (source / "config.json").is_file():
        raise UserError(f"{source}: no tokenizer; `frankenlab fetch` brings the model of {config}")
    if (target / "config.json").is_file():
        return target
    shutil.rmtree(target, ignore_errors=True)
    words = max(shapes["vocab_size"], len(load_tokenizer(source)))
    seconds, _ = timed(lambda: random_model(target, {**shapes, "vocab_size": words}, device))
    for file in source.iterdir():
        # Not the manifests: they are of other weights.
        own = file.suffix == ".safetensors" or file.name in ("config.json", "manifest.json")
        if not own and not file.name.startswith("."):
            shutil.copy(file, target / file.name)
    rows.append(("random model, written", f"{seconds:.0f} s"))
    return target


def grids(n_layers: int) -> dict[str, list[Plan]]:
    """Return the grids by name: the base alone, 16 blocks, and every fourth (i, j)."""
    pairs = [(i, j) for i in range(n_layers) for j in range(i + 1, n_layers + 1)]
    every = [base(n_layers), *(looped(i, j, 2, n_layers) for i, j in pairs[::4])]
    return {
        "the base": [base(n_layers)],
        "blocks": blocks(n_layers),
        "every fourth (i, j)": list(dict.fromkeys(every)),
    }


def product_tflops(rows: int, inner: int, outer: int, device: str) -> float:
    """Return the speed of a bfloat16 product [rows, inner] x [inner, outer], in TFLOP/s."""
    a = torch.randn(rows, inner, dtype=torch.bfloat16, device=device)
    b = torch.randn(outer, inner, dtype=torch.bfloat16, device=device)
    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    times = []
    with torch.inference_mode():
        for _ in range(REPEATS):
            wait()
            begun = time.perf_counter()
            for _ in range(3):
                torch.nn.functional.linear(a, b)
            wait()
            times.append((time.perf_counter() - begun) / 3)
    return 2 * rows * inner * outer / min(times) / 1e12


def time_products(directory: Path, device: str, rows: Rows) -> float:
    """Time one large product, and the MLP's at the sweep's batch; return the former's TFLOP/s."""
    outer, inner = layer_shapes(directory)["gate_up"]
    large = CUDA_PRODUCT if device.startswith("cuda") else PRODUCT
    peak = product_tflops(*large, device)
    own = product_tflops(DEFAULT_TOKEN_BUDGET, inner, outer, device)
    rows.append((f"product of {' x '.join(map(str, large))}", f"{peak:,.3g} TFLOP/s"))
    what = f"product of gate and up, {DEFAULT_TOKEN_BUDGET} x {inner} x {outer}"
    rows.append((what, f"{own:,.3g} TFLOP/s"))
    return peak


def time_sweeps(setting: Setting, peak: float, rows: Rows) -> dict[str, float]:
    """Time each grid on each task, beside the peak; return each task's seconds a plan on the
    largest grid."""
    ours = Ours(setting.model, "bfloat16", setting.device)
    kernels = ours.engine.kernels.name
    rows.append(("the sweep's model, loaded", f"{ours.load_seconds:.1f} s; kernels: {kernels}"))
    found = {}
    for name in setting.tasks:
        task, documents = load_task(setting, name)
        trees = document_trees(ours.encoder, documents, False, name)
        work = documents_of([trees[requests_name(document)] for document in documents])
        _sweep(ours, [base(setting.n_layers)], task, documents[:8])
        for what, plans in grids(setting.n_layers).items():
            seconds = _sweep(ours, plans, task, documents)
            rows.append(
                sweep_row(setting, f"{name}: the sweep of {what}", plans, work, seconds, peak)
            )
            found[name] = seconds / len(plans)
    if setting.device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated() / 2**30
        rows.append(("the sweep, peak GPU memory", f"{memory:.1f} GiB"))
    del ours
    free_memory()
    return found


def sweep_row(
    setting: Setting, what: str, plans: Sequence[Plan], work: Documents, seconds: float, peak: float
) -> tuple[str, str]:
    """Return a row: a sweep's seconds, and its products' speed as `make plan` counts them."""
    passes = layer_passes(plan_trie(plans))
    tokens = work.computed(DEFAULT_TOKEN_BUDGET)
    flops = product_flops(model_shape(setting.model), passes * tokens, work.scored * len(plans))
    speed = flops / seconds / 1e12
    count = f"{len(plans)} plan{'s' * (len(plans) > 1)}"
    return (
        f"{what}, {count}, {work.count} documents, {tokens:,} tokens",
        f"{seconds / len(plans):.3f} s a plan, {passes / len(plans):.1f} layer passes each; "
        f"{speed:,.3g} TFLOP/s, {speed / peak:.0%} of the product",
    )


def _sweep(ours: Ours, plans: Sequence[Plan], task: Any, documents: Sequence[Any]) -> float:
    with tempfile.TemporaryDirectory() as root:
        seconds, _ = timed(lambda: ours.sweep(plans, task, documents, Path(root)))
    return seconds


def time_harness(setting: Setting, sweep: Mapping[str, float], rows: Rows) -> dict[str, int]:
    """Time lm-eval on the model in memory beside the sweep; return each task's fastest batch."""
    # Imported here: a machine may lack lm-eval, and the other measurements go on.
    from benchmarks.speed import peers

    model = peers.load_model(setting.model, torch.bfloat16, setting.device)
    plans = peers.spread(setting.grid("blocks"), setting.peer_plans)
    peers.warm_up(setting, peers.harness(setting, model, "bfloat16", 1))
    fastest = {}
    for name in setting.tasks:
        documents = peers.indices(setting, name)
        seconds = partial(_harness_seconds, setting, model, name)
        with peers.rearranged(model, plans[0]):
            fastest[name] = fastest_batch(partial(seconds, documents[:TUNING_DOCUMENTS]))
        took = {}
        for plan in plans:
            with peers.rearranged(model, plan):
                took[plan.text] = seconds(documents, fastest[name])
        took["the mean"] = sum(took.values()) / len(took)
        for plan_text, each in took.items():
            what = f"{name}: lm-eval in memory, {plan_text}, {len(documents)} documents"
            times = f"{each / sweep[name]:.1f} times the sweep's seconds a plan"
            rows.append((what, f"{each:.2f} s (batches of {fastest[name]}): {times}"))
    del model
    free_memory()
    return fastest


def _harness_seconds(
    setting: Setting, model: Any, name: str, documents: list[int], size: int
) -> float:
    from benchmarks.speed import peers

    lm, task = peers.harness(setting, model, "bfloat16", size), peers.harness_task(setting, name)
    return peers.timed_scoring(setting, lm, name, task, documents)["seconds"]


def fastest_batch(seconds: Callable[[int], float]) -> int:
    """Return the batch size that takes the least time, of those that fit into memory."""
    found = {}
    for size in BATCH_SIZES:
        try:
            found[size] = seconds(size)
        except torch.cuda.OutOfMemoryError:
            free_memory()
            break
    if not found:
        raise UserError(f"lm-eval runs out of memory with {BATCH_SIZES[0]} rows")
    return min(found, key=lambda size: found[size])


def time_merges(
    setting: Setting, sizes: Mapping[str, int], sweep: Mapping[str, float], rows: Rows
) -> None:
    """Time mergekit, which writes a merge, and lm-eval, which loads and scores it."""
    if find_spec("mergekit") is None:
        rows.append(("mergekit, then lm-eval", "mergekit is not installed"))
        return
    from benchmarks.speed import peers

    text = ",".join(f"{name}={size}" for name, size in sizes.items())
    found = peers.run_written(setting, text)
    for name, scored in found["tasks"].items():
        for plan, row in scored.items():
            own = found["plans"][plan]
            took = own["write"] + own["load"] + row["seconds"]
            parts = (
                f"{own['write']:.1f} s to write {own['bytes'] / 1e9:.1f} GB, {own['load']:.1f} to "
                f"load, {row['seconds']:.1f} to score"
            )
            times = f"{took / sweep[name]:.0f} times the sweep's seconds a plan"
            rows.append((f"{name}: mergekit, then lm-eval, {plan}", f"{parts}: {times}"))
    free_memory()


def profile_sweep(setting: Setting, rows: Rows) -> None:
    """Find what a sweep of 16 blocks spends the device's time on, by torch's operators."""
    ours = Ours(setting.model, "bfloat16", setting.device)
    task, documents = load_task(setting, setting.tasks[0])
    plans = setting.grid("blocks")
    # A first sweep also loads kernels and allocates memory.
    _sweep(ours, plans, task, documents)
    plain = _sweep(ours, plans, task, documents)
    on_gpu = setting.device.startswith("cuda")
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, *([kinds.CUDA] if on_gpu else [])]) as run:
        _sweep(ours, plans, task, documents)
    del ours
    free_memory()
    rows += profile_rows(run.key_averages(), on_gpu, plain)


def profile_rows(events: Sequence[Any], on_gpu: bool, plain: float) -> Rows:
    """Return shares of the device's time. A kernel that no operator of torch started has a row."""
    operators = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    if on_gpu:
        kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
        busy = sum(event.self_device_time_total for event in kernels)
        spent = {event.key: event.self_device_time_total for event in operators}
        spent["kernels of no operator (Triton)"] = busy - sum(spent.values())
    else:
        spent = {event.key: event.self_cpu_time_total for event in operators}
        busy = sum(spent.values())
    rows = [("seconds of the same sweep, not profiled", f"{plain:.2f}")]
    rows.append(("seconds of the device's work", f"{busy * 1e-6:.2f}"))
    most = sorted(spent, key=lambda name: -spent[name])[:SHOWN_OPERATORS]
    rows += [(name, f"{spent[name] / busy:.1%}") for name in most if spent[name] > 0]
    return rows
