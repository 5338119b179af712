"""The figure of more repetitions, and its finding."""

import pandas as pd
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.repetitions import repetition_effect, repetition_effect_finding
from frankenlab.report.figures.style import spec_of, svg_of
from tests.support import synthetic_tables as synthetic
from tests.support.charts import faults, rows_of_spec, words_of

WHERE = {"model": synthetic.MODEL, "quantization": "none"}
LEVELS = Statistics()


@pytest.fixture(scope="module")
def tables():
    return synthetic.make_tables(step=6)[0]


def dose(**changes) -> dict:
    """The row of `dose_response` of 15 layers, of which more repetitions are worse."""
    row = {"task": "a", "unit": "points", "part": "block", "scale": 1.0, "blocks": 15, "longest": 1}
    row |= {
        "in_place": False,
        "slope": -2.1,
        "slope_low": -3.3,
        "slope_high": -1.0,
        "significant": True,
    }
    return WHERE | row | {"best": 1, "best_low": 1, "best_high": 1, "worse_from": 3} | changes


def finding(*rows: dict) -> str:
    table = pd.DataFrame(rows).astype({"worse_from": "Int64"})
    return repetition_effect_finding({"dose_response": table}, LEVELS, **WHERE)


@pytest.mark.slow
def test_counts_stand_at_whole_places_and_all_lines_begin_at_the_base(tables):
    svg = svg_of(spec := spec_of(repetition_effect(tables, LEVELS, **WHERE)))
    rows = [row for row in rows_of_spec(spec) if "place" in row]
    assert {row["place"] for row in rows} == {1, 2, 3, 4} and faults(svg) == []
    once = [row for row in rows if row["place"] == 1]
    assert {row["effect"] for row in once} == {0.0}
    mean = tables["repetitions"].round(3)
    drawn = {(row["task"], row["times"], row["effect"]) for row in rows if row.get("blocks")}
    assert drawn == set(mean[["task", "times", "effect"]].itertuples(index=False, name=None))


@pytest.mark.slow
def test_single_blocks_are_those_of_the_mean_whatever_their_effect(tables):
    spec = spec_of(repetition_effect(tables, LEVELS, **WHERE))
    blocks = {row["block"] for row in rows_of_spec(spec) if "block" in row}
    assert blocks == {"18:21", "8:12"} and (tables["repetitions"]["blocks"] == 2).all()


@pytest.mark.slow
def test_several_parts_are_lines_side_by_side_without_the_single_blocks(tables):
    whole = tables["repetitions"]
    both = pd.concat([whole, whole.assign(part="attn", effect=whole["effect"] / 2)])
    svg = svg_of(
        spec := spec_of(repetition_effect(tables | {"repetitions": both}, LEVELS, **WHERE))
    )
    rows = rows_of_spec(spec)
    assert not [row for row in rows if "block" in row] and faults(svg) == []
    places = {(row["part"], row["place"] - row["times"]) for row in rows if row.get("part")}
    assert len(places) > 1 and "mean over the attention of 2 blocks" in words_of(svg)
    assert all((beside > 0) == (part == "attn") for part, beside in places)


def test_the_finding_says_slope_best_count_and_from_where_on_more_is_worse():
    assert finding(dose()) == (
        "Each further repetition of these 15 layers costs 2.1 points [1.0, 3.3] on a. "
        "Once is best on a, and from three times on the result is significantly worse."
    )


def test_without_a_trend_the_finding_claims_none():
    flat = {"slope": 0.3, "slope_low": -1.0, "significant": False, "worse_from": pd.NA}
    said = finding(dose(**flat, slope_high=1.6, best=2, best_high=4, longest=3))
    assert said == (
        "There is no evidence that further repetitions of these 15 blocks change a "
        "(+0.3 points each [−1.0, +1.6]). "
        "Twice measures best on a, with a 95 % interval from once to four times."
    )
    assert finding(dose(), dose(task="b")) == (
        "Each further repetition of these 15 layers costs 2.1 points [1.0, 3.3] on a and 2.1 "
        "points [1.0, 3.3] on b. Once is best on a and b, and from three times on the result is "
        "significantly worse."
    )
    both = finding(dose(), dose(**flat, slope_high=1.6, task="b"))
    assert "[1.0, 3.3] on a; no evidence of a trend on b (+0.3 points each" in both


def test_parts_have_their_own_sentences_and_perplexities_are_in_per_cent():
    attention = dose(part="attn", scale=0.5, in_place=True, unit="log-percent", slope=-8)
    attention["slope_low"] = -12
    said = finding(dose(slope=2.1, slope_low=1.0, slope_high=3.3), attention | {"slope_high": -4})
    assert "Each further repetition of these 15 layers adds 2.1 points [1.0, 3.3] on a." in said
    assert (
        "Each further repetition of the attention of these 15 layers (scaled by 0.5, in place) "
        "changes the perplexity of a by +8.3 % [+4.1, +12.7]." in said
    )


def test_a_grid_without_repetitions_has_no_finding(tables):
    for nothing in ({}, {name: tables[name].head(0) for name in ("repetitions", "dose_response")}):
        assert repetition_effect_finding(nothing, LEVELS, **WHERE) == ""
        assert "title" not in spec_of(repetition_effect(nothing, LEVELS, **WHERE))
