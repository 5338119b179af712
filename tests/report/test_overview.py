"""The first page of several models, the figures on it, and the page of one of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.report import overview, sections
from frankenlab.report.figures.catalogue import across, names
from frankenlab.report.figures.sizes import size_effect_finding
from frankenlab.report.figures.style import spec_of, svg_of
from frankenlab.report.figures.transfer import transfer_effect_finding
from tests.report.test_sections import forbidden, text_of
from tests.support import synthetic_tables as synthetic
from tests.support.charts import faults, rows_of_spec, words_of

LEVELS = Statistics()
MODELS = ("smollm2-135m", "llama-7b")
PARAMETERS = {"smollm2-135m": 134_520_000, "llama-7b": 6_738_000_000}
PLAN = "0:21,18:30"


def size_rows(**columns: object) -> pd.DataFrame:
    """The table `sizes`: three designs on two models and two tasks, without any difference."""
    rows = []
    for kind, label, stage in (
        ("frozen", "the frozen plan of each model", "confirm"),
        ("line", "the mean over layer (times 2)", "search"),
        ("single", "20 to 30 % of the depth, 2 times", "search"),
    ):
        for task in ("arc_easy", "sciq"):
            for model in MODELS:
                other = model == "llama-7b"
                rows.append(
                    {
                        **{"model": model, "quantization": "none", "design": kind, "label": label},
                        **{"parameters": PARAMETERS[model], "stage": stage, "task": task},
                        **{"plan": PLAN if kind != "line" else None, "plans": 1, "unit": "points"},
                        **{"role": "search", "kind": "mean", "n": 100, "effect": 1.0 - 3 * other},
                        **{"low": -1.0 - 3 * other, "high": 3.0 - 3 * other},
                        "against": MODELS[0] if other else None,
                        **dict.fromkeys(("p", "q"), 0.3 if other else np.nan),
                        "difference": -3.0 if other else np.nan,
                        "difference_low": -6.0 if other else np.nan,
                        "difference_high": 0.5 if other else np.nan,
                        "significant": False,
                    }
                )
    return pd.DataFrame(rows).assign(**columns)


def transfer_rows(**columns: object) -> pd.DataFrame:
    """The table `transfer` of two models on one task."""
    rows = [
        {
            **{"model": model, "source": source, "plan": PLAN if model == source else "0:9,8:30"},
            **{"own": PLAN, "quantization": "none", "task": "arc_easy", "role": "search"},
            **{"unit": "points", "n": 342, "effect": 1.0, "low": 0.2, "high": 1.8},
            **{"difference": -2.0, "difference_low": -3.0, "difference_high": -1.0},
            **dict.fromkeys(("p", "q"), np.nan if model == source else 0.4),
            "significant": False,
        }
        for model in MODELS
        for source in MODELS
    ]
    return pd.DataFrame(rows).assign(**columns)


def family_rows(**columns: object) -> pd.DataFrame:
    rows = [
        {
            **{"model_a": MODELS[0], "model_b": MODELS[1], "group_a": a, "group_b": b},
            **{"task": "arc_easy", "role": "search", "unit": "points", "n": 342, "effect": -9.0},
            **{"low": -12.0, "high": -6.0, "q": 0.001, "significant": True},
        }
        for a in ("base", "frozen")
        for b in ("base", "frozen")
    ]
    return pd.DataFrame(rows).assign(**columns)


@pytest.fixture(scope="module")
def results():
    tables, freezes = synthetic.make_tables(MODELS, step=15)
    costs = tables["costs"].assign(parameters=tables["costs"]["model"].map(PARAMETERS))
    more = {"sizes": size_rows(), "transfer": transfer_rows(), "family": family_rows()}
    made = synthetic.results(tables | {"costs": costs} | more, freezes)
    return replace(made, provenance=synthetic.make_provenance(MODELS))


def test_each_model_has_a_row_with_its_answer_its_plan_and_its_worst_guard(results):
    html = overview.overview_html(results)
    text = text_of(html)
    assert html.count("<tr") == 3 and 'href="model.llama-7b.html"' in html
    assert "135 M" in text and "6.74 B" in text and "layers 18–20 twice" in text
    assert "for this plan" in text and "arc_easy" in text and forbidden(text) == []
    own = results.table("verdicts")
    for model in MODELS:
        guards = own[(own["model"] == model) & (own["role"] == "guard")]
        guards = guards[guards["group"] == "frozen"]
        order = guards["verdict"].map(overview.VERDICTS.index)
        worst = guards[order == order.min()].sort_values("effect").iloc[0]
        assert f"{worst['task']} " in text


def test_nothing_confirmed_is_said():
    assert "Nothing was confirmed yet." in overview.overview_html(synthetic.results({}))
    assert overview.family_html(synthetic.results({})) == ""
    assert overview.transfer_html(synthetic.results({})) == ""


def test_the_sections_have_their_sentences_and_tables(results):
    parts = (overview.size_html, overview.transfer_html, overview.family_html)
    html = "".join(part(results) for part in parts)
    text = text_of(html)
    assert "than the unmodified llama-7b on arc_easy (−9.0 points [−12.0, −6.0])" in text
    assert html.count("<table") == 3 and "Not drawn: Effect against the size" in text
    assert forbidden(text) == []


def test_the_page_of_a_model_has_that_model_alone(results):
    alone = results.of("llama-7b")
    assert alone.cases() == [("llama-7b", "none")] and len(alone.frozen) == 1
    html = sections.title_html(alone) + sections.verdict_html(alone) + sections.sure_html(alone)
    assert 'href="index.html"' in html and "smollm2-135m" not in html
    assert 'href="index.html"' not in sections.title_html(results)


def test_flipped_documents_of_other_models_are_not_on_its_page(results):
    flips = pd.DataFrame({"model": MODELS, "task": "sciq", "document": [1, 2]})
    documents = pd.DataFrame({"task": "sciq", "document": [1, 2], "text": ["one", "two"]})
    more = {"flips": flips, "documents": documents}
    alone = synthetic.results(dict(results.tables) | more).of("llama-7b")
    assert alone.table("documents")["text"].tolist() == ["two"]


def test_figures_between_models_are_where_their_tables_are(results):
    assert [picture.stem for picture in across(results.tables)] == [
        "size_effect",
        "transfer_effect",
    ]
    assert names("models", ["sizes"]) == ["size_effect"] and across({}) == []


@pytest.mark.slow
def test_pictures_between_models_are_whole(results):
    for picture in across(results.tables):
        spec = spec_of(picture.draw(results.tables, LEVELS))
        svg = svg_of(spec)
        assert faults(svg) == [], picture.stem
        words = words_of(svg)
        assert spec["description"] == picture.finding(results.tables, LEVELS) != ""
        assert "llama-7b" in words and "arc_easy" in words
        drawn = [row for row in rows_of_spec(spec) if "effect" in row]
        assert len(drawn) == len(results.table(picture.entry.tables[0]))
        # The points of frozen plans, and their mark in the key.
        assert svg.count('fill="#0173b2"') == (3 if picture.stem == "transfer_effect" else 5)
        assert ("3 B: CircuitProbe claims" in words) == (picture.stem == "size_effect")


def test_the_finding_on_sizes_names_differences_and_the_claim():
    said = size_effect_finding({"sizes": size_rows()}, LEVELS)
    assert said == (
        "There is no evidence that the frozen plans change more or less in larger models than in "
        "smollm2-135m, the smallest (2 comparisons on the same documents). 1 model is below 3 "
        "billion parameters, where CircuitProbe claims a gain: of their 2 effects of frozen plans "
        "on search tasks, none has a 95 % interval above 0 and none has one below 0. 1 model is of "
        "7B or more, where CircuitProbe claims a loss: of their 2 effects of frozen plans on "
        "search tasks, none has a 95 % interval above 0 and none has one below 0."
    )
    sure = size_rows(significant=size_rows()["p"].notna())
    said = size_effect_finding({"sizes": sure}, LEVELS)
    assert (
        "do significantly worse on arc_easy in llama-7b unquantized (−3.0 points [−6.0, +0.5])"
        in said
    )
    assert size_effect_finding({}, LEVELS) == ""


def test_the_finding_on_transferred_plans():
    said = transfer_effect_finding({"transfer": transfer_rows()}, LEVELS)
    assert said == (
        "There is no evidence that the frozen plan of another model, at the same shares of the "
        "depth, does better or worse than a model's own (2 comparisons on the same documents). "
        "Against the base, of 2 effects of such plans 2 have a 95 % interval above 0 and none has "
        "one below 0."
    )
    sure = transfer_rows(significant=transfer_rows()["p"].notna())
    said = transfer_effect_finding({"transfer": sure}, LEVELS)
    assert "worse on arc_easy (that of llama-7b in smollm2-135m, −2.0 points" in said
    same = transfer_rows(plan=PLAN, p=np.nan)
    said = transfer_effect_finding({"transfer": same}, LEVELS)
    assert said.startswith("On smollm2-135m the plan of llama-7b is its own one.")
