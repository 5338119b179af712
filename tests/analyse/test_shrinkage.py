"""Shrunken effects: the luck of the best plan is taken out, and a good plan stays one."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse import shrinkage
from frankenlab.analyse.gains import Gains, mean_gains
from frankenlab.analyse.shrinkage import Measured, measure, paths, shrunken, with_shrunken

PLANS, DOCUMENTS = 60, 100


def flipped(seed: int, truth: np.ndarray, documents: int = DOCUMENTS) -> list[Gains]:
    """Two tasks on which plans gain `truth` points; the base's luck is common to all plans."""
    rng = np.random.default_rng(seed)
    tasks = []
    for _ in range(2):
        right = rng.random(documents) < 0.5
        change = rng.random((len(truth), documents))
        gained = ~right & (change < 0.2 + truth[:, None] / 100)
        lost = right & (change < 0.2 - truth[:, None] / 100)
        tasks.append(Gains(gained * 1.0 - lost, np.ones(documents)))
    return tasks


def test_the_best_of_many_equal_plans_is_taken_for_luck():
    raw, left, within = [], [], []
    for seed in range(8):
        tasks = flipped(seed, np.zeros(PLANS))
        effects, _ = mean_gains(tasks)
        best = int(np.argmax(effects))
        mean, deviation = shrunken([measure(tasks, range(PLANS))], PLANS)
        raw.append(effects[best])
        left.append(mean[best])
        within.append(abs(mean[best]) < 1.96 * deviation[best])
    assert np.mean(raw) > 5
    assert np.mean(left) < 0.5 * np.mean(raw) and np.mean(within) > 0.8


def test_a_good_plan_among_bad_ones_stays_good():
    truth = np.random.default_rng(0).normal(-6, 2, PLANS)
    truth[5] = 12
    stage = measure(flipped(3, truth), range(PLANS))
    mean, _ = shrunken([stage], PLANS)
    assert stage.effects[5] == pytest.approx(12)
    # It would be 2.1 if no plan could be an exception.
    assert mean[5] > 9
    # The others are closer to the truth than what was measured.
    measured = stage.effects
    assert np.sum((mean - truth)[6:] ** 2) < 0.7 * np.sum((measured - truth)[6:] ** 2)


def test_plans_that_harm_flip_more_answers_and_the_others_are_not_lifted_for_it():
    """Effects and their errors go together: a mean weighted by errors is that of mild plans."""
    raw, left, error = [], [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        harm = rng.gamma(4, 0.02, PLANS)
        change = rng.random((PLANS, DOCUMENTS))
        lost, gained = change < 1.5 * harm[:, None], change > 1 - 0.5 * harm[:, None]
        stage = measure([Gains(1.0 * gained - lost, np.ones(DOCUMENTS))], range(PLANS))
        mean, _ = shrunken([stage], PLANS)
        raw.append(((stage.effects + 100 * harm) ** 2).mean())
        left.append(((mean + 100 * harm) ** 2).mean())
        error.append((mean + 100 * harm).mean())
    assert np.mean(left) < 0.9 * np.mean(raw) and abs(np.mean(error)) < 0.4


def test_more_documents_shrink_less():
    effects = np.array([-4.0, -2, 0, 2, 4, 6])
    stage = [Measured(np.arange(6), effects, error * np.eye(6)) for error in (1e-4, 1.0, 16.0)]
    sure, middling, vague = (shrunken([one], 6) for one in stage)
    assert sure[0] == pytest.approx(effects, abs=1e-3)
    assert 1 < vague[0][-1] < middling[0][-1] < 6
    assert (sure[1] < middling[1]).all() and (middling[1] < vague[1]).all()


def test_the_common_error_stays_in_the_interval():
    """A thousand plans that share one lucky base are no better known than one of them."""
    rng = np.random.default_rng(0)
    base = rng.choice([-1.0, 0.0, 1.0], 100)
    noise = rng.choice([-1.0, 0.0, 1.0], (50, 100), p=[0.05, 0.9, 0.05])
    tasks = [Gains(base + noise, np.ones(100))]
    _, deviation = shrunken([measure(tasks, range(50))], 50)
    common = 100 * base.std() / np.sqrt(100)
    assert (deviation > 0.8 * common).all()


def test_broken_plans_and_dropped_ones_do_no_harm():
    tasks = flipped(3, np.zeros(10))
    seen = np.ones((10, DOCUMENTS), bool)
    seen[7:, 20:] = False
    tasks = [
        Gains(np.where(seen, g.values, 0.0), np.where(seen, g.weights, 0.0), seen) for g in tasks
    ]
    tasks[0].values[0] = np.nan
    mean, deviation = shrunken([measure(tasks, range(10))], 10)
    assert np.isfinite(mean).all() and np.isfinite(deviation).all()
    assert deviation[7:].min() > deviation[1:7].max()


@pytest.mark.parametrize("flips", [0, 1])
def test_plans_that_hardly_change_a_document_have_an_estimate(flips):
    values = np.zeros((PLANS, DOCUMENTS))
    values[:flips, 0] = 1.0  # most plans have no spread at all
    tasks = [Gains(values, np.ones(DOCUMENTS))] * 2
    mean, deviation = shrunken([measure(tasks, range(PLANS))], PLANS)
    assert np.isfinite(mean).all() and (deviation > 0).all()
    assert np.abs(mean).max() <= flips


def test_passages_need_no_least_change():
    """One answer in a hundred is a point; a perplexity can be known much better than that."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 0.01, PLANS)
    values = truth[:, None] + rng.normal(0, 0.01, (PLANS, DOCUMENTS))
    stage = measure([Gains(values, np.ones(DOCUMENTS))], range(PLANS))
    _, deviation = shrunken([stage], PLANS)
    assert deviation.max() < 0.15


def test_every_plan_of_a_search_has_a_shrunken_effect_on_each_task(monkeypatch):
    rng = np.random.default_rng(0)
    plans = ["base", *(f"0:{stop},{stop - 1}:9" for stop in range(1, 10))]
    frames, compared = [], []
    for task in "ab":
        base = rng.random(80) < 0.5
        # A race dropped the last plan after ten documents.
        for plan in plans:
            right = base ^ (rng.random(80) < 0.2) if plan != "base" else base
            seen = 10 if plan == plans[-1] else 80
            table = pd.DataFrame({"plan": plan, "document": range(seen), "acc": right[:seen] * 1.0})
            frames.append(table.assign(task=task, quantization="none"))
            effect = 100 * (right[:seen] * 1.0 - base[:seen]).mean()
            where = {"task": task, "quantization": "none", "plan": plan}
            compared.append(where | {"effect": effect})
    scores = pd.concat([*frames, frames[1]], ignore_index=True)
    scores = scores.assign(cluster=scores["document"].astype(str), hardware="one")
    tasks = {task: SimpleNamespace(metric="acc", role="search") for task in "ab"}
    table = with_shrunken(pd.DataFrame(compared), scores, tasks)
    assert table["effect"].tolist() == [row["effect"] for row in compared]
    others = table[table["plan"] != "base"]
    assert table.loc[table["plan"] == "base", "shrunken"].isna().all()
    assert (others["shrunken_low"] < others["shrunken"]).all()
    width = (others["shrunken_high"] - others["shrunken_low"]).groupby(others["plan"]).mean()
    assert width.idxmax() == plans[-1]
    middle = others.groupby("task")["shrunken"].transform("mean")
    raw = others.groupby("task")["effect"].transform("mean")
    assert (others["shrunken"] - middle).abs().sum() < 0.8 * (others["effect"] - raw).abs().sum()
    # Grown plans leave the grid's as they are without them.
    grown = plans[2:4]
    frame = pd.DataFrame(compared)
    without = with_shrunken(
        frame[~frame["plan"].isin(grown)], scores[~scores["plan"].isin(grown)], tasks
    )
    beside = with_shrunken(frame, scores, tasks, grown)
    pd.testing.assert_frame_equal(
        beside[~beside["plan"].isin(grown)].reset_index(drop=True), without
    )
    own = beside["plan"].isin(grown)
    assert beside.loc[own, "shrunken"].tolist() == table.loc[own, "shrunken"].tolist()
    # Of more plans than can be shrunk in memory and time none is.
    monkeypatch.setattr(shrinkage, "MOST_PLANS", 2)
    assert with_shrunken(pd.DataFrame(compared), scores, tasks)["shrunken"].isna().all()


def test_the_path_of_the_frozen_plan_and_of_the_runners_up():
    rng = np.random.default_rng(0)
    plans = ["base", "0:2,1:4", "0:3,2:4", "0:1,0:4"]
    frames, compared = [], []
    for stage, some in (("search", plans), ("select", plans[:3]), ("confirm", plans[:2])):
        for task, role in (("a", "search"), ("b", "search"), ("g", "guard")):
            case = {"model": "m", "quantization": "none", "stage": stage, "task": task}
            if role == "search":
                table = pd.DataFrame(
                    [(plan, document) for plan in some for document in range(40)],
                    columns=["plan", "document"],
                )
                table["acc"] = rng.integers(2, size=len(table)).astype(float)
                table["cluster"] = table["document"].astype(str)
                frames.append(table.assign(hardware="one", **case))
            for place, plan in enumerate(some):
                row = {"plan": plan, "role": role, "n": 40, "effect": 2.0 * place, "low": -4.0}
                compared.append(case | row | {"high": 8.0})
    tasks = {task: SimpleNamespace(metric="acc", role="search") for task in "ab"}
    frozen = {"m": {"frozen": "0:2,1:4", "reference_quantization": "none"}}
    scores = pd.concat(frames)
    scores = scores[scores["stage"] != "confirm"]
    table = paths(pd.DataFrame(compared), scores, tasks, frozen)
    assert list(zip(table["group"], table["plan"], table["stage"], strict=True)) == [
        ("frozen", "0:2,1:4", "search"),
        ("frozen", "0:2,1:4", "select"),
        ("frozen", "0:2,1:4", "confirm"),
        ("runner-up", "0:3,2:4", "search"),
        ("runner-up", "0:3,2:4", "select"),
    ]
    assert table["n"].tolist() == [80] * 5 and table["effect"].tolist() == [2, 2, 2, 4, 4]
    # Two tasks, each 6 below and 6 above: the mean is known better by the root of two.
    assert table["low"][0] == pytest.approx(2 - 6 / np.sqrt(2))
    known = table["stage"] != "confirm"
    assert table.loc[known, "shrunken"].notna().all() and table.loc[~known, "shrunken"].isna().all()
    assert (table["shrunken_low"] < table["shrunken_high"])[known].all()
