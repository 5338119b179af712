import json

import pandas as pd
import pytest

from frankenlab.report.answer import answer, outcome, search_sentences, sentences, summary

# Values of the base and the plan that go with a verdict.
VALUES = {
    "improved": (0.587, 0.687),
    "harmed": (0.687, 0.587),
    "equivalent": (0.5, 0.502),
    "inconclusive": (0.5, 0.52),
}


def verdicts(
    search: str,
    guard: str,
    model: str = "m",
    quantization: str = "none",
    depth: int = 5,
    plan: str = "0:3,1:4",
    **columns,
) -> pd.DataFrame:
    """Frozen rows from words such as "improved harmed"; one task a word."""
    rows = [
        {
            "model": model,
            "quantization": quantization,
            "task": f"{role}{i}",
            "role": role,
            "metric": "acc",
            "kind": "mean",
            "unit": "points",
            "plan": plan,
            "group": "frozen",
            "depth": float(depth),
            "relative_depth": depth / 4,
            "n": 100,
            "value": VALUES[word][1],
            "base_value": VALUES[word][0],
            "effect": 100 * (VALUES[word][1] - VALUES[word][0]),
            "margin": 3.0,
            "verdict": word,
            "smallest_detectable": 5.04,
        }
        for role, words in (("search", search), ("guard", guard))
        for i, word in enumerate(words.split())
    ]
    return pd.DataFrame(rows).assign(**columns)


def perplexity(verdict: str, before: float, after: float, **columns) -> pd.DataFrame:
    """A row of a perplexity on passages."""
    named = {"task": "boolq_passages", "metric": "word_perplexity", "kind": "perplexity"}
    values = {"base_value": before, "value": after, "effect": -26.6, "unit": "log-percent"}
    return verdicts("", "equivalent", **columns).assign(verdict=verdict, **named, **values)


def searched(p: float = 0.31, level: float = 0.004, **columns) -> pd.DataFrame:
    """The table `search` of one model."""
    row = {"model": "m", "quantization": "none", "plans": 79, "p": p, "level": level}
    row |= {"documents": 334, "shared_documents": 334, "best_effect": 0.3, "best_by_luck": 4.04}
    return pd.DataFrame([row | {"significant": p <= level, "best_plan": "0:3,1:4"} | columns])


def said(*rows: pd.DataFrame, search: pd.DataFrame | None = None) -> list[str]:
    tables = {"verdicts": pd.concat(rows, ignore_index=True)}
    if search is not None:
        tables["search"] = search
    models = tables["verdicts"]["model"].unique()
    return answer(tables, [{"model": m, "reference_quantization": "none"} for m in models])


@pytest.mark.parametrize(
    ("search", "guard", "expected"),
    [
        ("improved equivalent", "equivalent improved", "free lunch"),
        ("equivalent", "improved", "free lunch"),
        ("improved inconclusive", "equivalent improved", "inconclusive"),
        ("improved", "equivalent inconclusive", "inconclusive"),
        ("improved", "", "inconclusive"),
        ("improved", "equivalent harmed", "mixed"),
        ("harmed", "improved", "mixed"),
        ("equivalent", "harmed", "no free lunch"),
        ("inconclusive", "harmed inconclusive", "no free lunch"),
        ("equivalent equivalent", "inconclusive", "no free lunch"),
        ("equivalent inconclusive", "equivalent", "inconclusive"),
        ("inconclusive", "improved", "inconclusive"),
        ("", "equivalent", "inconclusive"),
    ],
)
def test_a_free_lunch_needs_a_gain_and_no_loss(search, guard, expected):
    assert outcome(verdicts(search, guard)) == expected


def test_a_harm_is_said_as_one_would_say_it():
    rows = (verdicts("inconclusive", ""), perplexity("harmed", 75.6, 98.6))
    assert said(*rows, search=searched()) == [
        "No free lunch for this plan.",
        "Running layers 1–2 twice raised perplexity on boolq_passages from 75.6 to 98.6 (+30 %).",
        "No task improved significantly.",
        "The best of 79 plans was not significantly better than the base on the search documents "
        "(p = 0.31).",
        "The rest is inconclusive: with these documents a change of 5 points on search0 would "
        "have been found (with a power of 80\N{NO-BREAK SPACE}%).",
    ]


@pytest.mark.parametrize("guard", ["inconclusive", "equivalent", "harmed", "improved"])
def test_a_true_gain_of_ten_points_is_in_the_first_sentence(guard):
    first = said(verdicts("improved", guard))[0]
    assert "running layers 1–2 twice improved accuracy on search0 from 58.7 % to 68.7 %" in first
    assert "(+10.0 points)" in first


def test_a_mixture_names_gain_and_loss_in_the_first_sentence():
    first, *others = said(verdicts("improved", ""), perplexity("harmed", 75.6, 98.6))
    assert first == (
        "Mixed results for this plan: running layers 1–2 twice improved accuracy on search0 from "
        "58.7 % to 68.7 % (+10.0 points) and raised perplexity on boolq_passages from 75.6 to "
        "98.6 (+30 %)."
    )
    assert others == []


def test_a_free_lunch_names_its_price_and_what_stayed_equivalent():
    first, second = said(verdicts("improved equivalent", "equivalent"))
    assert first.startswith(
        "A free lunch for this plan, apart from the time that 5 layers take in place of 4: running"
    )
    assert second == "The change on search1 and guard0 is smaller than 3 points (equivalent)."


def test_with_nothing_found_the_answer_says_what_could_have_been():
    assert said(verdicts("inconclusive inconclusive", "inconclusive")) == [
        "Inconclusive for this plan.",
        "Running layers 1–2 twice changed no task significantly.",
        "With these documents a change of 5 points on search0, 5 points on search1 or 5 points on "
        "guard0 would have been found (with a power of 80\N{NO-BREAK SPACE}%).",
    ]
    unknown = verdicts("inconclusive", "inconclusive", smallest_detectable=None)
    assert len(said(unknown)) == 2


def test_what_is_significant_stands_before_what_is_inconclusive():
    rows = verdicts("inconclusive improved", "harmed equivalent inconclusive")
    text = " ".join(said(rows, search=searched()))
    places = [text.index(part) for part in ("improved", "lowered", "equivalent", "inconclusive")]
    assert places == sorted(places)


def test_several_quantizations_of_one_plan_are_named_and_the_reference_comes_first():
    other = {"quantization": "exl2-4.0"}
    rows = (
        perplexity("harmed", 88.5, 119.7, **other),
        verdicts("inconclusive", "", **other),
        perplexity("harmed", 75.6, 98.6),
        verdicts("equivalent", ""),
    )
    sentences = said(*rows)
    assert sentences[0] == "No free lunch for this plan."
    assert (
        "from 75.6 to 98.6 (+30 %) unquantized and from 88.5 to 119.7 (+35 %) at exl2-4.0"
        in sentences[1]
    )
    assert "the change on search0 unquantized is smaller than 3 points" in sentences[1]
    assert "5 points on search0" in sentences[-1]


def test_outcomes_that_differ_are_told_apart():
    rows = (verdicts("improved", "equivalent"), verdicts("harmed", "equivalent", "m", "exl2-4.0"))
    assert said(*rows)[0].startswith(
        "A free lunch, apart from the compute, unquantized; no free lunch at exl2-4.0: running"
    )
    models = [verdicts(s, "equivalent", f"m{i}") for i, s in enumerate(["harmed", "inconclusive"])]
    assert said(*models)[0] == "No free lunch for m0; inconclusive for m1."
    many = [verdicts("harmed", "equivalent", f"m{i}") for i in range(5)]
    first = said(*many, verdicts("improved", "equivalent", "best"))[0]
    assert "no free lunch in 5 of 6 combinations of model and quantization: in best" in first


def test_many_models_are_counted_and_the_text_stays_short():
    many = [verdicts("harmed", "inconclusive", f"m{i}") for i in range(12)]
    sentences = said(*many)
    assert sentences[0] == "No free lunch for any of 12 frozen plans."
    assert sentences[1].count("lowered accuracy") == 3
    assert sentences[1].endswith("9 more models below.")
    assert "The rest (12 of 24 comparisons) is inconclusive" in sentences[-1]
    assert max(map(len, sentences)) < 500


def test_a_page_opens_with_one_to_five_sentences():
    for words in ("improved", "harmed", "equivalent", "inconclusive"):
        for guard in ("improved", "harmed", "equivalent", "inconclusive", ""):
            for more in ("", " inconclusive", " equivalent"):
                found = said(verdicts(words + more, guard), search=searched())
                assert 1 <= len(found) <= 5
                assert all(text[0].isupper() and text.endswith(".") for text in found)


def test_the_test_of_the_search_is_said_at_its_own_level():
    rows = verdicts("inconclusive", "")
    assert (
        "was significantly better than the base on the search documents (p < 0.001)"
        in (said(rows, search=searched(0.0001))[-2])
    )
    assert "was not significantly better" in said(rows, search=searched(0.02))[-2]
    assert "(p = 0.02, not below 0.004)" in said(rows, search=searched(0.02))[-2]
    several = pd.concat([searched(), searched(0.001, model="k")])
    assert "for 1 of 2 models (k, p = 0.001)" in said(rows, search=several)[-2]


def test_nothing_uncorrected_changes_the_answer():
    """Pairs, comparisons and costs may say what they like."""
    rows = verdicts("inconclusive", "inconclusive")
    tables = {"verdicts": rows}
    sure = pd.DataFrame({"effect": [50.0], "low": [40.0], "high": [60.0], "p": [1e-9]})
    noisy = tables | {"pairs": sure, "comparisons": sure, "costs": sure}
    assert answer(tables, []) == answer(noisy, [])
    assert answer({"verdicts": rows.assign(p=1e-9, low=1.0, high=2.0)}, []) == answer(tables, [])


def test_controls_do_not_count_as_the_frozen_franken():
    control = verdicts("harmed", "harmed").assign(group="control", plan="0:2,0:4")
    assert said(verdicts("improved", "equivalent"), control)[0].startswith("A free lunch")


def test_without_verdicts_there_is_no_answer_yet():
    none = "There is no answer yet: no plan was confirmed on fresh documents."
    assert answer({}, []) == [none]
    assert answer({"search": searched()}, [])[1].startswith("The best of 79 plans")
    assert summary({}, []) == {"headline": none, "sentences": [none], "outcome": None}


def test_the_answer_is_a_record_that_snakemakes_report_can_show(tmp_path):
    path = tmp_path / "answer.json"
    assert sentences(path) == []
    found = summary({"verdicts": verdicts("improved", "harmed", task="sst2_*`x`_")}, [])
    assert found["headline"] == found["sentences"][0] and found["outcome"] == "mixed"
    path.write_text(json.dumps(found))
    assert r"sst2\_\*\`x\`\_" in sentences(path)[0]


def test_the_answer_counts_the_plans_that_were_grown_and_tests_the_grid():
    search = searched(plans=113, grown=34)
    assert search_sentences({"search": search}) == [
        "The best of 79 plans of the grid was not significantly better than the base on the search "
        "documents (p = 0.31, corrected for all 113 that were looked at)."
    ]
    both = pd.concat([search, searched(model="k")], ignore_index=True)
    assert search_sentences({"search": both})[0].startswith("The best plan of the grid was ")


def test_a_gain_that_depends_on_the_prompt_says_so():
    own = verdicts("improved", "equivalent")
    prompts = own[own["role"] == "search"].assign(prompt="own", spread_p=0.001)
    prompts = pd.concat(
        [prompts, prompts.assign(prompt="review", base_value=0.835, value=0.825, effect=-1.0)]
    )
    warning = (
        'The gain depends on the prompt: under "review" the base itself reaches 83.5 % on search0, '
        "the plan 82.5 %."
    )
    assert warning in answer({"verdicts": own, "prompts": prompts}, [])
    same = {"verdicts": own, "prompts": prompts.assign(spread_p=0.2)}
    assert warning not in answer(same, [])
    lost = verdicts("inconclusive", "equivalent")
    assert warning not in answer({"verdicts": lost, "prompts": prompts}, [])
