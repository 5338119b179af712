"""Both engines and exllamav2 itself on the same weights and tokens: whether equal, and how fast."""

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_limits import Gap, plans_too_far
from gpu_models import random_documents, requests_from_tokens

from frankenlab.engines.batches import MAKERS, Batch
from frankenlab.engines.packing import group_by_length
from frankenlab.engines.token_tree import TokenRequest, token_tree
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate.sweep import arrived, sweep
from frankenlab.io.errors import UserError
from frankenlab.models.exl2.format import QuantizedLinear, dequantize
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.plans.plan import Plan, parse
from frankenlab.plans.trie import plan_trie

Rows = list[tuple[str, str]]

# Rows and tokens of a row that speed is measured with, and tokens of a batch: as many as our
# engine makes exllamav2's buffers for.
ROWS, LENGTH = 32, 256
BATCH_TOKENS = ROWS * LENGTH
TIMED_SECONDS = 3.0


def reconstruct(linear: QuantizedLinear, device: str) -> torch.Tensor:
    """[in, padded out] float16, by exllamav2's CUDA kernel."""
    from exllamav2.ext import exllamav2_ext, make_q_matrix, none_tensor

    # The extension works in place: shuffled codes, scaled scales.
    tensors = {name: tensor.to(device).clone() for name, tensor in linear.tensors().items()}
    tensors["q_perm"] = torch.argsort(tensors["q_invperm"]).to(torch.int32)
    handle = make_q_matrix(tensors, none_tensor)
    shape = (linear.in_features, linear.q_weight.shape[1])
    result = torch.empty(shape, dtype=torch.float16, device=device)
    exllamav2_ext.reconstruct(handle, result)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    exllamav2_ext.free_q_matrix(handle)
    return result


def compare_reconstructions(
    directory: Path, device: str, rows: Rows, names: Sequence[str] | None = None
) -> None:
    """Bit for bit; every layer is compared before any difference is an error."""
    exl2 = Exl2Directory(directory)
    names = sorted(exl2.linears) if names is None else names
    worst, different, weights = 0.0, [], 0
    for name in names:
        linear = exl2.linear(name)
        moved = QuantizedLinear(**{k: t.to(device) for k, t in linear.tensors().items()})
        ours = dequantize(moved, linear.q_weight.shape[1])
        theirs = reconstruct(linear, device).T.contiguous()
        weights += ours.numel()
        if not torch.equal(ours.view(torch.int16), theirs.view(torch.int16)):
            count = int((ours.view(torch.int16) != theirs.view(torch.int16)).sum())
            worst = max(worst, float((ours.float() - theirs.float()).abs().max()))
            different.append(f"{name} ({count} weights)")
    rows.append(
        (
            f"{directory.name}: `reconstruct` and our dequantizer",
            f"{len(names)} linear layers, {weights:,} weights, "
            + (f"{len(different)} layers differ" if different else "every bit the same"),
        )
    )
    if different:
        raise UserError(
            f"{directory.name}: {len(different)} of {len(names)} layers differ, by at most "
            f"{worst:.2e}; the first is {different[0]}"
        )


def small_plans(n_layers: int) -> list[Plan]:
    """Base, repeated blocks, a loop and a repeated attention."""
    half, end = n_layers // 2, n_layers
    texts = ["base", f"0:{end},{half}:{end}", f"0:{half + 1},{half}:{end}", f"0,0x2,1:{end}"]
    texts += [f"0:{half},{half}@attn,{half}:{end}", f"0:{end},{end - 1}@mlp"]
    return [parse(text, n_layers) for text in texts]


def grid_plans(n_layers: int, count: int = 16) -> list[Plan]:
    """Blocks (i, j) run twice, all over the depth: what a search is made of."""
    step = max(n_layers // 6, 1)
    pairs = [(i, j) for i in range(0, n_layers, step) for j in range(i + 1, n_layers + 1, step)]
    pairs = pairs[:: max(len(pairs) // count, 1)][:count]
    return [parse(f"0:{j},{i}:{n_layers}", n_layers) for i, j in pairs]


def engine_makers(directory: Path, device: str) -> dict[str, Callable[[], Any]]:
    """Name -> a function that loads the engine; imported when it is asked for, so that a machine
    on which exllamav2 fails still has the others."""

    def exllamav2() -> Any:
        from frankenlab.engines.exllamav2 import Exllamav2Engine

        return Exllamav2Engine(directory, device, BATCH_TOKENS)

    return {
        "torch float32": lambda: TorchEngine(directory, "float32", device),
        "torch bf16": lambda: TorchEngine(directory, "bfloat16", device),
        "exllamav2": exllamav2,
    }


def batches_of(engine: Any, requests: Sequence[Sequence[TokenRequest]]) -> list[Batch]:
    """Batches in the layout that the engine takes."""
    trees = [token_tree(document) for document in requests]
    groups = group_by_length([len(tree) for tree in trees], BATCH_TOKENS)
    return [MAKERS[engine.layout]([trees[i] for i in group], group) for group in groups]


def scores_of(
    engine: Any, plans: Sequence[Plan], batches: Sequence[Batch]
) -> dict[str, torch.Tensor]:
    """Plan text -> all log-probabilities, document after document."""
    found: dict[str, dict[int, list[float]]] = {plan.text: {} for plan in plans}
    trie = plan_trie(plans)
    for batch in batches:
        for plan, documents in arrived(sweep(engine, trie, batch)):
            for number, scores in zip(batch.documents, documents, strict=True):
                found[plan.text][number] = [score.loglikelihood for score in scores]
    return {
        text: torch.tensor([value for number in sorted(by) for value in by[number]])
        for text, by in found.items()
    }


def compare_engines(
    directory: Path,
    requests: Sequence[Sequence[TokenRequest]],
    plans: Sequence[Plan],
    device: str,
    rows: Rows,
) -> None:
    """Compares every log-probability of every plan with torch's in float32 on the same weights.

    Raises:
        UserError: exllamav2 is farther from it than rounding explains (see `gpu_limits`).
    """
    scores = {}
    for name, make in engine_makers(directory, device).items():
        engine = make()
        scores[name] = scores_of(engine, plans, batches_of(engine, requests))
        close(engine)
        del engine
        free_memory()
    exact = scores.pop("torch float32")
    count = sum(len(values) for values in exact.values())
    gaps: dict[str, dict[str, Gap]] = {}
    for name, found in scores.items():
        gaps[name] = own = {text: Gap.between(found[text], exact[text]) for text in exact}
        every = Gap.between(*(torch.cat(list(values.values())) for values in (found, exact)))
        worst = max(own, key=lambda text: own[text].largest)  # noqa: B023
        rows.append(
            (
                f"{directory.name}: {name} against torch float32, {len(plans)} plans, "
                f"{count} log-probabilities",
                f"mean difference {every.mean:.2e}, largest {every.largest:.2e} (plan {worst})",
            )
        )
    if wrong := plans_too_far(gaps["exllamav2"], gaps["torch bf16"]):
        raise UserError(
            f"{directory.name}: exllamav2's log-probabilities are farther from float32's than "
            f"rounding to 16 bits: {wrong}"
        )


def compare_speed(directory: Path, device: str, rows: Rows) -> None:
    """Tokens per second: exllamav2's own forward, and the sweep by both engines."""
    exl2 = Exl2Directory(directory)
    vocabulary, n_layers = exl2.config["vocab_size"], exl2.shape.n_layers
    length = min(LENGTH, exl2.config["max_position_embeddings"])
    documents = random_documents(vocabulary, 2 * ROWS, length)
    for what, speed in own_forward(directory, documents, device):
        rows.append((f"{directory.name}: {what}", f"{speed:,.0f} tokens/s"))
    requests = requests_from_tokens(documents, branch=0)
    makers = engine_makers(directory, device)
    base, grid = [parse("base", n_layers)], grid_plans(n_layers)
    many = f"{len(grid)} plans, tokens x plans"
    for name in ("exllamav2", "torch bf16"):
        engine, sweep = makers[name](), f"{directory.name}: sweep by {name}"
        batches = batches_of(engine, requests)
        _add_sweep(f"{sweep}, base alone", engine, base, batches, device, rows)
        _add_sweep(f"{sweep}, {many}", engine, grid, batches, device, rows)
        _add_peak(sweep, device, rows)
        if name == "exllamav2":
            rows.append((f"{sweep}, layers kept dequantized", f"{len(engine.kept)} of {n_layers}"))
            while engine.give_up_weights():
                pass
            free_memory()
            sweep += ", nothing kept"
            _add_sweep(f"{sweep}, {many}", engine, grid, batches, device, rows)
            _add_peak(sweep, device, rows)
        close(engine)
        del engine
        free_memory()


def _add_sweep(
    what: str, engine: Any, plans: Sequence[Plan], batches: Sequence[Batch], device: str, rows: Rows
) -> None:
    seconds = timed(lambda: scores_of(engine, plans, batches), device)
    tokens = len(plans) * sum(batch.n_tokens for batch in batches)
    rows.append((what, f"{tokens / seconds:,.0f} tokens/s"))


def _add_peak(what: str, device: str, rows: Rows) -> None:
    if device.startswith("cuda"):
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        rows.append((f"{what}, peak GPU memory", peak))


def own_forward(
    directory: Path, documents: Sequence[Sequence[int]], device: str
) -> list[tuple[str, float]]:
    """exllamav2's `model.forward` on the same tokens, in batches as large as it takes."""
    from frankenlab.engines.exllamav2_loading import load

    model = load(directory, device, BATCH_TOKENS)
    found = []
    ids = torch.tensor(documents).split(ROWS)
    for what, last in (("every position's logits", False), ("logits of the last position", True)):

        def work(last: bool = last) -> None:
            for part in ids:
                model.forward(part, cache=None, last_id_only=last)

        tokens = sum(part.numel() for part in ids)
        found.append((f"exllamav2's own forward, {what}", tokens / timed(work, device)))
    model.unload()
    free_memory()
    return found


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds of one run: the median of as many as fit into a few seconds, after one to warm up."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    seconds: list[float] = []
    work()
    wait()
    while not seconds or (sum(seconds) < TIMED_SECONDS and len(seconds) < 20):
        started = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2]


def close(engine: Any) -> None:
    """exllamav2's memory is not freed with its objects."""
    if hasattr(engine, "close"):
        engine.close()


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
