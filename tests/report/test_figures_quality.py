from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.quality import (
    mean_over_tasks,
    quality_cost,
    quality_cost_finding,
)
from frankenlab.report.figures.speed import quality_speed, quality_speed_finding
from frankenlab.report.figures.style import spec_of, svg_of
from tests.support import synthetic_tables as synthetic
from tests.support.charts import faults, rows_of_spec, words_of

WHERE = MappingProxyType({"model": synthetic.MODEL, "quantization": "none"})
LEVELS = Statistics()


@pytest.fixture(scope="module")
def tables():
    return synthetic.make_tables(step=6)[0]


def layers(spec: dict, mark: str) -> list[dict]:
    """All layers of a specification with a mark."""
    found, pending = [], [spec]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            kind = part.get("mark")
            if isinstance(kind, dict) and kind["type"] == mark:
                found.append(part)
            pending += [value for key, value in part.items() if key != "datasets"]
        elif isinstance(part, list):
            pending += part
    return found


def own_rows(spec: dict, layer: dict) -> list[dict]:
    return spec["datasets"][layer["data"]["name"]]


def test_mean_over_tasks_adds_independent_errors_in_quadrature():
    rows = pd.DataFrame(
        {
            "plan": ["a", "a", "b"],
            "task": ["x", "y", "x"],
            "group": "block",
            "unit": "points",
            "depth": 33,
            "relative_depth": 1.1,
            "effect": [2.0, 4.0, 9.0],
            "low": [-1.0, 0.0, 8.0],
            "high": [4.0, 12.0, 10.0],
            "n": [100, 50, 100],
            "dropped": pd.NA,
        }
    )
    mean = mean_over_tasks(rows)
    assert mean["plan"].tolist() == ["a"], "b lacks a task, so it has no mean"
    row = mean.iloc[0]
    assert (row["effect"], row["low"], row["n"]) == (3.0, 3.0 - 5.0 / 2, 150)
    assert row["high"] == pytest.approx(3.0 + np.hypot(2, 8) / 2)


@pytest.mark.slow
def test_every_plan_is_a_point_of_every_panel(tables):
    spec = spec_of(quality_cost(tables, LEVELS, **WHERE))
    rows = [r for layer in layers(spec, "point") for r in own_rows(spec, layer) if "cost" in r]
    search = tables["comparisons"]
    search = search[(search["stage"] == "search") & (search["role"] == "search")]
    plans = set(search["plan"])
    tasks = {*search["task"], "mean of 2 tasks"}
    assert {(row["plan"], row["task"]) for row in rows} == {(p, t) for p in plans for t in tasks}
    assert len(rows) == len(plans) * 3, "each once"


@pytest.mark.slow
def test_different_units_have_no_mean(tables):
    comparisons = tables["comparisons"].copy()
    sciq = comparisons["task"] == "sciq"
    comparisons.loc[sciq, ["unit", "kind", "metric"]] = ["log-percent", "perplexity", "perplexity"]
    mixed = tables | {"comparisons": comparisons}
    words = words_of(svg_of(spec_of(quality_cost(mixed, LEVELS, **WHERE))))
    assert "Mean of" not in words and "log-percent" in words
    assert "on arc_easy is" in quality_cost_finding(mixed, LEVELS, **WHERE)


@pytest.mark.slow
def test_no_dropped_plan_is_on_the_front_and_all_of_them_are_light(tables):
    raced = synthetic.as_race(tables)
    table = raced["comparisons"].copy()
    dropped = table["dropped"].notna()
    table.loc[dropped, "effect"] = 99.0
    spec = spec_of(quality_cost(raced | {"comparisons": table}, LEVELS, **WHERE))
    (stairs, *_) = [layer for layer in layers(spec, "line") if "interpolate" in layer["mark"]]
    assert max(row["effect"] for row in own_rows(spec, stairs)) < 99.0
    light = [layer for layer in layers(spec, "point") if layer["mark"].get("color") == "#c3c9d1"]
    high = {r["plan"] for layer in light for r in own_rows(spec, layer) if r.get("shown") == 99.0}
    assert high == set(table.loc[dropped & (table["stage"] == "search"), "plan"])
    assert "dropped in the race" in words_of(svg_of(spec))


@pytest.mark.slow
def test_two_thousand_plans_are_drawn_small(monkeypatch):
    monkeypatch.setattr(synthetic, "LAYERS", 62)
    plans = synthetic.make_plans(1)
    tasks = [task for task in synthetic.TASKS if task.role == "search"]
    tables = {"comparisons": synthetic.comparison_rows("search", plans, tasks)}
    spec = spec_of(quality_cost(tables, LEVELS, **WHERE))
    svg = svg_of(spec)
    assert len(plans) > 2000
    assert len(svg) < 1.5e6 and len(str(spec)) < 1.5e6


@pytest.mark.parametrize(
    ("effect", "said"),
    [
        (8.0, "with +8.0 points [+6.0, +10.0] at 1.03 times the layers; 1 measured better"),
        (-1.0, "with −1.0 points [−3.0, +1.0] at 1.03 times the layers; none measured better"),
    ],
)
def test_the_finding_names_the_best_plan_and_counts_what_was_better(tables, effect, said):
    table = tables["comparisons"].copy()
    others = (table["plan"] != "base") & (table["stage"] == "search")
    table.loc[others, ["effect", "low", "high"]] = [-9.0, -11.0, -7.0]
    best = others & (table["plan"] == "0:19,19:20x2,20:30")
    half = 2 * 2**0.5
    table.loc[best, ["effect", "low", "high"]] = [effect, effect - half, effect + half]
    finding = quality_cost_finding({"comparisons": table}, LEVELS, **WHERE)
    assert (
        f"the best on the mean of 2 tasks is to run layer 19 twice, {said} than the base."
        in finding
    )
    assert "the median change is −9.0 points, among deeper ones −9.0 points." in finding


def test_without_plans_there_is_no_finding(tables):
    base = tables["comparisons"][tables["comparisons"]["plan"] == "base"]
    for nothing in ({}, {"comparisons": base}, {"comparisons": base, "costs": tables["costs"]}):
        assert quality_cost_finding(nothing, LEVELS, **WHERE) == ""
        assert quality_speed_finding(nothing, LEVELS, **WHERE) == ""
        assert "title" not in spec_of(quality_cost(nothing, LEVELS, **WHERE))
        assert "title" not in spec_of(quality_speed(nothing, LEVELS, **WHERE))


@pytest.mark.slow
def test_speeds_stand_at_their_ratio_with_the_interval_and_a_tick_of_the_arithmetic(tables):
    spec = spec_of(quality_speed(tables, LEVELS, **WHERE))
    frozen = tables["costs"].set_index("group").loc["block"]
    rows = [r for r in rows_of_spec(spec) if r.get("plan") == frozen["plan"]]
    for column in ("prefill_ratio", "prefill_ratio_low", "decode_ratio_high"):
        assert [row[column] for row in rows] == pytest.approx([frozen[column]] * len(rows))
    assert len(rows) == 5, "once a task"
    ticks = [row for layer in layers(spec, "tick") for row in own_rows(spec, layer)]
    places = [layer["encoding"]["x"]["field"] for layer in layers(spec, "tick")]
    assert places == ["arithmetic_ratio"] * 2 * 5, "one in each panel"
    assert {row["arithmetic_ratio"] for row in ticks} == {
        round(ratio, 4) for ratio in tables["costs"]["arithmetic_ratio"] if ratio != 1
    }
    assert faults(svg_of(spec)) == []


def speeds(low: float, high: float) -> dict[str, pd.DataFrame]:
    """Tables in which the frozen plan writes at 0.95 times the base's speed, within limits."""
    rows = pd.DataFrame({"plan": ["base", "0:23,22:30"], "depth": [30, 31]})
    rows = rows.assign(**WHERE, relative_depth=rows["depth"] / 30)
    rows["group"] = ["base", "frozen"]
    ratios = {"decode_ratio": 0.95, "decode_ratio_low": low, "decode_ratio_high": high}
    ratios |= {"prefill_ratio": 0.9, "prefill_ratio_low": 0.88, "prefill_ratio_high": 0.92}
    ratios["arithmetic_ratio"] = 0.97
    of_base = dict.fromkeys(ratios, 1.0)
    costs = pd.concat([rows, pd.DataFrame([of_base, ratios])], axis=1)
    return {"comparisons": rows.assign(stage="confirm"), "costs": costs}


@pytest.mark.parametrize(
    ("low", "high", "said", "silent"),
    [
        (0.92, 0.98, "writing at 0.95 times [0.92, 0.98] the base's speed", False),
        (0.56, 2.43, "writing at 0.95 times [0.56, 2.43] the base's speed", True),
        (float("nan"), float("nan"), "writing at 0.95 times the base's speed", False),
    ],
)
def test_the_finding_on_speed_says_where_the_clock_shows_nothing(low, high, said, silent):
    finding = quality_speed_finding(speeds(low, high), LEVELS, **WHERE)
    assert finding.startswith("Layer 22 twice is measured reading a prompt at 0.90 times [0.88")
    assert f"{said}; arithmetic alone says 0.97." in finding
    assert ("For writing the clock shows no difference" in finding) == silent
