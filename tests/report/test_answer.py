import pandas as pd
import pytest

from frankenlab.report.answer import against_controls, answer, outcome


def verdicts(search: str, guard: str, model: str = "m", quantization: str = "none") -> pd.DataFrame:
    """Frozen rows from words such as "improved harmed"; one task a word."""
    return pd.DataFrame(
        {
            "model": model,
            "quantization": quantization,
            "task": f"{role}{i}",
            "role": role,
            "unit": "points",
            "plan": "0:3,1:4",
            "group": "frozen",
            "n": 100,
            "effect": 2.0,
            "low": -1.0,
            "high": 5.0,
            "verdict": word,
            "documents_needed": 1234 if word == "inconclusive" else None,
        }
        for role, words in (("search", search), ("guard", guard))
        for i, word in enumerate(words.split())
    )


def freeze(model: str = "m") -> dict:
    return {
        "model": model,
        "frozen": "0:3,1:4",
        "controls": ["0:2,0:4"],
        "reference_quantization": "none",
        "reason": "best",
    }


@pytest.mark.parametrize(
    ("search", "guard", "expected"),
    [
        ("improved inconclusive", "equivalent improved", "free"),
        ("improved improved", "equivalent harmed", "none"),
        ("improved harmed", "equivalent", "none"),
        ("equivalent equivalent", "inconclusive", "none"),
        ("improved", "equivalent inconclusive", "inconclusive"),
        ("improved", "", "inconclusive"),
        ("equivalent inconclusive", "equivalent", "inconclusive"),
        ("inconclusive", "improved", "inconclusive"),
    ],
)
def test_a_free_lunch_needs_a_gain_and_no_loss(search, guard, expected):
    assert outcome(verdicts(search, guard)) == expected


@pytest.mark.parametrize(
    ("parts", "opening"),
    [
        ([("improved", "equivalent")], "A free lunch, apart from the compute: "),
        ([("harmed", "equivalent")], "No free lunch: "),
        (
            [("inconclusive", "equivalent")],
            "Inconclusive, as there were too few documents to decide: ",
        ),
        (
            [("improved", "equivalent"), ("harmed", "harmed"), ("inconclusive", "improved")],
            "A free lunch, apart from the compute, in 1 of 3 models, none in 1, inconclusive in 1",
        ),
        ([("harmed", "harmed")] * 2, "No free lunch: "),
        (
            [("harmed", "harmed"), ("inconclusive", "improved")],
            "No free lunch in 1 of 2 models, and too few documents to decide in the other: ",
        ),
    ],
)
def test_the_first_sentence_opens_with_the_verdict(parts, opening):
    table = pd.concat(verdicts(*words, model=f"m{i}") for i, words in enumerate(parts))
    sentences = answer({"verdicts": table}, [freeze(f"m{i}") for i in range(len(parts))])
    assert len(sentences) == 3
    assert sentences[0].startswith(opening)


def test_the_first_sentence_counts_verdicts_by_role():
    table = verdicts("harmed inconclusive harmed", "equivalent")
    assert answer({"verdicts": table}, [freeze()])[0] == (
        "No free lunch: of 3 search tasks 2 were harmed and 1 inconclusive; "
        "of 1 guard task 1 was equivalent (after Holm's correction, on fresh documents)."
    )


def test_controls_do_not_count_as_the_frozen_franken():
    control = verdicts("harmed", "harmed").assign(group="control", plan="0:2,0:4")
    table = pd.concat([verdicts("improved", "equivalent"), control])
    assert answer({"verdicts": table}, [freeze()])[0].startswith("A free lunch")


def test_the_second_sentence_has_effects_and_relative_costs():
    costs = pd.DataFrame(
        {
            "model": "m",
            "quantization": "none",
            "plan": ["base", "0:3,1:4"],
            "relative_depth": [1.0, 1.5],
            "decode_tokens_per_second": [20.0, 14.0],
            "decode_low": [16.0, 12.0],
            "decode_high": [24.0, 16.0],
            "prefill_tokens_per_second": [1000.0, 650.0],
            "prefill_low": [1000.0, 600.0],
            "prefill_high": [1000.0, 700.0],
        }
    )
    tables = {"verdicts": verdicts("improved", "equivalent"), "costs": costs}
    assert answer(tables, [freeze()])[1] == (
        "For m the frozen plan is 0:3,1:4, which runs 1.50 times the layers and has 0.70 times "
        "the base's decode speed (0.50 to 1.00 over repeats) and 0.65 times the base's prefill "
        "speed (0.60 to 0.70 over repeats): search0 +2.0 points [−1.0, +5.0] "
        "(n = 100); brackets are 95\N{NO-BREAK SPACE}% intervals."
    )


def test_the_second_sentence_uses_the_reference_quantization_and_bounds_its_length():
    names = [f"m{i}" for i in range(5)]
    table = pd.concat(
        [verdicts("improved", "equivalent", name) for name in names]
        + [verdicts("harmed", "harmed", name, "4.0bpw").assign(effect=-9.0) for name in names]
    )
    second = answer({"verdicts": table}, [freeze(name) for name in names])[1]
    assert second.count("the frozen plan is") == 3 and "2 more below" in second
    assert "−9.0" not in second and "was not timed" in second


def test_the_third_sentence_counts_controls_and_names_documents_needed():
    rows = [(1.0, 4.0), (-4.0, -1.0), (-1.0, 2.0)]
    pairs = pd.DataFrame(
        {
            "stage": "confirm",
            "task": f"t{i}",
            "model_a": "m",
            "quantization_a": "none",
            "plan_a": "0:3,1:4",
            "model_b": "m",
            "quantization_b": "none",
            "plan_b": "0:2,0:4",
            "effect": (low + high) / 2,
            "low": low,
            "high": high,
        }
        for i, (low, high) in enumerate(rows)
    )
    elsewhere = pairs.assign(model_b="another")
    tables = {
        "verdicts": verdicts("improved inconclusive", "equivalent"),
        "pairs": pd.concat([pairs, elsewhere, pairs.assign(stage="select")]),
    }
    third = answer(tables, [freeze()])[2]
    assert "better in 1 of 3 comparisons, worse in 1 and inconclusive in 1" in third
    assert third.endswith("would take about 1,200 documents of search1 (it had 100).")


def test_pairs_written_the_other_way_round_are_turned():
    pair = pd.DataFrame(
        {
            "stage": ["confirm"],
            "model_a": "m",
            "quantization_a": "none",
            "plan_a": "0:2,0:4",
            "model_b": "m",
            "quantization_b": "none",
            "plan_b": "0:3,1:4",
            "effect": 2.0,
            "low": 1.0,
            "high": 4.0,
        }
    )
    row = against_controls(pair, [freeze()]).iloc[0]
    assert (row["plan_a"], row["plan_b"]) == ("0:3,1:4", "0:2,0:4")
    assert (row["effect"], row["low"], row["high"]) == (-2.0, -4.0, -1.0)


def test_without_controls_or_verdicts_the_answer_says_so():
    sentences = answer({"verdicts": verdicts("improved", "equivalent")}, [freeze()])
    assert "not compared with controls" in sentences[2]
    assert "no comparison with the base was left inconclusive" in sentences[2]
    unrecorded = answer({"verdicts": verdicts("improved", "equivalent")}, [])
    assert len(unrecorded) == 3 and "was not recorded" in unrecorded[1]
    assert answer({}, []) == [
        "There is no answer yet: no franken was confirmed on fresh documents."
    ]
