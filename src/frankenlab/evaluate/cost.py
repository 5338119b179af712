"""The measured cost of plans: the speed and memory of each when it runs alone.

In a shared sweep a plan has no speed of its own, so each plan is timed by itself, several times.
The plans take turns, so that a drift of the machine's speed affects them alike; what a plan costs
is its speed relative to the base's in the same turn.
"""

import math
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

# Probability with which an interval of a median holds it at least.
CONFIDENCE = 0.95


def measure(
    engine: Engine, plans: Sequence[Plan], arithmetic: Sequence[float], repeats: int, seed: int
) -> list[dict[str, Any]]:
    """Measure each plan alone, reading a prompt and decoding.

    Args:
        plans: the base, and others.
        arithmetic: for each plan the speed relative to the base's that its multiplications by
            weights alone would give: below 1 for a longer plan.

    Returns:
        A dict for each plan: `prefill_tokens_per_second` and `decode_tokens_per_second` (medians
        of `repeats` runs), the lowest and highest of each (`_low`, `_high`), and
        `peak_memory_bytes` of the process (on CUDA, of its devices). `arithmetic_ratio` is as
        given. `prefill_ratio` and `decode_ratio` are medians over the turns of the plan's speed
        relative to the base's, with their intervals (`median_interval`); `prefill_clock` and
        `decode_clock` are what these say (`clock_says`), None for the base.
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
            "arithmetic_ratio": expected,
            **_against("prefill", speed["prefill"], speeds[0]["prefill"], expected),
            **_against("decode", speed["decode"], speeds[0]["decode"], expected),
        }
        for plan, speed, peak, expected in zip(plans, speeds, peaks, arithmetic, strict=True)
    ]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return two of the values between which the median of what they are drawn from lies.

    It does in 95 % of all cases or more, whatever the distribution: the median is above a value
    with probability 1/2, so the number of values below it is binomial. NaN where there are too few
    values (fewer than six).
    """
    ordered, n = sorted(values), len(values)
    tail, beyond = 0.0, 0
    while (tail := tail + math.comb(n, beyond) / 2**n) <= (1 - CONFIDENCE) / 2:
        beyond += 1
    return (ordered[beyond - 1], ordered[-beyond]) if beyond else (math.nan, math.nan)


def clock_says(low: float, high: float, arithmetic: float) -> str:
    """Return what an interval of a relative speed says.

    It is "slower" or "faster" where it excludes 1, "as fast" where it holds 1 and excludes what the
    arithmetic would give, and "silent" where it holds both or was not measured.
    """
    if high < 1:
        return "slower"
    if low > 1:
        return "faster"
    return "as fast" if arithmetic < low or high < arithmetic else "silent"


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


def _against(
    name: str, speeds: Sequence[float], base: Sequence[float], arithmetic: float
) -> dict[str, Any]:
    """Return a plan's speed relative to the base's, each turn by itself."""
    if speeds is base:
        ratio, low, high, says = 1.0, 1.0, 1.0, None
    else:
        ratios = [own / other for own, other in zip(speeds, base, strict=True)]
        ratio, (low, high) = statistics.median(ratios), median_interval(ratios)
        says = clock_says(low, high, arithmetic)
    return {
        f"{name}_ratio": ratio,
        f"{name}_ratio_low": low,
        f"{name}_ratio_high": high,
        f"{name}_clock": says,
    }


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        for gpu in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(gpu)
        return
    # This resets a process's peak on Linux; elsewhere the peak is that of all plans so far.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        mark = next(line for line in lines if line.startswith("VmHWM"))
        return int(mark.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
