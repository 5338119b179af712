"""A number that predicts effects is found, others are not, and none is tested where it was made."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from frankenlab.analyse import prediction as module
from frankenlab.analyse.prediction import CHOSEN, COLUMNS, FITTED, OTHER, prediction
from frankenlab.analyse.settings import Statistics
from tests.support.synthetic_why import probe_tables, task_scores

LAYERS = 24
TASKS = {name: SimpleNamespace(metric="acc", role="search") for name in ("one", "two")}
RULES = Statistics(resamples=100)
SINGLE = [(layer, layer + 1) for layer in range(LAYERS)]


@pytest.fixture(autouse=True)
def few_draws(request, monkeypatch):
    """A quick look at the intervals, but where a test is about them."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(module, "RESAMPLES", 25)
        monkeypatch.setattr(module, "SPLITS", 10)


def found(scores, probes, rules=RULES) -> pd.DataFrame:
    return prediction(pd.concat(scores), *probes, TASKS, {"m": LAYERS}, rules)


def planted(probes, name: str, spans=SINGLE) -> dict[tuple[int, int], float]:
    """Harms that rise with a number of the layers."""
    mean = probes[0].groupby("layer")[name].mean()
    values = pd.Series({span: mean.loc[span[0] : span[1] - 1].mean() for span in spans})
    return dict(0.5 * values.rank(pct=True))


def test_a_planted_predictor_is_found_and_chosen_on_the_other_task():
    probes = probe_tables(LAYERS, list(TASKS))
    harms = planted(probes, "second_mlp")
    table = found([task_scores(task, harms, LAYERS, 400) for task in TASKS], probes)
    assert tuple(table) == COLUMNS and set(table["task"]) == set(TASKS)
    assert set(table["scope"]) == {"layers"} and set(table["plans"]) == {LAYERS}
    by_name = table.set_index(["predictor", "task"])
    for task, other in (("one", "two"), ("two", "one")):
        own = by_name.loc[("second_mlp", task)]
        assert own["correlation"] < -0.9 and own["high"] < -0.7 and own["probed"] == other
        chosen = by_name.loc[(CHOSEN, task)]
        assert chosen["chosen"] == "second_mlp" and chosen["fitted"] == other
        assert chosen["correlation"] == pytest.approx(-own["correlation"])
        assert by_name.loc[(FITTED, task), "correlation"] > 0.5
        assert by_name.loc[(OTHER, task), "correlation"] > 0.9
        assert 0.9 < own["reliability"] <= 1


def test_the_correlation_is_spearmans_with_the_effects_on_documents_that_were_not_probed():
    probes = probe_tables(LAYERS, ["one"])
    probes[2]["document"] = [0, 1]
    scores = task_scores("one", planted(probes, "kl"), LAYERS, 60)
    # What happened to the probed documents must not count.
    lost = (scores["document"] < 2) & (scores["plan"] != "base")
    effects = scores[scores["document"] >= 2].groupby("plan")["acc"].mean()
    plans = [plan for plan in scores["plan"].unique() if plan != "base"]
    expected = spearmanr(probes[0]["kl"], effects[plans]).statistic
    scores.loc[lost, "acc"] = np.random.default_rng(1).integers(2, size=lost.sum())
    table = found([scores], probes).set_index("predictor")
    assert table.loc["kl", "correlation"] == pytest.approx(expected)
    assert table.loc["kl", "n"] == 58 and table.loc["kl", "probed"] == "one"
    # Nothing can be chosen on another task.
    assert not {CHOSEN, FITTED, OTHER} & set(table.index)


@pytest.mark.slow
def test_without_any_relation_few_intervals_exclude_0():
    missed = []
    for seed in range(6):
        probes = probe_tables(LAYERS, ["one"], seed)
        rng = np.random.default_rng(seed)
        harms = dict(zip(SINGLE, rng.uniform(0, 0.4, LAYERS), strict=True))
        table = found([task_scores("one", harms, LAYERS, 100, seed)], probes)
        missed += list((table["low"] > 0) | (table["high"] < 0))
    assert len(missed) > 70 and np.mean(missed) < 0.15


def test_blocks_are_ranked_among_blocks_of_their_length():
    probes = probe_tables(LAYERS, ["one"])
    # Longer blocks do more harm, whatever they are; among their like, kl decides.
    spans = [(start, start + length) for length in (2, 9) for start in range(0, 15)]
    harms = {}
    for length in (2, 9):
        like = [span for span in spans if span[1] - span[0] == length]
        harms |= {s: h * 0.5 + 0.05 * length for s, h in planted(probes, "kl", like).items()}
    table = found([task_scores("one", harms, LAYERS, 600)], probes)
    assert set(table["scope"]) == {"blocks"} and set(table["plans"]) == {30}
    own = table.set_index("predictor").loc["kl"]
    assert own["correlation"] < -0.8


def test_a_race_is_compared_on_what_all_layers_saw():
    probes = probe_tables(LAYERS, ["one"])
    scores = task_scores("one", planted(probes, "kl"), LAYERS, 60)
    dropped = scores["plan"] == scores["plan"].iloc[-1]
    table = found([scores[~dropped | (scores["document"] < 20)]], probes)
    assert set(table["n"]) == {20}


def test_without_a_probe_or_with_few_plans_there_is_nothing_to_say():
    probes = probe_tables(LAYERS, ["one"])
    few = dict.fromkeys(SINGLE[: module.LEAST_PLANS - 1], 0.1)
    assert found([task_scores("one", few, LAYERS, 30)], probes).empty
    whole = [task_scores("one", dict.fromkeys(SINGLE, 0.1), LAYERS, 30)]
    assert found(whole, [table.head(0) for table in probes]).empty


def test_a_number_that_is_missing_somewhere_is_left_out():
    probes = probe_tables(LAYERS, ["one"])
    probes[0].loc[3, "turn_block"] = np.nan
    probes[0]["first_attn"] = 1.0
    table = found([task_scores("one", planted(probes, "kl"), LAYERS, 30)], probes)
    names = set(table["predictor"])
    assert not {"turn_block", "first_attn"} & names and "kl" in names


def test_a_fit_does_not_see_the_plans_that_it_predicts():
    rng = np.random.default_rng(2)
    numbers, starts = rng.normal(size=(20, 3)), np.arange(20)
    goal = numbers[:, 0].copy()
    before = module._fitted(numbers, goal, starts)
    goal[0] += 100
    # The first part of the model are layers 0 to 3.
    after = module._fitted(numbers, goal, starts)
    assert np.allclose(before[:4], after[:4]) and not np.allclose(before[4:], after[4:])
    assert np.corrcoef(before, numbers[:, 0])[0, 1] > 0.9
