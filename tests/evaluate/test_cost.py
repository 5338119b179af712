"""Cost is measured on each plan alone, in turns."""

import math
import random
import statistics

import pytest

from frankenlab.config import experiment as config
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate import cost
from frankenlab.evaluate.cost import clock_says, measure, median_interval
from tests.support.models import parse_all


def test_a_row_per_plan_with_medians_inside_their_ranges(tiny):
    plans = parse_all(["base", "0:3,1:4"])
    rows = measure(TorchEngine(tiny(), "float32"), plans, [1.0, 0.7], repeats=3, seed=1)
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

    def slow(*arguments):
        now[0] += 10 if first[0] else 1
        return run(*arguments)

    calls = []

    def reset(device):
        calls.append(device)
        first[0] = len(calls) <= 2

    monkeypatch.setattr(engine, "run", slow)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(cost, "_reset_peak", reset)
    rows = measure(engine, parse_all(["base", "0:4,0:4"]), [1.0, 0.5], repeats=2, seed=1)
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
    measure(TorchEngine(tiny(), "float32"), parse_all(["base", "0:2"]), [1.0, 2.0], 2, seed=1)
    assert order == ["base", "0:2"] * 3


def test_a_drift_of_the_machine_leaves_the_ratios_alone(tiny, monkeypatch):
    """A machine that is ten times slower at the end still says that a plan takes twice as long."""
    turns = iter(range(100))
    speeds = {"base": 100.0, "0:4x2": 50.0}

    def timed(engine, plan, prompt):
        drift = 1 + next(turns) // 2
        return speeds[plan.text] / drift, 2 * speeds[plan.text] / drift

    monkeypatch.setattr(cost, "_time_once", timed)
    engine, plans = TorchEngine(tiny(), "float32"), parse_all(list(speeds))
    base, plan = measure(engine, plans, [1.0, 0.5], repeats=9, seed=1)
    assert plan["prefill_high"] > 2 * plan["prefill_low"]
    for name in ("prefill", "decode"):
        assert [plan[f"{name}_ratio{end}"] for end in ("", "_low", "_high")] == [0.5] * 3
        assert (plan[f"{name}_clock"], base[f"{name}_clock"]) == ("slower", None)
    assert (base["decode_ratio"], plan["arithmetic_ratio"]) == (1.0, 0.5)


def test_an_interval_of_a_median_holds_it_as_often_as_it_says():
    drawn, held = random.Random(1), 0
    for _ in range(2000):
        low, high = median_interval([drawn.expovariate(1.0) for _ in range(10)])
        held += low <= math.log(2) <= high
    assert 0.965 < held / 2000 < 0.99, "10 values give 97.9 %, all of them 99.8 %"


def test_few_repeats_have_no_interval_and_many_a_narrow_one():
    assert all(map(math.isnan, median_interval([1.0, 2.0, 3.0, 4.0, 5.0])))
    assert median_interval([6.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == (1.0, 6.0)
    many = list(range(1001))
    low, high = median_interval(many)
    assert statistics.median(many) - low == high - statistics.median(many) == 31


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.8, 0.9, "slower"),
        (1.1, 1.2, "faster"),
        (0.98, 1.02, "as fast"),
        (0.9, 1.1, "silent"),
        (math.nan, math.nan, "silent"),
    ],
)
def test_a_clock_that_cannot_tell_the_arithmetic_from_nothing_is_silent(low, high, says):
    assert clock_says(low, high, arithmetic=0.95) == says
