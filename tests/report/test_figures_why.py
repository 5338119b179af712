import pandas as pd
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.catalogue import WHY, pictures
from frankenlab.report.figures.predictors import predictors, predictors_finding
from frankenlab.report.figures.probe import (
    layer_updates,
    layer_updates_finding,
    state_similarity,
    state_similarity_finding,
)
from frankenlab.report.figures.style import WIDTH, spec_of, svg_of
from tests.support.charts import faults, rows_of_spec, size_of, words_of
from tests.support.synthetic_why import CORRELATIONS, correlations, why_tables

LEVELS = Statistics()
WHERE = {"model": "smollm2-135m-instruct", "quantization": "none"}


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return why_tables(["arc_easy", "sst2"], WHERE)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("scopes", [("layers",), ("layers", "blocks")])
def test_pictures_are_whole_and_legible(tables, count, scopes):
    tasks = [f"a-task-with-a-long-name-{number}" for number in range(count)]
    data = tables | {"predictors": correlations(tasks, WHERE, scopes)}
    found = [p for p in pictures(data, *WHERE.values()) if p.entry.category == WHY]
    assert [p.entry.name for p in found] == ["predictors", "layer_updates", "state_similarity"]
    for picture in found:
        spec = spec_of(picture.draw(data, LEVELS))
        svg = svg_of(spec)
        assert faults(svg) == [], picture.stem
        assert size_of(svg)[0] <= WIDTH + 1, picture.stem
        assert spec["description"] == picture.finding(data, LEVELS) != ""
        assert f"{WHERE['model']} · unquantized" in words_of(svg)


def test_the_finding_leads_with_the_number_that_was_chosen_elsewhere(tables):
    said = predictors_finding(tables, LEVELS, **WHERE)
    assert said.startswith(
        "The number that does best on the other tasks, and needs no evaluation, predicts how well "
        "a repeat does: its rank correlation with the effect of running a single layer twice is "
        "+0.52 [+0.04, +0.82] on arc_easy (change of the next token (KL), chosen on others) and "
        "+0.42 [+0.04, +0.82] on sst2"
    )
    assert "Stability score (CircuitProbe): +0.08 and −0.02." in said
    assert "Position in the model alone: +0.35 and +0.25." in said


@pytest.mark.parametrize(
    ("lows", "verb"),
    [((0.1, -0.1), "predicts on some tasks only how"), ((-0.2, -0.1), "does not reliably predict")],
)
def test_the_finding_claims_no_more_than_the_intervals(tables, lows, verb):
    table = tables["predictors"].copy()
    for task, low in zip(("arc_easy", "sst2"), lows, strict=True):
        table.loc[(table["predictor"] == "chosen") & (table["task"] == task), "low"] = low
    assert verb in predictors_finding({"predictors": table}, LEVELS, **WHERE)


def test_with_one_task_the_finding_says_that_the_best_is_partly_luck():
    values = {
        name: value
        for name, value in CORRELATIONS.items()
        if name in ("kl", "stability", "position")
    }
    table = {"predictors": correlations(["arc_easy"], WHERE, ("layers",), values)}
    said = predictors_finding(table, LEVELS, **WHERE)
    assert said.startswith("Of 2 numbers that need no evaluation, ")
    assert "change of the next token (KL) (−0.65 [" in said and "partly luck" in said


@pytest.mark.slow
def test_every_number_is_drawn_once_for_each_task_and_scope(tables):
    rows = rows_of_spec(spec_of(predictors(tables, LEVELS, **WHERE)))
    drawn = [row for row in rows if "correlation" in row]
    assert len(drawn) == len(tables["predictors"])
    assert all(row["text"] for row in drawn)


def test_the_finding_on_updates_says_sizes_and_direction(tables):
    table = tables["probe"].assign(
        first_block=0.2, second_block=0.1, turn_block=0.85, layer=tables["probe"]["layer"]
    )
    said = layer_updates_finding({"probe": table}, LEVELS, **WHERE)
    assert said == (
        "In the median a layer's update is 0.2 times the size of the hidden state on its first "
        "pass and 0.1 times on a second; 0 of 30 layers add more on the second. The two updates "
        "point much the same way (median cosine 0.85)."
    )


def test_similarity_is_a_full_matrix_and_names_the_extremes(tables):
    near = tables["similarity"].copy()
    here = (near["first"] == 4) & (near["second"] == 5)
    near.loc[here, "cosine"] = -0.9
    rows = rows_of_spec(spec_of(state_similarity({"similarity": near}, LEVELS, **WHERE)))
    assert len(rows) == 31 * 31
    found = {(row["first"], row["second"]): row["cosine"] for row in rows}
    assert found[4, 5] == found[5, 4] == -0.9 and found[7, 7] == 1
    said = state_similarity_finding({"similarity": near}, LEVELS, **WHERE)
    assert "layer 4 turns it most (−0.90)" in said


@pytest.mark.parametrize("draw", [predictors, layer_updates, state_similarity])
def test_without_a_probe_there_is_nothing_to_draw(draw):
    assert "title" not in spec_of(draw({}, LEVELS, **WHERE))
    finding = {
        "predictors": predictors_finding,
        "layer_updates": layer_updates_finding,
        "state_similarity": state_similarity_finding,
    }[draw.__name__]
    assert finding({}, LEVELS, **WHERE) == ""
