"""Plans, bitrates and models by cost and quality."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.gains import Gains, resampled
from frankenlab.analyse.plane import next_larger, on_front, plane
from frankenlab.analyse.settings import Statistics
from tests.analyse.test_comparisons import accuracy_scores, perplexity_scores
from tests.analyse.test_paired_effects import at_most

RULES = Statistics(resamples=200)
FROZEN, CONTROL, SKIP = "0:3,2:4", "0:2,1:4", "0:2,3"
CELLS = [("m", "none"), ("m", "exl2-4.0"), ("big", "none"), ("huge", "none")]
DEPTHS = {"m": 4, "big": 6, "huge": 9}
PLANS = {
    ("m", "none"): ["base", FROZEN, CONTROL, SKIP],
    ("m", "exl2-4.0"): ["base", FROZEN],
    ("big", "none"): ["base", "0:6,5"],
    ("huge", "none"): ["base", "0:9,8"],
}
RECORD = {
    "model": "m",
    "frozen": FROZEN,
    "controls": [CONTROL],
    "reference_quantization": "none",
}
COMPARED = pd.DataFrame(
    {
        "stage": "search",
        "model": "m",
        "plan": ["base", FROZEN, SKIP],
        "group": ["base", "x", "skip"],
    }
)
TASKS = {
    "a": SimpleNamespace(metric="acc", role="search"),
    "b": SimpleNamespace(metric="acc", role="search"),
    "guard": SimpleNamespace(metric="acc", role="guard"),
}


class Size(SimpleNamespace):
    """A footprint of layers of 10 weights, and a head of 20."""

    def multiplications(self, plan):
        return round(10 * plan.depth) + 20

    def read_bytes(self, plan):
        return self.bytes * self.multiplications(plan)


SIZES = {cell: Size(bytes=1 if cell[1] == "exl2-4.0" else 2) for cell in CELLS}


def answers(tasks=("a", "b", "guard"), n: int = 60, cells=tuple(CELLS)) -> pd.DataFrame:
    """Confirm scores: the base is right on half of the documents, the larger model on all, the plan
    that skips a layer as the base; the frozen plan loses two documents, its control ten."""
    base = np.arange(n) % 2
    own = {"base": base, SKIP: base, FROZEN: base.copy(), CONTROL: base.copy()}
    own[FROZEN][[1, 3]] = 0
    own[CONTROL][1:20:2] = 0
    frames = []
    for model, quantization in cells:
        plans = PLANS[model, quantization]
        of = {plan: own[plan] if model == "m" else np.ones(n, int) for plan in plans}
        frames += [
            accuracy_scores(of, task=t, model=model, quantization=quantization, stage="confirm")
            for t in tasks
        ]
    return pd.concat(frames, ignore_index=True)


def made(scores: pd.DataFrame, tasks=TASKS) -> pd.DataFrame:
    return plane(COMPARED, scores, tasks, {"m": RECORD}, SIZES, DEPTHS, RULES)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return made(answers())


def test_the_front_is_what_nothing_as_cheap_matches():
    cost = np.array([1.0, 1.1, 1.1, 1.2, 1.3, 0.9, 1.4])
    quality = np.array([[0.0, 2.0, 3.0, 3.0, 4.0, -5.0, np.nan], [1.0, 1.0, 2.0, 2.0, 0.0, 1.0, 9]])
    found = [np.flatnonzero(row).tolist() for row in on_front(cost, quality)]
    assert found == [[0, 2, 4, 5], [2, 5, 6]]
    assert on_front(np.array([1, 1, 2]), np.array([3.0, 3.0, 3.0])).tolist() == [True, True, False]


def test_the_next_larger_model_is_the_one_with_the_fewest_more_multiplications():
    found = {model: next_larger(model, SIZES, DEPTHS) for model in DEPTHS}
    assert found == {"m": "big", "big": "huge", "huge": None}


def test_all_that_was_confirmed_is_a_point_with_its_costs_and_its_effect(table):
    assert table["task"].unique().tolist() == ["mean of 2 tasks", "a", "b"]
    own = table[table["task"] == "a"].set_index(["point_model", "point_quantization", "plan"])
    assert own["group"].to_dict() == {
        ("m", "none", "base"): "base",
        ("m", "exl2-4.0", "base"): "base",
        ("m", "none", FROZEN): "frozen",
        ("m", "exl2-4.0", FROZEN): "frozen",
        ("m", "none", CONTROL): "random",
        ("m", "none", SKIP): "skipped",
        ("big", "none", "base"): "larger model",
    }
    at = own.loc["m", "none", FROZEN]
    assert (at["multiplications"], at["read_bytes"], at["n"]) == (70, 140, 60)
    assert at["effect"] == pytest.approx(-100 * 2 / 60) and at["low"] < at["effect"] < at["high"]
    assert own.loc["big", "none", "base"]["effect"] == pytest.approx(50)
    base = own.loc["m", "none", "base"]
    assert (base["effect"], base["low"], base["high"], base["value"]) == (0, 0, 0, 0.5)


def test_a_point_is_on_the_front_as_often_as_in_the_resamples(table):
    own = table.set_index(["task", "point_model", "point_quantization", "plan"])
    own = own.loc["mean of 2 tasks"]
    assert (own["tasks"] == 2).all() and (own["n"] == 120).all()
    # The cheapest is; so is the larger model, which is better than all in every resample.
    assert own.loc[("m", "exl2-4.0", "base")]["on_front"] == 1
    assert own.loc[("big", "none", "base")]["on_front"] == 1
    # Its bytes buy nothing: with half of them the same base is as good.
    assert own.loc[("m", "none", "base")]["on_front"] == 0
    assert own.loc[("m", "none", "base")]["on_front_compute"] == 0, "what skips a layer is as good"
    assert own.loc[("m", "none", SKIP)]["on_front_compute"] == 1
    assert own.loc[("m", "none", FROZEN)]["on_front"] == 0


def test_a_chance_is_between_0_and_1_where_documents_disagree():
    scores = answers(cells=[("m", "none")])
    better = (scores["plan"] == FROZEN) & (scores["document"].isin([0, 2, 4, 1]))
    scores.loc[better, "acc"] = 1 - scores.loc[better, "acc"]
    own = made(scores)
    chance = own[(own["task"] == "a") & (own["plan"] == FROZEN)]["on_front"].iloc[0]
    assert 0.5 < chance < 1


@pytest.mark.slow
@pytest.mark.parametrize(("plans", "sure"), [(1, 0.06), (8, 0.09)])
def test_a_plan_that_is_no_better_is_seldom_sure_to_be_on_the_front(plans, sure):
    """Dearer plans flip a tenth of the answers, as many to right as to wrong; how often the best of
    them is `sure` to be there is what docs/statistics/plane.md says of 2,000 experiments."""
    rng = np.random.default_rng(plans)
    surest = []
    for _ in range(400):
        flips = rng.choice([-1.0, 0.0, 1.0], (plans, 400), p=[0.05, 0.9, 0.05])
        values = np.vstack([np.zeros(400), flips])
        drawn = resampled(Gains(values, np.ones(400)), rng, 200)
        chances = on_front(np.arange(plans + 1.0), drawn[1:]).mean(axis=0)
        surest.append(chances[1:].max())
    share = [float((np.array(surest) >= limit).mean()) for limit in (0.5, 0.95)]
    # Half of the resamples are no evidence.
    assert share[0] > 0.4 and share[1] <= at_most(sure, 400)


def test_points_are_compared_on_the_documents_that_all_of_them_saw():
    scores = answers(tasks="a")
    unseen = (scores["model"] == "big") & (scores["document"] >= 40)
    assert set(made(scores[~unseen])["n"]) == {40}
    # Of a much larger model nothing is shown.
    unseen = (scores["model"] == "huge") & (scores["document"] >= 40)
    assert set(made(scores[~unseen])["n"]) == {60}


def test_averages_over_other_tokens_are_not_compared():
    n = 12
    tasks = {"a": SimpleNamespace(metric="perplexity", role="search")}
    rows = {"base": [2.0] * n, FROZEN: [2.5] * n}
    words = [4 + i for i in range(n)]
    own = perplexity_scores(rows, words).assign(stage="confirm", task="a")
    other = perplexity_scores({"base": [1.0] * n}, words)
    other = other.assign(stage="confirm", task="a", model="big")
    metric = next(c for c in own if c.endswith("_weight")).removesuffix("_weight")
    tasks["a"].metric = metric
    both = made(pd.concat([own, other]), tasks)
    assert set(both["point_model"]) == {"m", "big"} and set(both["unit"]) == {"log-percent"}
    more = other.assign(**{f"{metric}_weight": other[f"{metric}_weight"] + 1})
    assert set(made(pd.concat([own, more]), tasks)["point_model"]) == {"m"}


def test_a_model_that_was_confirmed_on_nothing_has_no_points():
    assert made(answers(tasks=("guard",))).empty
