"""The figure of what the same cost buys, its finding and its table."""

import pandas as pd
import pytest

from frankenlab.analyse.plane import LARGER
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.kinds import KINDS
from frankenlab.report.figures.plane import GROUPS, plane, plane_finding
from frankenlab.report.figures.style import spec_of, svg_of
from frankenlab.report.tables import plane_table
from tests.support import synthetic_tables as synthetic
from tests.support.charts import faults, rows_of_spec, words_of

WHERE = {"model": synthetic.MODEL, "quantization": "none"}
LEVELS = Statistics()
# Group, plan, quantization, MB read, multiplications, effect, chances of being on the fronts.
POINTS = [
    ("base", "base", "none", 270, 134, 0.0, 0.44, 0.4),
    ("base", "base", "exl2-4.0", 75, 134, -0.5, 1.0, 0.3),
    ("frozen", "0:24,23:30", "none", 276, 138, 1.2, 0.62, 0.55),
    ("frozen", "0:24,23:30", "exl2-4.0", 77, 138, -1.0, 0.2, 0.1),
    ("random", "0:5,4:30", "none", 276, 138, -2.0, 0.0, 0.0),
    ("spread", "0x2,1:29,29x2", "none", 282, 142, -4.0, 0.0, 0.0),
    ("damped", "0:24,23*0.5,24:30", "none", 276, 138, 0.4, 0.1, 0.1),
    ("repeated", "0:6,4:30", "none", 282, 142, -1.0, 0.0, 0.0),
    ("skipped", "0:12,13:30", "none", 264, 130, -3.0, 0.02, 0.6),
    ("reordered", "0:12,13,12,14:30", "none", 270, 134, -5.0, 0.0, 0.0),
    (LARGER, "base", "none", 720, 360, 9.0, 1.0, 1.0),
]


def rows(points=tuple(POINTS), **columns) -> pd.DataFrame:
    """The table `plane` of some points, on the mean of two tasks."""
    names = ["group", "plan", "point_quantization", "read_bytes", "multiplications"]
    table = pd.DataFrame(points, columns=[*names, "effect", "on_front", "on_front_compute"])
    larger = table["group"] == LARGER
    common = WHERE | {"task": "mean of 2 tasks", "tasks": 2, "unit": "points", "n": 900}
    table = table.assign(
        **common,
        point_model=synthetic.MODEL,
        low=table["effect"] - 2,
        high=table["effect"] + 2,
        depth=30.0,
        relative_depth=1.0,
        read_bytes=table["read_bytes"] * 10**6,
        multiplications=table["multiplications"] * 10**6,
    )
    table.loc[larger, "point_model"] = "smollm2-360m"
    home = (table["group"] == "base") & (table["point_quantization"] == "none")
    table.loc[home, ["low", "high"]] = 0.0
    return table.assign(**columns)


def test_every_group_has_a_look_of_its_own():
    assert set(GROUPS) == {"base", LARGER, "frozen", *KINDS}
    assert len({look[:2] for look in GROUPS.values()}) == len(GROUPS)


@pytest.mark.slow
def test_every_point_is_drawn_over_both_costs_as_full_as_it_is_likely_on_the_front():
    alone = rows(task="arc_easy", tasks=1)
    svg = svg_of(spec := spec_of(plane({"plane": pd.concat([rows(), alone])}, LEVELS, **WHERE)))
    points = [row for row in rows_of_spec(spec) if "chance" in row]
    drawn = sorted((row["cost"], row["effect"], row["chance"]) for row in points)
    assert drawn == sorted(
        (cost, effect, chance)
        for *_, read, work, effect, by_read, by_work in POINTS
        for cost, chance in ((read, by_read), (work, by_work))
    )
    assert {row["task"] for row in points} == {"mean of 2 tasks"}
    words = words_of(svg)
    assert faults(svg) == [] and "smollm2-360m unquantized" in words and "exl2-4.0" in words
    assert all(look[2] in words for look in GROUPS.values())
    assert "weights read for each token, MB" in words and "millions" in words
    # What costs the same stands side by side.
    places = [row["at"] for row in points if row["cost"] == 276]
    assert len(set(places)) == 3


@pytest.mark.slow
def test_tasks_of_different_units_have_their_own_panels():
    mixed = pd.concat(
        [
            rows(task="arc_easy", tasks=1),
            rows(task="lambada", tasks=1, unit="log-percent"),
        ]
    )
    words = words_of(svg_of(spec_of(plane({"plane": mixed}, LEVELS, **WHERE))))
    assert "arc_easy, n = 900" in words and "lambada, n = 900" in words


def test_the_finding_says_what_is_on_the_front_and_whether_the_frozen_plan_is():
    assert plane_finding({"plane": rows()}, LEVELS, **WHERE) == (
        "Of 11 combinations of a plan with weights, compared on the mean of 2 tasks, the base at "
        "exl2-4.0 reads the fewest bytes for each token; in at least 95 % of the resamples of "
        "the documents the next larger model smollm2-360m unquantized is on the Pareto front too. "
        "The frozen plan, layer 23 twice, is on it in 62 % of "
        "them, and on that of quality against multiplications in 55 %; the best that reads no more "
        "is layer 23 twice, with updates scaled by 0.5 where it repeats "
        "(+0.4 points [−1.6, +2.4]; the plan: +1.2 points [−0.8, +3.2])."
    )


def test_the_finding_says_so_where_nothing_else_is_likely_on_the_front():
    few = rows([POINTS[1], POINTS[0], POINTS[3]], on_front=[1.0, 0.44, 0.2])
    said = plane_finding({"plane": few}, LEVELS, **WHERE)
    assert "no other is on the Pareto front in 95 % of the resamples of the documents (most" in said
    assert "often the base unquantized, in 44 %)." in said and "The frozen plan" not in said
    skipped = rows([("frozen", "0:12,13:30", "none", 264, 130, -1.0, 1.0, 1.0), POINTS[0]])
    said = plane_finding({"plane": skipped}, LEVELS, **WHERE)
    assert said.startswith("Of 2 combinations") and "nothing else reads as few bytes" in said
    assert "Its own change is −1.0 points [−3.0, +1.0]." in said
    alone = rows([POINTS[2], POINTS[0]])
    assert "is the base unquantized (the base of all comparisons; the plan: +1.2" in plane_finding(
        {"plane": alone}, LEVELS, **WHERE
    )


def test_no_table_says_nothing():
    for nothing in ({}, {"plane": rows().head(0)}):
        assert plane_finding(nothing, LEVELS, **WHERE) == ""
        assert "title" not in spec_of(plane(nothing, LEVELS, **WHERE))


@pytest.mark.slow
def test_the_page_has_the_costs_and_chances_of_each_point():
    tables, freezes = synthetic.make_tables(step=6)
    text = plane_table(synthetic.results(tables | {"plane": rows()}, freezes))
    assert "264 MB" in text and "130 million" in text and "62 %" in text
    assert "unquantized smollm2-360m" in text and "+9.0 points [+7.0, +11.0]" in text
