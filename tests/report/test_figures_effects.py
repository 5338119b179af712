import pandas as pd
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.effects import (
    layer_effects,
    layer_effects_finding,
    loops,
)
from frankenlab.report.figures.style import BLUE, spec_of, svg_of
from tests.support import synthetic_tables as synthetic
from tests.support.charts import faults, rows_of_spec, words_of

WHERE = {"model": synthetic.MODEL, "quantization": "none"}
LEVELS = Statistics()


@pytest.fixture(scope="module")
def tables():
    return synthetic.make_tables(step=6)[0]


def single_layers(tables) -> pd.DataFrame:
    rows = tables["comparisons"]
    rows = rows[(rows["stage"] == "search") & rows["start"].notna()]
    return rows[(rows["stop"] - rows["start"] == 1) & (rows["times"] > 1)]


def altered(tables, start: int, **columns) -> dict:
    """The tables, with other values of a single layer that runs twice, on all tasks."""
    table = tables["comparisons"].copy()
    layer = (table["start"] == start) & (table["stop"] == start + 1) & (table["times"] == 2)
    for column, value in columns.items():
        table.loc[layer.fillna(False) & (table["stage"] == "search"), column] = value
    return tables | {"comparisons": table}


@pytest.mark.parametrize("other", [{"part": "attn"}, {"scale": 0.5}, {"in_place": True}])
def test_loops_are_whole_layers_that_repeat_as_they_are(tables, other):
    changed = altered(tables, 5, **other)
    before, after = (loops(t["comparisons"], **WHERE) for t in (tables, changed))
    gone = before.loc[before.index.difference(after.index)]
    assert set(zip(gone["start"], gone["length"], gone["times"], strict=True)) == {(5, 1, 2)}


@pytest.mark.slow
def test_every_layer_run_twice_stands_exactly_at_its_number(tables):
    spec = spec_of(layer_effects(tables, LEVELS, **WHERE))
    rows = [row for row in rows_of_spec(spec) if "layer" in row]
    expected = single_layers(tables)
    assert len(rows) == len(expected)
    twice = [row for row in rows if row["series"] == "run twice"]
    assert {row["layer"] for row in twice} == set(range(synthetic.LAYERS))
    assert all(row["place"] == row["layer"] for row in twice)
    others = [row for row in rows if row["series"] == "run three times"]
    assert all(0 < row["place"] - row["layer"] < 0.5 for row in others) and others


@pytest.mark.slow
def test_only_significant_layers_are_filled(tables):
    spec = spec_of(layer_effects(tables, LEVELS, **WHERE))
    rows = [row for row in rows_of_spec(spec) if "fill" in row]
    filled = {(row["plan"], row["task"]) for row in rows if row["fill"] != "white"}
    expected = single_layers(tables)
    expected = expected[expected["significant"].astype(bool)]
    assert filled == set(expected[["plan", "task"]].itertuples(index=False, name=None))
    assert 0 < len(filled) < len(rows)


@pytest.mark.slow
def test_a_frozen_single_layer_has_the_blue_of_all_figures(tables):
    path = tables["path"].assign(plan="0:19,19:20x2,20:30", group="frozen").head(3)
    fewer = {"comparisons": tables["comparisons"], "path": path}
    spec = spec_of(layer_effects(fewer, LEVELS, **WHERE))
    named = [
        r for r in rows_of_spec(spec) if r.get("series", "").startswith("frozen plan: layer 19")
    ]
    assert [row["layer"] for row in named] == [19, 19], "one a task"
    assert BLUE in str(spec)


@pytest.mark.slow
def test_what_a_race_dropped_is_light_and_untested(tables):
    raced = synthetic.as_race(tables)
    svg = svg_of(spec := spec_of(layer_effects(raced, LEVELS, **WHERE)))
    rows = [row for row in rows_of_spec(spec) if "strength" in row]
    dropped = [row for row in rows if row["strength"] < 1]
    assert len(dropped) == single_layers(raced)["dropped"].notna().sum() > 0
    assert {row["test"] for row in dropped} == {"dropped in the race"}
    assert "dropped in the race" in words_of(svg) and faults(svg) == []


@pytest.mark.slow
def test_ruinous_layers_are_marked_on_the_axis_and_counted(tables):
    ruined = altered(tables, 0, effect=-900.0, low=-910.0, high=-890.0)
    svg = svg_of(spec_of(layer_effects(ruined, LEVELS, **WHERE)))
    assert words_of(svg).count("▼ 1 below the axis, worst −900.0") == 2


def test_the_best_third_of_the_layers_is_named_with_its_numbers(tables):
    finding = layer_effects_finding(tables, LEVELS, **WHERE)
    assert finding.startswith("Running a middle layer twice costs least: −")
    assert "points on average over 2 tasks, against −" in finding
    assert finding.endswith(
        "none of the 30 is significantly better than the base (q < 0.05, exploration)."
    )
    assert "**" not in finding and "nan" not in finding


@pytest.mark.parametrize(
    ("effect", "significant", "end"),
    [
        (
            9.0,
            True,
            "layer 15 is significantly better than the base on some task (q < 0.05, exploration).",
        ),
        (
            9.0,
            False,
            "none of the 30 is significantly better than the base (q < 0.05, exploration).",
        ),
        (
            -60.0,
            True,
            "none of the 30 is significantly better than the base (q < 0.05, exploration).",
        ),
    ],
)
def test_the_finding_on_layers_calls_better_only_what_is_significant(
    tables, effect, significant, end
):
    changed = altered(
        tables, 15, effect=effect, low=effect - 2, high=effect + 2, significant=significant
    )
    finding = layer_effects_finding(changed, LEVELS, **WHERE)
    assert finding.endswith(end)
    assert ("Layer 15 measures best (+9.0 points" in finding) == (effect > 0)
    assert ("layer 15 worst (−60.0 points)" in finding) == (effect < 0)


def test_a_grid_without_single_layers_has_no_finding(tables):
    comparisons = tables["comparisons"]
    only = {"comparisons": comparisons[comparisons["group"].isin(["base", "random_block"])]}
    for nothing in (only, {}, {"comparisons": comparisons.head(0)}):
        assert layer_effects_finding(nothing, LEVELS, **WHERE) == ""
        assert "title" not in spec_of(layer_effects(nothing, LEVELS, **WHERE))
