import pandas as pd
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.maps import (
    DROPPED,
    block_cells,
    block_map,
    block_map_finding,
    color_limit,
)
from frankenlab.report.figures.style import spec_of, svg_of
from tests.support import synthetic_tables as synthetic
from tests.support.charts import rows_of_spec, words_of

WHERE = {"model": synthetic.MODEL, "quantization": "none", "task": "arc_easy"}
LEVELS = Statistics()


@pytest.fixture(scope="module")
def tables():
    return synthetic.make_tables(step=6)[0]


def drawn(tables, levels: Statistics = LEVELS) -> list[dict]:
    return rows_of_spec(spec_of(block_map(tables, levels, **WHERE)))


def places(rows: list[dict]) -> set[tuple[int, int]]:
    return {(row["start"], row["length"]) for row in rows}


def twice(tables) -> pd.DataFrame:
    rows = tables["comparisons"]
    rows = rows[(rows["stage"] == "search") & (rows["task"] == "arc_easy")]
    return rows[(rows["times"] == 2).fillna(False)]


def altered(tables, start: int, stop: int, **columns) -> dict:
    """The tables, with other values of a block that runs twice."""
    table = tables["comparisons"].copy()
    block = (table["start"] == start) & (table["stop"] == stop) & (table["times"] == 2)
    for column, value in columns.items():
        table.loc[block.fillna(False) & (table["stage"] == "search"), column] = value
    return tables | {"comparisons": table}


@pytest.mark.parametrize("other", [{"part": "attn"}, {"scale": 0.5}, {"in_place": True}])
def test_only_whole_layers_that_repeat_as_they_are_have_a_cell(tables, other):
    changed = altered(tables, 18, 21, **other)
    before, after = (places(block_cells(twice(t)).to_dict("records")) for t in (tables, changed))
    assert before - after == {(18, 3)}


@pytest.mark.slow
def test_what_was_tried_is_coloured_and_the_rest_that_fits_is_hatched(tables):
    rows = drawn(tables)
    tried = {(row.start, row.stop - row.start) for row in twice(tables).itertuples()}
    starts, lengths = {start for start, _ in tried}, {length for _, length in tried}
    fitting = {(s, n) for s in starts for n in lengths if s + n <= synthetic.LAYERS}
    assert places([row for row in rows if "effect" in row]) == tried
    empty = [row for row in rows if "start" in row and "effect" not in row]
    assert places(empty) == fitting - tried != set()
    assert {length for _, length in tried} >= {1}, "single layers are blocks of one layer"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("effect", "low", "high", "significant", "mark"),
    [
        (9.0, 4.0, 14.0, True, "▲"),
        (-9.0, -14.0, -4.0, True, "▼"),
        (-9.0, -14.0, -4.0, False, ""),
        # Significant by its flips, though its change is smaller than the half-width.
        (-3.0, -7.0, 1.0, True, ""),
    ],
)
def test_a_mark_stands_on_significant_changes_beyond_the_half_width(
    tables, effect, low, high, significant, mark
):
    values = {"effect": effect, "low": low, "high": high, "significant": significant}
    rows = drawn(altered(tables, 18, 19, **values))
    (cell,) = {
        (row["mark"], row["half"])
        for row in rows
        if (row.get("start"), row.get("length")) == (18, 1) and "mark" in row
    }
    assert cell == (mark, (high - low) / 2)


def test_colours_are_symmetric_and_never_clip_a_gain():
    cells = pd.DataFrame({"effect": [-80.0] + [-2.0] * 30 + [7.0]})
    assert color_limit(cells) == 7.0
    worse = pd.DataFrame({"effect": [-80.0] + [-2.0] * 30})
    assert color_limit(worse) == 2.0


@pytest.mark.slow
def test_what_a_race_dropped_has_a_dot_and_no_other_mark(tables):
    raced = synthetic.as_race(tables)
    dropped = twice(raced)[twice(raced)["dropped"].notna()]
    dots = [row for row in drawn(raced) if row.get("mark") == DROPPED and "number" not in row]
    assert places(dots) == {(row.start, row.stop - row.start) for row in dropped.itertuples()}


def test_the_finding_counts_marks_and_names_best_and_worst(tables):
    better = altered(tables, 18, 19, effect=30.0, low=25.0, high=35.0, significant=True)
    said = block_map_finding(better, LEVELS, **WHERE)
    assert "1 made arc_easy significantly better" in said
    assert "The best, layer 18 twice, changed its accuracy by +30.0 points [+25.0, +35.0]" in said
    assert "points is no evidence on a typical block." in said


def test_the_finding_takes_the_luck_off_the_best(tables):
    values = {"shrunken": 4.0, "shrunken_low": -1.0, "shrunken_high": 9.0}
    better = altered(tables, 18, 19, effect=30.0, low=25.0, high=35.0, **values)
    said = block_map_finding(better, LEVELS, **WHERE)
    assert "[+25.0, +35.0] (shrunken for its luck: +4.0 [−1.0, +9.0])" in said


@pytest.mark.slow
def test_every_cell_says_its_shrunken_effect(tables):
    values = {"shrunken": 4.0, "shrunken_low": -1.0, "shrunken_high": 9.0}
    rows = [row for row in drawn(altered(tables, 18, 19, **values)) if "half" in row]
    assert all(row["shrunken"].count("[") == 1 for row in rows)
    (cell,) = {r["shrunken"] for r in rows if (r["start"], r["length"]) == (18, 1)}
    assert cell == "+4.0 points [−1.0, +9.0]"


def test_the_best_of_a_race_is_one_that_it_did_not_drop(tables):
    dropped = altered(tables, 18, 19, effect=30.0, dropped=1)
    said = block_map_finding(dropped, LEVELS, **WHERE)
    assert "The best, layer 18 twice" not in said
    assert "the race dropped 1 early; of the other " in said


@pytest.mark.slow
def test_a_grid_without_blocks_gives_a_figure_that_says_so(tables):
    rows = tables["comparisons"]
    only = {"comparisons": rows[rows["group"].isin(["base", "random_block"])]}
    assert "no plan" in words_of(svg_of(spec_of(block_map(only, LEVELS, **WHERE))))
    assert block_map_finding(only, LEVELS, **WHERE) == ""


@pytest.mark.slow
def test_a_grid_of_one_plan_is_drawn(tables):
    rows = tables["comparisons"]
    one = (rows["start"] == 18) & (rows["stop"] == 19) & (rows["times"] == 2)
    words = words_of(svg_of(spec_of(block_map({"comparisons": rows[one]}, LEVELS, **WHERE))))
    assert "1 block ·" in words


@pytest.mark.slow
def test_the_levels_reach_the_figure(tables):
    words = words_of(svg_of(spec_of(block_map(tables, Statistics(fdr=0.1), **WHERE))))
    assert "(false discovery rate 0.1)" in words


@pytest.mark.slow
def test_a_grid_of_two_thousand_plans_is_small(monkeypatch):
    monkeypatch.setattr(synthetic, "LAYERS", 64)
    plans = synthetic.make_plans()
    assert len(plans) > 2000
    rows = synthetic.comparison_rows("search", plans, list(synthetic.TASKS[:1]))
    spec = spec_of(block_map({"comparisons": rows}, LEVELS, **WHERE))
    svg = svg_of(spec)
    assert len(svg) < 1e6 and len(str(spec)) < 1e6


def test_cells_without_a_shrunken_effect_say_nothing_of_it(tables):
    columns = dict.fromkeys(("shrunken", "shrunken_low", "shrunken_high"), float("nan"))
    bare = tables | {"comparisons": tables["comparisons"].assign(**columns)}
    assert "shrunken" in block_map_finding(tables, LEVELS, **WHERE)
    found = block_map_finding(bare, LEVELS, **WHERE)
    assert "shrunken" not in found and "nan" not in found
