"""Cost is measured on each plan alone, in turns."""

import pytest

from frankenlab.config import experiment as config
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate import cost
from frankenlab.evaluate.cost import measure
from tests.support.models import parse_all


def test_a_row_per_plan_with_medians_inside_their_ranges(tiny):
    plans = parse_all(["base", "0:3,1:4"])
    rows = measure(TorchEngine(tiny(), "float32"), plans, repeats=3, seed=1)
    assert [row["plan"] for row in rows] == ["base", "0:3,1:4"]
    for row in rows:
        for name in ("prefill", "decode"):
            low, middle, high = (
                row[f"{name}_{what}"] for what in ("low", "tokens_per_second", "high")
            )
            assert 0 < low <= middle <= high
        assert row["peak_memory_bytes"] > 1 << 20


def test_speeds_are_tokens_per_second_and_the_warm_up_does_not_count(tiny, monkeypatch):
    """By a clock that lets every layer take a second, and everything ten times longer at first."""
    engine, now, first = TorchEngine(tiny(), "float32"), [0.0], [True]
    run = engine.run

    def slow(step, hidden, batch, cache=None):
        now[0] += 10 if first[0] else 1
        return run(step, hidden, batch, cache)

    calls = []

    def reset(device):
        calls.append(device)
        first[0] = len(calls) <= 2

    monkeypatch.setattr(engine, "run", slow)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(cost, "_reset_peak", reset)
    rows = measure(engine, parse_all(["base", "0:4,0:4"]), repeats=2, seed=1)
    for row, layers in zip(rows, (4, 8), strict=True):
        for what in ("low", "tokens_per_second", "high"):
            assert row[f"prefill_{what}"] == pytest.approx(config.PROMPT_TOKENS / layers)
            assert row[f"decode_{what}"] == pytest.approx(1 / layers)


def test_plans_take_turns(tiny, monkeypatch):
    """So that a drift of the machine's speed meets all of them."""
    order = []
    timed = cost._time_once

    def note(engine, plan, prompt):
        order.append(plan.text)
        return timed(engine, plan, prompt)

    monkeypatch.setattr(cost, "_time_once", note)
    measure(TorchEngine(tiny(), "float32"), parse_all(["base", "0:2"]), repeats=2, seed=1)
    assert order == ["base", "0:2"] * 3
