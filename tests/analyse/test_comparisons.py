"""From scores to comparisons with the base and with each other."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.comparisons import comparisons, pairs, with_shapes
from frankenlab.analyse.outcomes import outcomes
from frankenlab.analyse.race_rounds import sample
from frankenlab.analyse.selection import mean_effects
from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.verdicts import verdicts
from frankenlab.io.errors import UserError

STAMPS = {
    "stage": "search",
    "model": "m",
    "quantization": "none",
    "task": "t",
    "precision": "float32",
    "hardware": "a processor",
}
RULES = Statistics(fdr=0.05, alpha=0.05, margin=3.0, resamples=400, seed=1)
TASKS = {"t": SimpleNamespace(metric="acc", role="search")}


def accuracy_scores(answers: dict[str, list[int]], **columns: object) -> pd.DataFrame:
    """A row per (plan, document) with the metric `acc`."""
    rows = [
        {"plan": plan, "document": i, "key": f"d{i}", "cluster": f"d{i}", "acc": float(right)}
        for plan, rights in answers.items()
        for i, right in enumerate(rights)
    ]
    return pd.DataFrame(rows).assign(**(STAMPS | columns))


def perplexity_scores(nlls: dict[str, list[float]], words: list[int]) -> pd.DataFrame:
    """A row per (plan, passage) with `word_perplexity` and its weight."""
    rows = [
        {
            "plan": plan,
            "document": i,
            "key": f"d{i}",
            "cluster": f"d{i}",
            "word_perplexity": math.exp(nll / words[i]),
            "word_perplexity_weight": float(words[i]),
        }
        for plan, values in nlls.items()
        for i, nll in enumerate(values)
    ]
    return pd.DataFrame(rows).assign(**STAMPS)


def test_accuracy_is_compared_in_points_with_its_flips():
    scores = accuracy_scores({"base": [1, 1, 0, 0] * 25, "0:2,1:4": [1, 0, 1, 1] * 25})
    table = comparisons(scores, "acc", "search", {"base": "base", "0:2,1:4": "layer"}, RULES)
    base, franken = table.to_dict("records")
    assert base["effect"] == 0 and base["p"] == 1 and not base["significant"]
    assert pd.isna(franken["available"])
    assert franken["effect"] == pytest.approx(25.0)
    assert (franken["up"], franken["down"], franken["n"]) == (50, 25, 100)
    assert franken["value"] == 0.75 and franken["base_value"] == 0.5
    assert franken["low"] < 25 < franken["high"]
    assert franken["unit"] == "points" and franken["group"] == "layer"
    assert franken["value_stderr"] == pytest.approx(math.sqrt(0.75 * 0.25 / 99))


def test_perplexity_is_a_ratio_of_sums_and_lower_is_better():
    words = [10, 30, 20, 40, 15, 25, 35, 45, 12, 22, 32, 42, 52]
    base = [3.0 * w for w in words]
    worse = [3.1 * w for w in words]
    table = comparisons(
        perplexity_scores({"base": base, "0:3,1:4": worse}, words),
        "word_perplexity",
        "guard",
        {"base": "base", "0:3,1:4": "block"},
        RULES,
    )
    franken = table.iloc[1]
    assert franken["base_value"] == pytest.approx(math.exp(3.0))
    assert franken["value"] == pytest.approx(math.exp(3.1))
    assert franken["effect"] == pytest.approx(-10.0)
    assert franken["unit"] == "log-percent" and pd.isna(franken["up"])


def test_bits_per_byte_are_turned_into_nats():
    frame = perplexity_scores({"base": [20.0, 30.0]}, [10, 20]).rename(
        columns={
            "word_perplexity": "bits_per_byte",
            "word_perplexity_weight": "bits_per_byte_weight",
        }
    )
    frame["bits_per_byte"] = [20.0 / 10 / math.log(2), 30.0 / 20 / math.log(2)]
    assert outcomes(frame, "bits_per_byte").scores[0] == pytest.approx([-20.0, -30.0])


def test_texts_that_are_all_empty_have_no_average():
    frame = perplexity_scores({"base": [2.0, 3.0]}, [1, 1])
    with pytest.raises(UserError, match='"word_perplexity": all 2 texts are empty'):
        outcomes(frame.assign(word_perplexity_weight=0.0), "word_perplexity")


def test_documents_of_one_cluster_count_as_one():
    """Ten copies of each of ten documents are ten clusters, not a hundred."""
    rng = np.random.default_rng(0)
    base = np.repeat(rng.integers(0, 2, 10), 10)
    franken = np.repeat(rng.integers(0, 2, 10), 10)
    scores = accuracy_scores({"base": base.tolist(), "0:3,1:4": franken.tolist()})
    groups = {"base": "base", "0:3,1:4": "block"}
    alone = comparisons(scores, "acc", "search", groups, RULES).iloc[1]
    together = comparisons(
        scores.assign(cluster=[f"u{i // 10}" for i in scores["document"]]),
        "acc",
        "search",
        groups,
        RULES,
    ).iloc[1]
    assert together["effect"] == alone["effect"] and together["n_clusters"] == 10
    assert together["high"] - together["low"] > 2 * (alone["high"] - alone["low"])
    assert together["p"] > alone["p"]


def test_shapes_name_the_range_that_a_plan_changes():
    plans = ["base", "0:3,1:4", "0:3,2@attn*0.5,3", "0,2:4", "3,0"]
    shaped = with_shapes(pd.DataFrame({"plan": plans, "model": "m"}), {"m": 4})
    assert shaped["start"].tolist() == [pd.NA, 1, 2, 1, pd.NA]
    assert shaped["stop"].tolist() == [pd.NA, 3, 3, 2, pd.NA]
    assert shaped["times"].tolist() == [pd.NA, 2, 2, 0, pd.NA]
    assert shaped["part"].fillna("").tolist() == ["", "block", "attn", "block", ""]
    assert shaped["scale"].fillna(-1).tolist() == [-1, 1, 0.5, 1, -1]
    assert shaped["depth"].tolist() == [4, 6, 4.5, 3, 2]


def test_pairs_compare_within_and_across_models_on_common_documents():
    first = accuracy_scores({"base": [1] * 40, "0:3,1:4": [0] * 40, "0:4,2:4": [1] * 40})
    second = accuracy_scores({"base": [0] * 30})
    table = pairs(pd.concat([first, second.assign(model="n")]), TASKS, RULES)
    within = table[table["model_b"] == "m"]
    assert within[["plan_a", "plan_b"]].to_numpy().tolist() == [["0:3,1:4", "0:4,2:4"]]
    assert within["effect"].item() == -100
    across = table[table["model_b"] == "n"].set_index("plan_a")
    assert set(across.index) == {"base", "0:3,1:4", "0:4,2:4"}
    assert (across["n"] == 30).all()
    assert across.loc["base", "effect"] == 100 and across.loc["0:3,1:4", "effect"] == 0


def turned_scores(answers: dict[str, list[int]], **columns: object) -> pd.DataFrame:
    """The same metric where lower is better, as `EvaluationTask.metrics` marks it."""
    return accuracy_scores(answers, **columns).assign(acc_sign=-1.0)


LOWER = {
    "base": [1] * 30 + [0] * 70,
    "0:3,1:4": [1] * 10 + [0] * 90,
    "0:2,1:4": [1] * 50 + [0] * 50,
}


def test_where_lower_is_better_the_value_is_the_metrics_and_the_effect_is_turned():
    groups = dict.fromkeys(LOWER, "block")
    table = comparisons(turned_scores(LOWER), "acc", "search", groups, RULES).set_index("plan")
    assert dict(table["value"]) == pytest.approx({"base": 0.3, "0:3,1:4": 0.1, "0:2,1:4": 0.5})
    assert table["base_value"].tolist() == pytest.approx([0.3] * 3)
    assert dict(table["effect"]) == pytest.approx({"base": 0, "0:3,1:4": 20, "0:2,1:4": -20})
    assert table.loc["0:3,1:4", ["up", "down"]].tolist() == [20, 0]
    assert table.loc["0:3,1:4", "low"] > 0 > table.loc["0:2,1:4", "high"]
    ranked = mean_effects(with_shapes(table.reset_index(), {"m": 4}))
    assert ranked["plan"].tolist() == ["0:3,1:4", "0:2,1:4"]


def test_pairs_and_races_turn_it_too():
    frame = turned_scores(LOWER)
    (row,) = pairs(frame, TASKS, RULES).to_dict("records")
    better = 1 if row["plan_a"] == "0:3,1:4" else -1
    assert row["effect"] == pytest.approx(40 * better)
    seen = sample(frame, "acc", list(LOWER), 100, None)
    assert seen.scores.sum(axis=1).tolist() == [-30, -10, -50]


def test_documents_that_are_right_in_part_are_tested_by_their_sizes():
    """Many small losses and few large gains: signs alone would call the gain a loss."""
    frame = accuracy_scores({"base": [0] * 60, "0:3,1:4": [0] * 60})
    better = frame["plan"] != "base"
    frame["acc"] = 0.5
    frame.loc[better, "acc"] = [0.45] * 44 + [1.0] * 16
    groups = dict.fromkeys(("base", "0:3,1:4"), "block")
    row = comparisons(frame, "acc", "guard", groups, RULES).iloc[1]
    assert row["effect"] == pytest.approx(100 * (16 * 0.5 - 44 * 0.05) / 60)
    assert (row["up"], row["down"]) == (16, 44)
    assert 0.001 < row["p"] < 0.05


# ---- rows of different hardware


def on_two_cards(plan: str, first: int) -> pd.DataFrame:
    """Scores of a base that one card computed, and of a plan whose last documents another did."""
    scores = accuracy_scores({"base": [1, 0] * 20, plan: [1, 1] * 20}, precision="bfloat16")
    later = (scores["plan"] == plan) & (scores["document"] >= first)
    return scores.assign(hardware=later.map({True: "new", False: "old"}).astype("category"))


def test_a_comparison_says_on_how_many_documents_its_sides_ran_on_different_hardware():
    plan = "0:2,1:4"
    groups = {"base": "base", plan: "block"}
    table = comparisons(on_two_cards(plan, 33), "acc", "search", groups, RULES)
    base, franken = table.to_dict("records")
    assert (base["hardware"], base["mixed"]) == ("old", 0)
    assert (franken["hardware"], franken["mixed"], franken["precision"]) == (
        "new; old",
        7,
        "bfloat16",
    )
    same = comparisons(on_two_cards(plan, 40), "acc", "search", groups, RULES)
    assert list(same["mixed"]) == [0, 0] and set(same["hardware"]) == {"old"}


def test_only_the_documents_that_a_dropped_plan_saw_count_as_mixed():
    plan = "0:2,1:4"
    scores = on_two_cards(plan, 33)
    scores = scores[(scores["plan"] == "base") | (scores["document"] < 35)]
    groups = {"base": "base", plan: "block"}
    table = comparisons(scores, "acc", "search", groups, RULES, {plan: 1}).set_index("plan")
    assert (table.at[plan, "n"], table.at[plan, "mixed"]) == (35, 2)


def test_a_grown_plan_is_not_tested_by_the_documents_that_chose_it():
    child, other = "0:2,1:4", "0:3,2:4"
    right = {"base": [1, 0] * 20, child: [1] * 40, other: [1] * 30 + [0] * 10}
    found, grown, fresh = (
        comparisons(
            accuracy_scores(right).assign(stage=stage),
            *("acc", "search", {"base": "base", child: group, other: "block"}, RULES),
        ).set_index("plan")
        for stage, group in (("search", "block"), ("search", "beam"), ("select", "beam"))
    )
    assert found.at[child, "p"] < 0.001 and found.at[child, "significant"]
    assert pd.isna(grown.at[child, "p"]) and pd.isna(grown.at[child, "q"])
    assert not grown.at[child, "significant"] and grown.at[child, "effect"] == 50
    # It counts in the correction of the other one.
    assert grown.at[other, "q"] == pytest.approx(2 * grown.at[other, "p"])
    assert fresh.at[child, "q"] == found.at[child, "q"]


@pytest.mark.slow
def test_verdicts_and_pairs_say_it_too():
    plan = "0:2,1:4"
    scores = on_two_cards(plan, 33).assign(stage="confirm")
    found = pairs(pd.concat([scores, scores.assign(model="n")]), TASKS, RULES)
    mixed = found.set_index(["plan_a", "plan_b"])["mixed"]
    assert mixed["base", plan] == mixed[plan, "base"] == 7
    assert mixed["base", "base"] == mixed[plan, plan] == 0
    table = comparisons(scores, "acc", "search", {"base": "base", plan: "block"}, RULES)
    rows = verdicts(with_shapes(table, {"m": 4}), scores, TASKS, {"m": plan}, RULES)
    assert list(rows["mixed"]) == [7] and list(rows["hardware"]) == ["new; old"]
