"""The measured cost of plans: the speed and memory of each when it runs alone.

In a shared sweep a plan has no speed of its own, so each plan is timed by itself, several times.
The plans take turns, so that a drift of the machine's speed affects them alike.
"""

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from frankenlab.config.experiment import DECODED_TOKENS, PROMPT_TOKENS
from frankenlab.engines.protocol import Engine
from frankenlab.plans.plan import Plan


def measure(engine: Engine, plans: Sequence[Plan], repeats: int, seed: int) -> list[dict[str, Any]]:
    """Measure each plan alone, reading a prompt and decoding.

    Returns:
        A dict for each plan: `prefill_tokens_per_second` and `decode_tokens_per_second` (medians
        of `repeats` runs), the lowest and highest of each (`_low`, `_high`), and
        `peak_memory_bytes` of the process (on CUDA, of the device).
    """
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(engine.vocabulary, (PROMPT_TOKENS,), generator=generator).tolist()
    speeds: list[dict[str, list[float]]] = [{"prefill": [], "decode": []} for _ in plans]
    peaks = [0] * len(plans)
    for turn in range(repeats + 1):
        for i, plan in enumerate(plans):
            _reset_peak(engine.device)
            prefill, decode = _time_once(engine, plan, prompt)
            peaks[i] = max(peaks[i], _peak(engine.device))
            if turn > 0:  # the first turn warms caches and kernels up
                speeds[i]["prefill"].append(prefill)
                speeds[i]["decode"].append(decode)
    return [
        {
            "plan": plan.text,
            **_summary("prefill", speed["prefill"]),
            **_summary("decode", speed["decode"]),
            "peak_memory_bytes": peak,
        }
        for plan, speed, peak in zip(plans, speeds, peaks, strict=True)
    ]


def _time_once(engine: Engine, plan: Plan, prompt: Sequence[int]) -> tuple[float, float]:
    """Return the tokens per second of reading the prompt, and of decoding."""
    decoder = engine.decoder(plan, len(prompt) + DECODED_TOKENS)
    logits, seconds = _timed(engine.device, lambda: decoder.feed(prompt))
    token = int(logits.argmax())

    def decode() -> None:
        for _ in range(DECODED_TOKENS):
            decoder.feed([token])

    _, decode_seconds = _timed(engine.device, decode)
    return len(prompt) / seconds, DECODED_TOKENS / decode_seconds


def _timed(device: torch.device, work: Callable[[], Any]) -> tuple[Any, float]:
    _wait(device)
    start = time.perf_counter()
    result = work()
    _wait(device)
    return result, time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summary(name: str, speeds: Sequence[float]) -> dict[str, float]:
    return {
        f"{name}_tokens_per_second": statistics.median(speeds),
        f"{name}_low": min(speeds),
        f"{name}_high": max(speeds),
    }


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # This resets a process's peak on Linux; elsewhere the peak is that of all plans so far.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        mark = next(line for line in lines if line.startswith("VmHWM"))
        return int(mark.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
