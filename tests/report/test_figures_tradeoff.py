"""The figure of gain against loss, and its finding."""

import pandas as pd
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.style import spec_of, svg_of
from frankenlab.report.figures.tradeoff import tradeoff, tradeoff_finding
from frankenlab.report.tables import tradeoff_table
from tests.support import synthetic_tables as synthetic
from tests.support.charts import faults, rows_of_spec, words_of

WHERE = {"model": synthetic.MODEL, "quantization": "none"}
LEVELS = Statistics()


def rows(plans: list[str], correlation=(-0.61, -0.9, -0.1), **columns) -> pd.DataFrame:
    """The table `tradeoff` of these plans, of which the first is frozen, on one guard task."""
    table = pd.DataFrame({"plan": plans, "gain": [4.0 - 2 * i for i in range(len(plans))]})
    names = ("correlation", "correlation_low", "correlation_high")
    table = table.assign(
        group=["frozen"] + ["finalist"] * (len(plans) - 1),
        gain_low=table["gain"] - 2,
        gain_high=table["gain"] + 2,
        gain_unit="points",
        effect=-table["gain"],
        low=-table["gain"] - 3,
        high=3 - table["gain"],
        **WHERE | {"guard": "piqa", "guards": 1, "unit": "points", "n": 300, "plans": len(plans)},
        **dict(zip(names, correlation, strict=True)),
    )
    return table.assign(**columns)


@pytest.fixture(scope="module")
def tables():
    made = synthetic.make_tables(step=6)[0]
    names = made["path"].drop_duplicates("plan")["plan"].tolist()
    more = made["path"].tail(1).assign(plan="0:17,17:22x2,22:30", group="runner-up")
    path = pd.concat([made["path"], more])
    plans = [*names, "0:17,17:22x2,22:30"]
    mean = rows(plans, guard="mean", guards=2, correlation=(0.2, -0.5, 0.7))
    return made | {"path": path, "tradeoff": pd.concat([mean, rows(plans)])}


@pytest.mark.slow
def test_each_plan_is_a_point_with_both_its_effects(tables):
    svg = svg_of(spec := spec_of(tradeoff(tables, LEVELS, **WHERE)))
    points = [row for row in rows_of_spec(spec) if "gain" in row]
    drawn = {(row["plan"], row["gain"], row["effect"]) for row in points}
    table = tables["tradeoff"]
    assert drawn == set(table[["plan", "gain", "effect"]].itertuples(index=False, name=None))
    words = words_of(svg)
    assert faults(svg) == [] and "correlation −0.61 [−0.90, −0.10]" in words
    assert "the mean of 2 guard tasks" in words and "other plans that were confirmed" in words


def test_the_finding_says_which_losses_go_with_gains(tables):
    assert tradeoff_finding(tables, LEVELS, **WHERE) == (
        "Of 3 confirmed plans, those that gain more on the search tasks lose more on piqa (−0.61 "
        "[−0.90, −0.10]); there is no evidence that gain and loss go together on the mean of 2 "
        "guard tasks (+0.20 [−0.50, +0.70]). In brackets are correlations over these plans with "
        "their 95 % intervals."
    )
    good = {"tradeoff": rows(["a", "b", "c"], correlation=(0.6, 0.2, 0.9))}
    said = tradeoff_finding(good, LEVELS, **WHERE)
    assert "do better on piqa (+0.60 [+0.20, +0.90])" in said
    noise = {"tradeoff": rows(["a", "b", "c"], correlation=(float("nan"), -1, 1))}
    said = tradeoff_finding(noise, LEVELS, **WHERE)
    assert "no evidence that gain and loss go together on piqa (unknown [−1.00, +1.00])" in said


def test_two_plans_are_too_few_and_none_say_nothing():
    none = (float("nan"),) * 3
    two = {"tradeoff": rows(["a", "b"], correlation=none)}
    assert tradeoff_finding(two, LEVELS, **WHERE) == (
        "Only 2 plans ran on both search and guard tasks, too few to say whether those that gain "
        "more also lose more."
    )
    for nothing in ({}, {"tradeoff": two["tradeoff"].head(0)}):
        assert tradeoff_finding(nothing, LEVELS, **WHERE) == ""
        assert "title" not in spec_of(tradeoff(nothing, LEVELS, **WHERE))


@pytest.mark.slow
def test_the_page_has_the_numbers_of_each_plan(tables):
    freezes = synthetic.make_tables(step=6)[1]
    text = tradeoff_table(synthetic.results(tables, freezes))
    assert "+4.0 points [+2.0, +6.0]" in text and "−4.0 points [−7.0, −1.0]" in text
