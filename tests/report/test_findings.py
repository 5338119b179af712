import pandas as pd
import pytest

from frankenlab.report.findings import (
    choice_finding,
    controls_finding,
    cost_finding,
    dominance_finding,
    guard_finding,
    search_finding,
)
from tests.report.test_answer import perplexity, searched, verdicts

PLAN = {"model": "m", "quantization": "none", "plan": "0:3,1:4"}
FREEZE = {"model": "m", "frozen": "0:3,1:4", "reference_quantization": "none"}


def against(*words: str, controls: str = "0:2,0:4; 0:4,2:4") -> pd.DataFrame:
    """`against_controls` with a task for each verdict."""
    return pd.DataFrame(
        PLAN
        | {"task": f"t{i}", "unit": "points", "controls": controls, "effect": 6.0 - i}
        | {"verdict": word, "p": 1e-9, "low": 1.0, "high": 9.0}
        for i, word in enumerate(words)
    )


def test_controls_are_judged_by_the_corrected_table():
    found = controls_finding({"against_controls": against("inconclusive", "inconclusive")}, [])
    assert found == (
        "There is no evidence that the choice of layers matters: against the mean of 2 random "
        "plans of the same cost the frozen plan is neither significantly better nor worse on t0 "
        "and t1."
    )
    found = controls_finding({"against_controls": against("better", "inconclusive")}, [])
    assert found == (
        "The choice of layers matters: against the mean of 2 random plans of the same cost the "
        "frozen plan is significantly better on t0 (+6.0 points); on t1 the difference is "
        "inconclusive."
    )
    one = against("worse", controls="0:2,0:4")
    assert "against 1 random plan of" in controls_finding({"against_controls": one}, [])


def test_without_controls_nothing_is_said_of_the_choice_of_layers():
    pairs = pd.DataFrame({"effect": [9.0], "low": [8.0], "high": [10.0]})
    assert controls_finding({"pairs": pairs}, []).startswith("No random plans of the same cost ran")


@pytest.mark.parametrize(
    ("guard", "expected"),
    [
        ("equivalent inconclusive", "1 is equivalent and 1 is inconclusive."),
        ("inconclusive inconclusive", "All 2 comparisons on guard tasks are inconclusive."),
        ("improved", "The comparison on guard tasks improved."),
    ],
)
def test_guard_tasks_that_did_not_get_worse_are_counted(guard, expected):
    found = guard_finding({"verdicts": verdicts("improved", guard)}, [])
    assert found.startswith("No guard task got worse significantly.")
    assert found.endswith(expected)


def test_a_guard_task_that_got_worse_is_named_with_its_size():
    rows = pd.concat([verdicts("improved", "inconclusive"), perplexity("harmed", 75.6, 98.6)])
    assert guard_finding({"verdicts": rows}, []) == (
        "Yes: running layers 1–2 twice raised perplexity on boolq_passages from 75.6 to 98.6 "
        "(+30 %). The other comparison on guard tasks is inconclusive."
    )


def test_without_guard_tasks_losses_are_unknown():
    assert "losses elsewhere are unknown" in guard_finding(
        {"verdicts": verdicts("improved", "")}, []
    )
    assert guard_finding({}, []) == ""


def costs(**columns) -> pd.DataFrame:
    """`costs` of the base and the plan."""
    plan = PLAN | {"kv_bytes_per_token": 125.0, "arithmetic_ratio": 0.8} | columns
    return pd.DataFrame([plan, PLAN | {"plan": "base", "kv_bytes_per_token": 100.0}])


def test_the_price_is_layers_arithmetic_and_cache():
    tables = {"verdicts": verdicts("improved", "equivalent")}
    text = "Running layers 1–2 twice takes 5 layers in place of 4"
    assert cost_finding(tables | {"costs": costs()}, []) == (
        f"{text}: 25 % more arithmetic and 25 % more KV cache, with the same weights."
    )
    cheap = costs(arithmetic_ratio=1.03, kv_bytes_per_token=100.0)
    assert ": 2.9 % less arithmetic and as much KV cache" in cost_finding(
        tables | {"costs": cheap}, []
    )
    older = costs()[[*PLAN, "kv_bytes_per_token"]]
    found = cost_finding(tables | {"costs": older}, [])
    assert found == f"{text}: 25 % more KV cache, with the same weights."
    assert cost_finding(tables, []) == f"{text}; it was not timed."


def test_a_plan_without_a_layer_needs_no_more_weights():
    shorter = {"plan": "0:2,3", "depth": 3.0, "relative_depth": 0.75}
    tables = {"verdicts": verdicts("improved", "equivalent").assign(**shorter)}
    cheaper = costs(**shorter, arithmetic_ratio=1.25, kv_bytes_per_token=75.0)
    assert cost_finding(tables | {"costs": cheaper}, []) == (
        "Running without layer 2 takes 3 layers in place of 4: 20 % less arithmetic and 25 % less "
        "KV cache, with no more weights."
    )


def test_the_mean_of_the_search_is_over_all_plans():
    row = {"mean_effect": -12.34, "mean_low": -14.0, "mean_high": -10.0, "share_better": 0.08}
    units = pd.DataFrame({"model": ["m"], "role": "search", "unit": "points"})
    found = search_finding({"search": searched(**row), "comparisons": units})
    assert found == (
        "The best plan measured +0.3 points in the search; if none of the 79 plans changed "
        "anything, the best would measure +4.0 points by luck. The mean change over all 79 "
        "plans on the search tasks is −12.3 points [−14.0, −10.0], and 8 % of the plans are above "
        "the base."
    )
    none = search_finding({"search": searched(**row | {"share_better": 0.0})})
    assert none.endswith("and none of the plans is above the base.")
    raced = search_finding({"search": searched(**row | {"shared_documents": 40})})
    assert " plans on the 40 search documents that all of them saw is " in raced
    assert raced.endswith("8 % of the plans are above the base there.")
    beam = row | {"plans": 113, "grown": 34, "best_grown": "0:3,2:4", "best_grown_effect": 5.25}
    grown = search_finding({"search": searched(**beam), "comparisons": units})
    assert grown.startswith(
        "The best plan of the grid measured +0.3 points in the search; if none of the 113 plans "
        "changed anything, the best would measure +4.0 points by luck. The best of 34 plans that "
        "were grown from the best measured +5.2 points. They were grown by the same documents and "
        "share their luck, so that only fresh documents tell what they are worth. The mean change "
        "over all 79 plans of the grid on the search tasks is"
    )
    gone = search_finding({"search": searched(**beam | {"best_grown": ""}), "comparisons": units})
    assert "Of 34 plans that were grown from the best none was left at the end." in gone


def test_the_choice_says_which_plans_were_as_good():
    depths = pd.DataFrame({"model": ["m"], "depth": 5.0, "relative_depth": 1.25})
    freeze = FREEZE | {"as_good": ["0:3,1:4", "0:4,3:4"], "same_plan": 0.62}
    search = pd.DataFrame({"model": ["m"], "select_significant": False})
    assert choice_finding({"comparisons": depths, "search": search}, [freeze]) == (
        "One other plan was as good on the documents of search and select, within one standard "
        "error: layer 3 twice. From the same shortlist, 62 % of resamples of these documents "
        "freeze the same plan; on other documents it would be fewer. On "
        "the select documents there is no evidence that any plan of the shortlist is better than "
        "the base."
    )
    alone = FREEZE | {"as_good": ["0:3,1:4"], "same_plan": 1.0}
    said = choice_finding({"search": search.assign(select_significant=True)}, [alone])
    assert said.startswith("No other plan was as good")
    assert said.endswith("was significantly better than the base.")
    assert choice_finding({}, [FREEZE]) == ""


def test_a_document_that_dominates_is_flagged():
    rows = verdicts("improved", "equivalent").assign(dominance=[0.1, 0.31])
    assert "on guard0 one has 31 %" in dominance_finding({"verdicts": rows}, [])
    assert dominance_finding({"verdicts": rows.assign(dominance=0.2)}, []) == ""
