import re

import pandas as pd
import pytest

from frankenlab.io.errors import UserError
from frankenlab.report.hardware import costs_hardware_html, hardware_html, hardware_note
from frankenlab.report.results import load_tables
from frankenlab.report.sections import ledger_html, race_html, top_plans
from tests.support import synthetic_tables as synthetic


@pytest.mark.slow
def test_top_plans_are_ranked_by_the_mean_over_search_tasks():
    tables, _ = synthetic.make_tables(step=5)
    comparisons = tables["comparisons"]
    search = comparisons[(comparisons["stage"] == "search") & (comparisons["plan"] != "base")]
    means = search.groupby("plan")["effect"].mean().sort_values(ascending=False)
    top = top_plans(comparisons, 5)
    assert [float(text.replace("−", "-")) for text in top["mean"]] == pytest.approx(
        means.head(5).tolist(), abs=0.051
    )
    assert set(top["plan"]) <= set(means[means >= means.iloc[4]].index)
    everything = top_plans(comparisons, 10_000)
    selected = everything[everything["mean at select"] != "–"]["plan"]
    at_select = comparisons.loc[comparisons["stage"] == "select", "plan"]
    assert set(selected) == set(at_select) & set(means.index) != set()


def test_a_race_has_a_table_of_its_rounds_and_only_survivors_are_the_best():
    tables, _ = synthetic.make_tables(step=5)
    assert race_html(synthetic.results(tables)) == ""
    raced = synthetic.as_race(tables)
    html = race_html(synthetic.results(raced))
    for row in raced["race"].itertuples():
        assert f">{row.plans}<" in html and f">{row.share:.0%}<" in html
    dropped = raced["comparisons"].query("dropped.notna()")["plan"]
    assert len(dropped)
    everything = top_plans(raced["comparisons"], 10_000)
    assert len(everything) and not set(everything["plan"]) & set(dropped)


def test_names_are_escaped_in_tables():
    ledger = pd.DataFrame(
        {
            "model": ["<script>"],
            "quantization": "none",
            "task": "a&b",
            "plan": "base",
            "looked": "2026",
            "documents": 3,
        }
    )
    html = ledger_html(synthetic.results({"ledger": ledger}))
    assert "&lt;script&gt;" in html and "a&amp;b" in html and "<script>" not in html


def test_a_folder_without_tables_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}: no tables here")):
        load_tables(tmp_path)


def compared(kind: str = "mean", precision: str = "bfloat16", mixed: int = 0, stage="confirm"):
    """A comparison of a plan with its base."""
    hardware = "one card; another card" if mixed else "one card"
    return {
        "stage": stage,
        "plan": "0:2,1:4",
        "kind": kind,
        "precision": precision,
        "n": 342,
        "hardware": hardware,
        "mixed": mixed,
    }


def note_of(*rows: dict) -> str:
    base = compared() | {"plan": "base"}
    return hardware_note(pd.DataFrame([base, *rows]))


def test_without_a_mixture_the_page_names_the_hardware():
    assert note_of(compared(), compared()) == (
        "Every plan and its base were computed by the same hardware (one card)."
    )
    assert hardware_note(pd.DataFrame()) == ""


def test_a_mixture_is_named_with_the_decisions_that_it_can_change():
    text = note_of(compared(mixed=300), compared(mixed=10), compared(), compared(stage="search"))
    assert "In 2 of 3 comparisons of the confirm stage" in text and "search" not in text
    assert "in bfloat16" in text and "up to 2.3% of these documents, here at most 7 in one" in text
    assert text.endswith("The hardware was another card and one card.")


def test_in_float32_a_mixture_changes_no_decision():
    text = note_of(compared(precision="float32", mixed=300))
    assert "In 1 of 1 comparisons" in text and "in float32 that changes no decision." in text


def test_a_perplexity_has_no_decisions_to_change():
    text = note_of(compared("perplexity", mixed=300))
    assert "In 1 of 1 comparisons" in text and "decision" not in text


def test_the_page_names_mixtures_and_where_costs_were_measured():
    tables, _ = synthetic.make_tables(step=15)
    mixed = tables["comparisons"]["plan"] != "base"
    tables["comparisons"].loc[mixed, "mixed"] = 5
    assert "different hardware" in hardware_html(synthetic.results(tables))
    assert synthetic.HARDWARE in costs_hardware_html(synthetic.results(tables))
    other = tables["costs"].assign(hardware="another card", quantization="exl2-4.0")
    costs = pd.concat([tables["costs"], other])
    text = costs_hardware_html(synthetic.results({"costs": costs}))
    assert f"on another card {synthetic.MODEL} at exl2-4.0" in text
    assert (
        "only within the same hardware" in text and costs_hardware_html(synthetic.results({})) == ""
    )
