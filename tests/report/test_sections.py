import re
from dataclasses import replace

import pandas as pd
import pytest

from frankenlab.io.errors import UserError
from frankenlab.report import bitrates, sections
from frankenlab.report.hardware import costs_hardware_note, hardware_note
from frankenlab.report.results import Results, load_tables
from frankenlab.report.search_tables import race_table, reliability_table, top_plans
from frankenlab.report.tables import (
    controls_table,
    cost_table,
    documents_table,
    ledger_table,
    verdict_table,
)
from tests.support import synthetic_bits, synthetic_why
from tests.support import synthetic_tables as synthetic

IN_ORDER = (
    sections.title_html,
    sections.answer_html,
    sections.verdict_html,
    sections.layers_html,
    sections.times_html,
    sections.price_html,
    sections.lost_html,
    bitrates.bits_html,
    sections.sure_html,
    sections.prompts_html,
    sections.why_html,
    sections.made_html,
)
# Words that a reader has to decipher, or that claim what was not shown.
FORBIDDEN = (
    *("not told", "at none", "not so", "were harmed", "as far as these documents tell"),
    *("nothing to show here", "for certain", "Holm", "nan", "NA", "quantization none"),
)
SECTIONS = ("verdict", "layers", "times", "price", "lost", "bits", "sure", "why", "made")


def page_of(results: Results) -> str:
    """The page's sections, without its pictures, which are not drawn."""
    return "\n".join(part(results) for part in IN_ORDER)


def text_of(html: str) -> str:
    """What one reads; code and attributes apart."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def forbidden(text: str) -> list[str]:
    """The words of FORBIDDEN that a text has."""
    return [word for word in FORBIDDEN if re.search(rf"\b{re.escape(word)}\b", text, re.I)]


@pytest.fixture(scope="module")
def whole():
    """An experiment of one model at two quantizations."""
    quantizations = ("none", "exl2-4.0")
    tables, freezes = synthetic.make_tables(step=9, quantizations=quantizations)
    tables |= synthetic_bits.make_bits(quantizations=quantizations, tasks=synthetic.TASKS[1::3])
    where = {"model": synthetic.MODEL, "quantization": "none"}
    tables |= synthetic_why.why_tables(["arc_easy", "sciq"], where)
    return synthetic.results(tables, freezes)


@pytest.mark.slow
def test_the_sections_come_in_the_order_of_the_questions(whole):
    html = page_of(whole)
    assert re.findall(r'<section id="(\w+)"', html) == list(SECTIONS)
    assert html.index('class="answer"') < html.index("<section")
    assert html.count("<h1") == 1


@pytest.mark.slow
def test_no_word_of_the_page_has_to_be_deciphered(whole):
    text = text_of(page_of(whole)).lower()
    config = text.index("the config, with defaults")
    assert forbidden(text[:config]) == []
    assert "unquantized" in text and "inconclusive" in text


@pytest.mark.slow
def test_plans_are_in_words_beside_their_text(whole):
    frozen = synthetic.loop(18, 21, 2, "block").text
    for html in (verdict_table(whole), controls_table(whole), cost_table(whole)):
        assert "layers 18–20 twice" in html and f'data-plan="{frozen}"' in html
    assert "layers 7–9 twice" in controls_table(whole)


@pytest.mark.slow
def test_the_frozen_plan_comes_first_and_controls_have_no_verdict(whole):
    rows = re.findall(r"<tr.*?</tr>", verdict_table(whole))[1:]
    frozen = [line for line, row in enumerate(rows) if "frozen:" in row]
    assert frozen == list(range(10)) and len(rows) > 10
    assert all(row.count("<td>–</td>") >= 1 for row in rows[10:])


@pytest.mark.slow
def test_an_inconclusive_row_says_what_could_have_been_found_and_what_it_would_take(whole):
    table = whole.table("verdicts")
    row = table[table["verdict"] == "inconclusive"].iloc[0]
    text = text_of(verdict_table(whole))
    needed, had = row["documents_needed"], row["available"]
    assert f"{needed:,} documents would be needed; {row['task']} has {had:,}" in text
    assert f"{row['n']:,} of {had:,}" in text and "would have been found" in text


def test_the_shapes_of_profiles_have_a_table(whole):
    text = text_of(reliability_table(whole))
    assert "reliability" in text and "0.47 [0.21, 0.68]" in text
    assert "between tasks: arc_easy" in text and "whole layer" in text
    assert forbidden(text) == []
    assert reliability_table(synthetic.results({})) == ""


@pytest.mark.slow
def test_experiments_of_other_kinds_read_as_well():
    without = {"against_controls": 0, "costs": 0, "search": 0, "path": 0, "repetitions": 0}
    without |= {"profile": 0, "reliability": 0}
    searched, freezes = synthetic.make_tables(("smollm2", "llama"), ("none", "exl2-4.0"), step=29)
    several = text_of(page_of(synthetic.results(searched, freezes)))
    assert "llama" in several and "in smollm2, running" in several.lower()
    bare = {name: table for name, table in searched.items() if name not in without}
    text = text_of(page_of(synthetic.results(bare, freezes)))
    assert "No random plans of the same cost ran" in text and "it was not timed" in text
    none = {"comparisons": searched["comparisons"]}
    text = text_of(page_of(synthetic.results(none)))
    assert "There is no answer yet" in text and "Nothing was confirmed yet" in text
    guards = searched["verdicts"]["role"] == "guard"
    unguarded = searched | {"verdicts": searched["verdicts"][~guards]}
    text = text_of(page_of(synthetic.results(unguarded, freezes)))
    assert "losses elsewhere are unknown" in text
    for found in (several, text):
        assert forbidden(found) == []


@pytest.mark.slow
def test_top_plans_are_ranked_by_the_mean_over_search_tasks(monkeypatch):
    tables, freezes = synthetic.make_tables(step=5)
    comparisons = tables["comparisons"]
    search = comparisons[(comparisons["stage"] == "search") & (comparisons["plan"] != "base")]
    means = search.groupby("plan")["effect"].mean().sort_values(ascending=False)
    results = synthetic.results(tables, freezes)
    top = top_plans(results)
    assert [float(text.replace("−", "-")) for text in top["mean at search"]] == pytest.approx(
        means.head(10).tolist(), abs=0.051
    )
    monkeypatch.setattr("frankenlab.report.search_tables.MOST_PLANS", 10_000)
    everything = top_plans(results)
    selected = everything[everything["mean at select"] != "–"]["plan"].map(str)
    at_select = set(comparisons.loc[comparisons["stage"] == "select", "plan"]) & set(means.index)
    assert {re.search('data-plan="([^"]+)"', cell)[1] for cell in selected} == at_select


@pytest.mark.slow
def test_a_race_has_a_table_of_its_rounds_and_only_survivors_are_the_best():
    tables, _ = synthetic.make_tables(step=15)
    assert race_table(synthetic.results(tables)) == ""
    results = synthetic.results(synthetic.as_race(tables))
    html = race_table(results)
    for row in results.table("race").itertuples():
        assert f">{row.plans}<" in html and f"({row.share:.0%})<" in html
    comparisons = results.table("comparisons")
    dropped = comparisons[comparisons["dropped"].notna()]["plan"]
    assert len(dropped)
    assert not any(
        f'"{plan}"' in str(cell) for cell in top_plans(results)["plan"] for plan in dropped
    )


def test_documents_are_those_of_the_stage_that_were_used():
    columns = {"task": "piqa", "role": "guard", "plan": "base"}
    rows = pd.DataFrame([columns | {"stage": "confirm", "n": 150, "available": 1838}])
    html = documents_table(synthetic.results({"comparisons": rows}))
    assert "150 of 1,838" in html and "(100" not in html
    older = documents_table(synthetic.results({"comparisons": rows.drop(columns="available")}))
    assert ">150<" in older


@pytest.mark.slow
def test_names_are_escaped_everywhere():
    name = "<script>a&b</script>{x}"
    tables, freezes = synthetic.make_tables((name,), step=29)
    hostile = {key: table.copy() for key, table in tables.items()}
    for table in hostile.values():
        if "task" in table:
            table["task"] = table["task"].replace("sst2", name)
    made = synthetic.make_provenance((name,)) | {"command": name, "commit": name}
    results = replace(synthetic.results(hostile, freezes), provenance=made)
    html = page_of(results)
    assert "<script>" not in html and "&lt;script&gt;a&amp;b" in html
    assert "&amp;lt;" not in html


def test_how_it_was_made_has_the_command_the_commit_and_settings_as_they_resolved():
    text = text_of(sections.made_html(synthetic.results({})))
    for part in ("snakemake --cores 2", "0123abcd, with uncommitted changes", "engine torch"):
        assert part in text
    assert "precision search bfloat16" in text and "quantizer reference" in text
    bare = replace(synthetic.results({}), provenance={"experiment": "e"})
    assert text_of(sections.made_html(bare)).count("not recorded") == 2
    assert "No provenance" in sections.made_html(replace(bare, provenance={}))


def test_looks_are_counted_by_task():
    looks = {
        "model": "m",
        "quantization": "none",
        "task": "t",
        "plan": ["a", "b"],
        "documents": 1500,
    }
    table = pd.DataFrame(looks | {"looked": ["2026-01", "2026-02"]})
    assert text_of(ledger_table(synthetic.results({"ledger": table}))).count("1,500") == 1


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


@pytest.mark.slow
def test_costs_of_different_hardware_are_told_apart():
    tables, _ = synthetic.make_tables(step=29)
    costs = tables["costs"]
    assert costs_hardware_note(costs) == f"All were measured on {synthetic.HARDWARE}."
    other = costs.assign(hardware="another card", quantization="exl2-4.0")
    text = costs_hardware_note(pd.concat([costs, other]))
    assert f"on another card {synthetic.MODEL} at exl2-4.0" in text
    assert f"{synthetic.MODEL} unquantized" in text
    assert "only within the same hardware" in text
    assert costs_hardware_note(pd.DataFrame()) == ""
