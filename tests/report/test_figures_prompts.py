"""The figures of other prompts and of the oracle, and what they say."""

import pandas as pd
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.report import sections
from frankenlab.report.figures.oracle import oracle, oracle_finding
from frankenlab.report.figures.prompts import prompts, prompts_finding
from frankenlab.report.figures.style import spec_of, svg_of
from frankenlab.report.search_tables import oracle_table
from frankenlab.report.tables import prompts_table
from tests.support import synthetic_tables as synthetic
from tests.support.charts import faults, rows_of_spec, words_of

WHERE = {"model": synthetic.MODEL, "quantization": "none"}
LEVELS = Statistics()
NUMBERS = {"n": 538, "kind": "mean", "unit": "points", "metric": "acc", "role": "search"}


def prompt_rows(task: str, groups: dict[str, str], names=("own", "terse"), **columns):
    """The table `prompts` on one task: a point more under each prompt that follows."""
    rows = [
        {
            "plan": plan,
            "group": group,
            "prompt": name,
            "effect": i - 1.0,
            "base_value": 0.5 + i / 10,
        }
        for plan, group in groups.items()
        for i, name in enumerate(names)
    ]
    table = pd.DataFrame(rows).assign(task=task, prompts=len(names), **WHERE | NUMBERS)
    table = table.assign(low=table["effect"] - 3, high=table["effect"] + 3, mean=0.0)
    table = table.assign(value=table["base_value"] + table["effect"] / 100)
    spread = {"spread": 1.2, "spread_low": 0.0, "spread_high": 38.0, "noise": 1.1, "spread_p": 0.24}
    return table.assign(**spread | columns)


def oracle_rows(task: str, name: str, options: int, step: float, **columns) -> pd.DataFrame:
    """The table `oracle` on one task: each option adds `step` points."""
    table = pd.DataFrame({"k": range(1, options + 1)}).assign(task=task, set=name, options=options)
    table = table.assign(gain=step * table["k"], best=0.2 * table["k"], stage="confirm")
    table = table.assign(low=table["gain"] - 2, high=table["gain"] + 2, more=float("nan"))
    table = table.assign(
        base_value=0.5,
        best_value=0.5 + table["best"] / 100,
        oracle_value=0.5 + table["gain"] / 100,
        more_low=table["more"],
        more_high=table["more"],
    )
    return table.assign(**WHERE | NUMBERS | columns)


@pytest.fixture(scope="module")
def tables():
    made = synthetic.make_tables(step=6)[0]
    named = made["verdicts"].drop_duplicates("plan").set_index("plan")["group"].to_dict()
    groups = {plan: "frozen" if group != "control" else group for plan, group in named.items()}
    plans = {**groups, "0:17,17:22x2,22:30": "finalist"}
    more = {"more": -4.0, "more_low": -6.0, "more_high": -2.0}
    parts = [
        oracle_rows("arc_easy", "plans", 3, 5.0, **more),
        oracle_rows("arc_easy", "prompts", 2, 8.0),
        oracle_rows("piqa", "plans", 1, 3.0, role="guard"),
        oracle_rows("arc_easy", "plans", 6, 9.0, stage="search"),
    ]
    oracle_ = pd.concat(parts, ignore_index=True)
    oracle_.loc[(oracle_["k"] > 2) | (oracle_["task"] == "piqa"), "more"] = float("nan")
    prompts_ = pd.concat(
        [prompt_rows("arc_easy", plans), prompt_rows("sciq", plans, spread_p=0.001)]
    )
    return made | {"prompts": prompts_, "oracle": oracle_}


@pytest.mark.slow
def test_each_plan_is_a_point_at_each_prompt(tables):
    svg = svg_of(spec := spec_of(prompts(tables, LEVELS, **WHERE)))
    points = [row for row in rows_of_spec(spec) if "prompt" in row]
    drawn = sorted((row["plan"], row["prompt"], row["effect"]) for row in points)
    table = tables["prompts"]
    expected = table[["plan", "prompt", "effect"]].itertuples(index=False, name=None)
    assert drawn == sorted(expected)
    words = words_of(svg)
    assert faults(svg) == [] and "base 60.0 %" in words and "terse" in words
    assert "runners-up of the shortlist" in words and "arc_easy, n = 538" in words


def test_the_finding_says_how_the_effect_varies_beside_the_noise_of_documents(tables):
    said = prompts_finding(tables, LEVELS, **WHERE)
    assert said.startswith(
        "Under 2 prompts of arc_easy, running layers 18–20 twice changed the result by −1.0 to 0.0 "
        "points, while the base itself reached 50.0 % to 60.0 %. The effect's standard deviation "
        "between prompts is 1.2 points [0.0, 38.0], beside a noise of 1.1 points from the "
        "documents: there is no evidence that the effect depends on the prompt (p = 0.24). Under 2 "
        "prompts of sciq, it changed"
    )
    assert ": the effect depends on the prompt (p = 0.001)." in said
    assert said.endswith(
        "Two prompts tell whether the effect differs between these, and next to nothing about how "
        "much it varies over all prompts that one could write."
    )
    many = prompt_rows("arc_easy", {"0:19,18:30": "frozen"}, tuple("abcdef"))
    assert "next to nothing" not in prompts_finding(tables | {"prompts": many}, LEVELS, **WHERE)
    assert prompts_finding({}, LEVELS, **WHERE) == ""


@pytest.mark.slow
def test_the_oracle_of_plans_is_drawn_beside_that_of_prompts(tables):
    svg = svg_of(spec := spec_of(oracle(tables, LEVELS, **WHERE)))
    points = {(row["set"], row["k"], row["gain"]) for row in rows_of_spec(spec) if "set" in row}
    plans = {("plans", k, 5.0 * k) for k in (1, 2, 3)}
    assert points == plans | {("prompts", k, 8.0 * k) for k in (1, 2)}
    words = words_of(svg)
    assert faults(svg) == [] and "oracle: base under other prompts" in words


def test_the_finding_compares_plans_and_prompts_at_the_same_number(tables):
    assert oracle_finding(tables, LEVELS, **WHERE) == (
        "An oracle that took for each document the best of the base and 2 plans would gain +10.0 "
        "points [+8.0, +12.0] on arc_easy. From as many other prompts of the base, without any "
        "repeated layer, it would gain +16.0 points [+14.0, +18.0] on arc_easy; plans less prompts "
        "are −4.0 points [−6.0, −2.0] on arc_easy. An oracle gains from answers that change for "
        "any reason, so its gain promises nothing. Over the 6 plans "
        "that saw all search documents it would gain +54.0 points [+52.0, +56.0] on arc_easy."
    )
    alone = {"oracle": oracle_rows("arc_easy", "plans", 3, 5.0)}
    said = oracle_finding(alone, LEVELS, **WHERE)
    assert "best of the base and 3 plans would gain +15.0 points" in said
    assert said.endswith("so its gain promises nothing.") and "From as many" not in said
    assert oracle_finding({}, LEVELS, **WHERE) == ""


def test_nothing_to_draw_is_said():
    for draw in (prompts, oracle):
        assert "title" not in spec_of(draw({}, LEVELS, **WHERE))


@pytest.mark.slow
def test_the_page_has_the_numbers_and_a_section_for_the_prompt(tables):
    results = synthetic.results(tables, synthetic.make_tables(step=6)[1])
    text = prompts_table(results)
    assert "−1.0 points [−4.0, +2.0]" in text and "1.2 [0.0, 38.0]" in text
    assert "finalist: " in text and "control: " in text and "frozen: " in text
    text = oracle_table(results)
    assert "2 of 3 plans" in text and "−4.0 points [−6.0, −2.0]" in text and "1 of 1 plan" in text
    html = sections.prompts_html(results)
    assert 'id="prompts"' in html and "The effect under each prompt" in html
    assert "The effect under each prompt" not in sections.sure_html(results)
    assert "What an oracle would gain" in sections.sure_html(results)
    assert sections.prompts_html(synthetic.results({})) == ""
