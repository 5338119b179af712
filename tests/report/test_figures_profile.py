import re

import pandas as pd
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import Change
from frankenlab.report.figures.profile import profile, profile_finding
from frankenlab.report.figures.style import WIDTH, spec_of, svg_of
from tests.support import synthetic_tables as synthetic
from tests.support.charts import faults, rows_of_spec, size_of, words_of

WHERE = {"model": synthetic.MODEL, "quantization": "none"}
LEVELS = Statistics()
PAIRS = (("attn", "base"), ("mlp", "base"), ("attn", "block"), ("mlp", "block"), ("attn", "mlp"))


@pytest.fixture(scope="module")
def tables():
    return synthetic.make_tables(step=6)[0]


@pytest.fixture(scope="module")
def parted(tables):
    """The tables, had attention and MLP been repeated as well, and in another model."""
    frames, shapes = [tables["profile"]], [tables["reliability"]]
    own = tables["profile"]
    for shift, (part, against) in enumerate(PAIRS):
        moved = own.assign(part=part, against=against)
        moved["plan"] = [
            Change(row.start, row.stop, 2, part).plan(synthetic.LAYERS).text
            for row in own.itertuples()
        ]
        for column in ("effect", "low", "high", "band_low", "band_high", "shrunken"):
            moved[column] = own[column] + shift
        frames.append(moved)
        mean = tables["reliability"]["measure"] == "mean"
        shapes.append(tables["reliability"][mean].assign(part=part, against=against))
    frames.append(own.assign(model="another", position=own["position"] / 2))
    alike = (
        tables["reliability"]
        .head(1)
        .assign(model="another", other=synthetic.MODEL, measure="between models", estimate=0.2)
    )
    shapes.append(alike.assign(low=-0.1, high=0.5))
    names = {"profile": pd.concat(frames), "reliability": pd.concat(shapes)}
    return tables | {name: table.reset_index(drop=True) for name, table in names.items()}


def of(tables, **columns) -> dict:
    """The tables, with other values in the profile of the first task."""
    table = tables["profile"].copy()
    table.loc[table["task"] == "arc_easy", list(columns)] = list(columns.values())
    return tables | {"profile": table}


@pytest.mark.slow
def test_every_place_stands_at_its_share_of_the_depth(tables):
    rows = [r for r in rows_of_spec(spec_of(profile(tables, LEVELS, **WHERE))) if r.get("plan")]
    expected = tables["profile"]
    assert len(rows) == len(expected) == 2 * synthetic.LAYERS
    assert sorted(row["position"] for row in rows) == pytest.approx(
        sorted(expected["position"]), abs=1e-3
    )
    names = {"effect": "effect", "shrunken": "shrunken", "low": "band_low", "high": "band_high"}
    for drawn, column in names.items():
        assert [row[drawn] for row in rows] == pytest.approx(expected[column], abs=1e-3)
    assert all(row["shrunken_text"].count("[") == 1 for row in rows)


@pytest.mark.slow
def test_parts_are_one_picture_with_their_paired_differences(parted):
    svg = svg_of(spec := spec_of(profile(parted, LEVELS, **WHERE)))
    rows = [row for row in rows_of_spec(spec) if row.get("plan")]
    assert {(row["part"], row["against"]) for row in rows} == {("block", "base"), *PAIRS}
    words = words_of(svg)
    for name in ("its attention", "its MLP", "the attention minus the MLP", "the MLP minus"):
        assert words.count(name) == 2, "one a task"
    assert "another" in words and faults(svg) == [] and size_of(svg)[0] <= WIDTH + 1
    named = [row for row in rows if row["against"] == "mlp"]
    assert all(row["words"].endswith(", minus the MLP") for row in named) and named
    # All panels of a task have one axis, so that parts compare by eye.
    domains = re.findall(r"'field': 'shrunken'.*?'domain': \[([^]]*)\]", str(spec))
    assert len(domains) >= 12 and len(set(domains)) == 2


@pytest.mark.slow
def test_other_models_lie_over_their_own_depth(parted):
    rows = [r for r in rows_of_spec(spec_of(profile(parted, LEVELS, **WHERE))) if "model" in r]
    assert {row["model"] for row in rows} == {"another"}
    assert max(row["position"] for row in rows) < 0.5


def test_the_finding_says_where_what_the_band_excludes_and_how_reliable_it_is(tables):
    changed = of(tables, band_low=-5.0, band_high=5.0, shrunken=-1.0)
    table = changed["profile"]
    best = (table["task"] == "arc_easy") & (table["start"] == 17)
    places = {"shrunken": 1.2, "shrunken_low": -0.3, "shrunken_high": 2.7}
    table.loc[best, list(places)] = list(places.values())
    table.loc[(table["task"] == "arc_easy") & (table["start"] < 2), "band_high"] = -1.0
    said = profile_finding(changed, LEVELS, **WHERE)
    assert said.startswith(
        "On arc_easy, repeating one layer once more looks best at 58 % of the depth "
        "(layer 17 twice: +1.2 points [−0.3, +2.7] after shrinking); of 30 places, none is "
        "significantly better and 2 worse, and the order of the places has a reliability of "
        "0.47 [0.21, 0.68]. On sciq, it looks best at "
    )
    assert said.endswith(
        "This order has a rank correlation of 0.31 [−0.06, 0.60] between arc_easy and sciq."
    )


def test_the_finding_compares_parts_and_models(parted):
    said = profile_finding(parted, LEVELS, **WHERE)
    assert "Repeating the attention in place of the MLP changes that by " in said
    assert "on arc_easy on average (of 30 places, " in said
    assert " and 0.20 [−0.10, 0.50] with another on arc_easy." in said


def test_the_finding_says_on_how_few_documents_a_race_leaves_it(tables):
    raced = synthetic.as_race(tables)
    said = profile_finding(raced, LEVELS, **WHERE)
    assert said.endswith(
        "All this rests on the 25 of 100 documents of arc_easy and 25 of 100 documents of sciq "
        "that all of these plans saw before the race dropped any."
    )


def test_perplexities_are_in_per_cent(tables):
    changed = of(tables, unit="log-percent", shrunken=-8.0, shrunken_low=-12.0, shrunken_high=-4.0)
    assert "+8.3 % [+4.1, +12.7]" in profile_finding(changed, LEVELS, **WHERE)


def test_without_a_profile_there_is_nothing_to_say(tables):
    for nothing in ({}, {"profile": tables["profile"].head(0)}):
        assert profile_finding(nothing, LEVELS, **WHERE) == ""
        assert "title" not in spec_of(profile(nothing, LEVELS, **WHERE))
