from types import MappingProxyType

import pandas as pd
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.path import path, path_finding
from frankenlab.report.figures.race import race, race_finding, round_colors
from frankenlab.report.figures.style import spec_of, svg_of
from tests.support import synthetic_tables as synthetic
from tests.support.charts import faults, rows_of_spec, words_of

WHERE = MappingProxyType({"model": synthetic.MODEL, "quantization": "none"})
LEVELS = Statistics()
SPREAD = {"search": 4.0, "select": 4.0, "confirm": 2.0}


@pytest.fixture(scope="module")
def tables():
    return synthetic.make_tables(step=6)[0]


def way(effects: dict[str, float], shrunken: float = float("nan")) -> dict[str, pd.DataFrame]:
    """Tables with a frozen plan of these effects; 0.5 is left of it once it is shrunken."""
    rows = pd.DataFrame({"stage": list(effects), "effect": list(effects.values())})
    half = rows["stage"].map(SPREAD)
    rows = rows.assign(
        **WHERE,
        plan="0:24,23:30",
        group="frozen",
        n=200,
        low=rows["effect"] - half,
        high=rows["effect"] + half,
    )
    chosen = rows["stage"] != "confirm"
    for column, value in (("shrunken", 0.0), ("shrunken_low", -1.0), ("shrunken_high", 1.0)):
        rows[column] = (shrunken + value) * chosen.map({True: 1.0, False: float("nan")})
    compared = rows.assign(role="search", unit="points", depth=31, relative_depth=31 / 30)
    return {"path": rows, "comparisons": compared}


@pytest.mark.slow
def test_the_path_shows_every_stage_with_interval_and_shrunken_estimate(tables):
    spec = spec_of(path(tables, LEVELS, **WHERE))
    rows = [row for row in rows_of_spec(spec) if row.get("group") == "frozen"]
    assert [(row["stage"], row["place"]) for row in rows] == [
        ("search", 0),
        ("select", 1),
        ("confirm", 2),
    ]
    table = tables["path"]
    table = table[table["group"] == "frozen"]
    for column in ("effect", "low", "high"):
        assert [row[column] for row in rows] == pytest.approx(table[column], abs=0.001)
    assert [row["shrunken"] is None for row in rows] == [False, False, True]
    svg = svg_of(spec)
    words = words_of(svg)
    assert "confirm, n = 942" in words and "shrunken estimate" in words and faults(svg) == []


@pytest.mark.slow
def test_runners_up_are_light_however_many_there_are(tables):
    table = tables["path"]
    more = [
        table[table["group"] == "runner-up"].assign(plan=f"0:{n},{n - 1}:30") for n in (21, 25, 29)
    ]
    several = tables | {"path": pd.concat([table, *more], ignore_index=True)}
    svg = svg_of(spec_of(path(several, LEVELS, **WHERE)))
    assert "4 runners-up" in words_of(svg) and faults(svg) == []
    assert svg.count('opacity="0.4"') >= 4


def test_the_finding_says_how_much_of_the_lead_was_lost():
    finding = path_finding(
        way({"search": 9.0, "select": 8.0, "confirm": 1.0}, 2.0), LEVELS, **WHERE
    )
    assert finding == (
        "Running layer 23 twice changed the mean of the search tasks by +9.0 points [+5.0, +13.0] "
        "in the search, +8.0 [+4.0, +12.0] in select and +1.0 [−1.0, +3.0] on the fresh documents "
        "of confirm. Once the luck of the choice is taken off, +2.0 [+1.0, +3.0] was to be "
        "expected. Select overstated it by 7.0 points."
    )


@pytest.mark.parametrize(
    ("effects", "end"),
    [
        ({"search": 3.0, "select": 2.0, "confirm": 1.0}, "fresh documents of confirm."),
        ({"search": -3.0, "select": -6.0, "confirm": 1.0}, "Select understated it by 7.0 points."),
        ({"search": 3.0, "confirm": -6.0}, "Search overstated it by 9.0 points."),
        ({"search": 3.0, "select": 2.0}, "It is not confirmed on fresh documents yet."),
    ],
)
def test_the_finding_on_the_path_ends_with_what_confirm_did(effects, end):
    assert path_finding(way(effects), LEVELS, **WHERE).endswith(end)


def test_without_a_frozen_plan_there_is_no_path(tables):
    others = tables["path"][tables["path"]["group"] == "runner-up"]
    for nothing in ({}, {"path": others}, {"path": others.head(0)}):
        assert path_finding(nothing, LEVELS, **WHERE) == ""
        assert "title" not in spec_of(path(nothing, LEVELS, **WHERE))


@pytest.mark.slow
def test_a_race_shows_plans_left_over_documents_and_last_rounds(tables):
    raced = synthetic.as_race(tables)
    svg = svg_of(spec := spec_of(race(raced, LEVELS, **WHERE)))
    words = words_of(svg).split("\n")
    for count in raced["race"]["plans"]:
        assert f"{count:,}" in words
    steps = [row for row in rows_of_spec(spec) if "middle" in row]
    assert [(row["start"], row["end"]) for row in steps[:3]] == [(0, 50), (50, 100), (100, 200)]
    assert {row["round"] for row in rows_of_spec(spec) if "length" in row and "round" in row} == {
        1,
        2,
        3,
    }
    assert "ran to the end" in words and faults(svg) == []


@pytest.mark.slow
def test_a_race_without_blocks_shows_the_plans_left_alone(tables):
    raced = synthetic.as_race(tables)
    comparisons = raced["comparisons"]
    raced["comparisons"] = comparisons[comparisons["group"].isin(["base", "random_block"])]
    svg = svg_of(spec_of(race(raced, LEVELS, **WHERE)))
    assert "Plans left" in words_of(svg) and "last round" not in words_of(svg)


def test_the_finding_on_the_race_says_what_it_saved(tables):
    raced = synthetic.as_race(tables)
    plans = raced["race"]["plans"]
    finding = race_finding(raced, LEVELS, **WHERE)
    assert finding == (
        f"Of {plans.iloc[0]} plans, {plans.iloc[-1]} were left for the last of 3 rounds; the race "
        "took 49 % of the layer passes that all plans on all documents would have taken."
    )
    raced["race"] = raced["race"].assign(grown=[5, 0, 0])
    assert race_finding(raced, LEVELS, **WHERE).startswith(
        f"Of {plans.iloc[0]} plans and 5 that were grown on the way, {plans.iloc[-1]} were left"
    )
    for nothing in ({}, {"race": raced["race"].head(0)}):
        assert race_finding(nothing, LEVELS, **WHERE) == ""
        assert "title" not in spec_of(race(nothing, LEVELS, **WHERE))


def test_later_rounds_are_darker():
    for rounds in (1, 2, 5):
        colors = round_colors(rounds)
        light = [sum(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in colors]
        assert len(colors) == rounds and light == sorted(light, reverse=True)
        assert colors[-1] == "#2b1b60"
