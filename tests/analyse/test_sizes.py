"""The same designs on several models, and their frozen plans on each other."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.comparisons import pairs
from frankenlab.analyse.family import family
from frankenlab.analyse.selection import confirm_plans, without_finalists
from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.sizes import sizes
from frankenlab.analyse.transfer import transfer, transfers
from frankenlab.plans.designs import shared
from frankenlab.plans.repeats import Layers
from tests.analyse.test_comparisons import accuracy_scores, perplexity_scores

RULES = Statistics(resamples=200)
ROLES = {"a": "search", "c": "guard"}
TASKS = {task: SimpleNamespace(metric="acc", role=role) for task, role in ROLES.items()}
DEPTHS = {"large": 8, "small": 4}
PARAMETERS = {"large": 8_000, "small": 4_000}
PLANS = {"small": "0:3,2:4", "large": "0:5,4:8"}
MOVED = {"small": "0:3,2:4", "large": "0:6,4:8"}


def record(model: str) -> dict:
    return {
        **{"model": model, "frozen": PLANS[model], "group": "layer", "finalists": []},
        **{"controls": [], "reference_quantization": "none"},
    }


FROZEN = {model: record(model) for model in DEPTHS}


def answers(model: str, effects: dict[str, float], n: int, seed: int, **columns) -> pd.DataFrame:
    """Scores of the base, right on half of the documents, and of plans that turn a share of the
    others right."""
    wrong = np.arange(n) % 2
    order = np.random.default_rng(seed).permutation(np.flatnonzero(wrong))
    given = {"base": 1 - wrong}
    for plan, effect in effects.items():
        given[plan] = 1 - wrong
        given[plan][order[: round(effect * n)]] = 1
    return accuracy_scores(given, model=model, **columns)


def confirmed(small: float = 0.0, large: float = 0.2, moved: float = 0.0) -> pd.DataFrame:
    """Confirm scores: each model's own plan, and on the large one that of the small one."""
    found = []
    for number, task in enumerate(TASKS):
        where = {"task": task, "stage": "confirm"}
        own = {PLANS["large"]: large, MOVED["large"]: moved}
        found.append(answers("small", {PLANS["small"]: small}, 100, number, **where))
        found.append(answers("large", own, 100, number, **where))
    return pd.concat(found, ignore_index=True)


def searched(small: float, large: float) -> pd.DataFrame:
    """Search scores of each single layer of both models."""
    found = []
    for model, effect in (("small", small), ("large", large)):
        plans = [plan.text for plan in Layers(generator="layer").make(DEPTHS[model])]
        where = {"task": "a", "stage": "search"}
        found.append(answers(model, dict.fromkeys(plans, effect), 60, 3, **where))
    return pd.concat(found, ignore_index=True)


def table_of(scores: pd.DataFrame, search: pd.DataFrame) -> pd.DataFrame:
    lines = [Layers(generator="layer")]
    designs = shared(dict.fromkeys(DEPTHS, lines), DEPTHS)
    moved = transfers(FROZEN, DEPTHS)
    return sizes(search, scores, TASKS, designs, FROZEN, moved, PARAMETERS, RULES)


def test_effects_are_compared_with_those_of_the_smallest_model():
    table = table_of(confirmed(), searched(0.0, 0.1))
    own = table[(table["design"] == "frozen") & (table["task"] == "a")].set_index("model")
    assert own.loc["large", "effect"] == pytest.approx(20)
    row = own.loc["large"]
    assert row["difference"] == pytest.approx(20) and row["against"] == "small"
    assert row["shared"] == 100 and row["significant"] and row["difference_low"] > 0
    assert np.isnan(own.loc["small", "p"]) and not own.loc["small", "significant"]


def test_a_line_is_the_mean_of_its_plans_on_search_documents():
    table = table_of(confirmed(), searched(0.1, -0.0))
    line = table[table["design"] == "line"].set_index("model")
    assert line["plans"].to_dict() == {"small": 4, "large": 8} and line["plan"].isna().all()
    assert line.loc["small", "effect"] == pytest.approx(10)
    assert line.loc["large", "difference"] == pytest.approx(-10) and set(line["n"]) == {60}


def test_documents_that_only_one_model_saw_are_not_compared():
    scores = confirmed()
    some = (scores["model"] == "small") & (scores["document"] >= 70)
    table = table_of(scores[~some], searched(0.0, 0.0))
    row = table[(table["design"] == "frozen") & (table["model"] == "large")].iloc[0]
    assert row["n"] == 100 and row["shared"] == 70


def test_texts_that_weigh_differently_have_no_difference():
    tasks = {"t": SimpleNamespace(metric="word_perplexity", role="guard")}
    found = []
    for model, words in (("small", [5, 6, 7]), ("large", [5, 6, 9])):
        rows = perplexity_scores({"base": [9.0, 8, 7], PLANS[model]: [8.0, 8, 8]}, words)
        found.append(rows.assign(model=model, stage="confirm", task="t"))
    table = sizes(
        pd.DataFrame(searched(0, 0).head(0)),
        pd.concat(found),
        tasks,
        [],
        FROZEN,
        {},
        PARAMETERS,
        RULES,
    )
    assert len(table) == 2 and table["difference"].isna().all() and table["p"].isna().all()


def test_each_model_runs_the_frozen_plans_of_the_others():
    moved = transfers(FROZEN, DEPTHS)
    assert moved == {"large": [("small", "0:6,4:8")], "small": [("large", "0:3,2:4")]}
    plans = [item.plan for item in moved["large"]]
    assert confirm_plans(FROZEN["large"], True, plans)[2:] == [("0:6,4:8", "transferred")]
    assert len(confirm_plans(FROZEN["large"], False, plans)) == 2
    # On the small one it is the plan that was frozen there.
    assert len(confirm_plans(FROZEN["small"], True, ["0:3,2:4"])) == 2


def test_nothing_is_claimed_of_transferred_plans():
    scores = confirmed()
    kept = without_finalists(scores, FROZEN, {"large": ["0:6,4:8"], "small": ["0:3,2:4"]})
    assert set(scores["plan"]) - set(kept["plan"]) == {"0:6,4:8"}
    frozen = FROZEN | {"large": FROZEN["large"] | {"controls": ["0:6,4:8"]}}
    assert len(without_finalists(scores, frozen, {"large": ["0:6,4:8"]})) == len(scores)


def test_a_transferred_plan_is_compared_with_the_models_own():
    table = transfer(confirmed(large=0.3, moved=0.1), TASKS, FROZEN, DEPTHS, RULES)
    row = table[(table["model"] == "large") & (table["source"] == "small")].iloc[0]
    assert row["effect"] == pytest.approx(10) and row["difference"] == pytest.approx(-20)
    assert row["original"] == PLANS["small"] and row["plan"] == MOVED["large"]
    assert row["difference_high"] < 0 and row["significant"]
    same = table[(table["model"] == "small") & (table["source"] == "large")]
    assert (same["plan"] == same["own"]).all() and same["p"].isna().all()
    assert (same["difference"] == 0).all() and len(table) == 8


def test_the_smaller_model_stands_first_against_the_larger():
    scores = confirmed(small=0.0, large=0.2)
    table = family(pairs(scores, TASKS, RULES), TASKS, FROZEN, PARAMETERS, RULES)
    assert set(table["model_a"]) == {"small"} and len(table) == 8
    row = table[(table["group_a"] == "base") & (table["group_b"] == "frozen")].iloc[0]
    assert row["effect"] == pytest.approx(-20) and row["high"] < 0 and row["significant"]
    same = table[(table["group_a"] == "base") & (table["group_b"] == "base")]
    assert (same["effect"] == 0).all() and not same["significant"].any()
