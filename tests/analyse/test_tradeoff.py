"""What plans gain on the search tasks against what they lose on the guard tasks."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.comparisons import stage_comparisons
from frankenlab.analyse.gains import Gains, bootstrap, mean_gains
from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.tradeoff import correlated, tradeoff
from tests.analyse.test_comparisons import accuracy_scores
from tests.analyse.test_paired_effects import at_most

RULES = Statistics(resamples=300)
ROLES = {"a": "search", "b": "search", "c": "guard", "d": "guard"}
TASKS = {task: SimpleNamespace(metric="acc", role=role) for task, role in ROLES.items()}
PLANS = ["0:3,1:4", "0:2,0:4", "0:4,2:4", "0:4,3:4", "0:4,1:4"]
CONTROL = "0:1,0:4"


def made(true: dict[str, list[float]], n: int = 200, seed: int = 0) -> pd.DataFrame:
    """Confirm scores: task -> each plan's true effect, as a share of the documents. Every plan has
    flips of its own besides; a control runs on the search tasks."""
    rng = np.random.default_rng(seed)
    frames = []
    for task, effects in true.items():
        base = (rng.random(n) < 0.5).astype(int)
        answers = {"base": base}
        for plan, effect in zip(PLANS, effects, strict=False):
            flips = np.where(rng.random(n) < 0.05, 1 - base, base)
            turned = rng.random(n) < abs(2 * effect)
            answers[plan] = np.where(turned, effect > 0, flips).astype(int)
        if ROLES[task] == "search":
            answers[CONTROL] = base
        frames.append(accuracy_scores(answers, task=task, stage="confirm"))
    return pd.concat(frames)


def table_of(scores: pd.DataFrame, plans: list[str]) -> pd.DataFrame:
    groups = dict.fromkeys(["base", CONTROL, *PLANS], "block")
    compared = stage_comparisons(scores, TASKS, groups, {}, {"m": 4}, RULES)
    record = {"frozen": plans[0], "finalists": plans[1:], "reference_quantization": "none"}
    return tradeoff(compared, scores, TASKS, {"m": record}, RULES)


@pytest.mark.slow
def test_gain_and_loss_stand_beside_each_other_with_the_mean_of_the_guard_tasks():
    scores = made({task: [0.1, 0.0, -0.1] for task in "abc"} | {"d": [-0.2, 0.0, 0.1]})
    table = table_of(scores, PLANS[:3])
    assert set(table["plan"]) == set(PLANS[:3]) and CONTROL not in set(table["plan"])
    assert table["guard"].tolist() == ["mean"] * 3 + ["c"] * 3 + ["d"] * 3
    own = table[table["plan"] == PLANS[0]].set_index("guard")
    assert own.loc["mean", "effect"] == pytest.approx(own.loc[["c", "d"], "effect"].mean())
    assert own["n"].tolist() == [400, 200, 200] and own["guards"].tolist() == [2, 1, 1]
    assert set(own["group"]) == {"frozen"} and own["gain"].nunique() == 1
    frozen = scores[(scores["plan"] == PLANS[0]) & scores["task"].isin(["a", "b"])]
    base = scores[(scores["plan"] == "base") & scores["task"].isin(["a", "b"])]
    gain = 100 * (frozen.groupby("task")["acc"].mean() - base.groupby("task")["acc"].mean()).mean()
    assert own["gain"].iloc[0] == pytest.approx(gain)
    assert (own["gain_low"] < own["gain"]).all() and (own["gain"] < own["gain_high"]).all()
    by_guard = table.drop_duplicates("guard").set_index("guard")["correlation"]
    assert by_guard["c"] > 0.8 and by_guard["d"] < -0.8


@pytest.mark.slow
def test_fewer_than_three_plans_have_no_correlation():
    scores = made(dict.fromkeys("abc", [0.1, -0.1]))
    table = table_of(scores, PLANS[:2])
    assert table["correlation"].isna().all() and set(table["plans"]) == {2}
    assert table["guard"].tolist() == ["c", "c"], "one guard task is its own mean"


def test_a_model_without_guard_tasks_has_no_rows():
    assert table_of(made(dict.fromkeys("ab", [0.1, 0.0, -0.1])), PLANS[:3]).empty


def drawn(effects: list[float], rng: np.random.Generator, n: int = 150) -> np.ndarray:
    """Effects on a task [1 + resamples, plans], of plans that flip a tenth of the answers besides
    their true effects."""
    flips = rng.choice([-1.0, 0.0, 1.0], (len(effects), n), p=[0.05, 0.9, 0.05])
    turned = rng.random((len(effects), n)) < np.abs(effects)[:, None]
    task = Gains(np.where(turned, np.sign(effects)[:, None], flips), np.ones(n))
    found = mean_gains([task])[0]
    return np.vstack([found, found + 100 * bootstrap(task)(rng, 300)[0]])


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1, 0.3])
@pytest.mark.parametrize(
    ("loss", "true"),
    [
        ([-0.08, -0.03, 0.0, 0.04, 0.1], -1),
        ([0.08, -0.05, -0.06, 0.0, -0.08], 0.7),
        ([-0.0677, 0.0733, -0.0061, 0.0547, -0.0541], 0),
    ],
)
def test_the_interval_holds_the_correlation_of_the_true_effects(loss, true, spread):
    """The noise of an effect is about 2.5 points, the plans' effects spread over 18 or over 5."""
    rng = np.random.default_rng(1)
    gain = np.array([0.08, 0.03, 0.0, -0.04, -0.1])
    assert np.corrcoef(gain, loss)[0, 1] == pytest.approx(true, abs=0.01)
    both = spread * gain, spread * np.array(loss)
    found = np.array([correlated(*(drawn(each, rng) for each in both)) for _ in range(200)])
    missed = (found[:, 1] > true + 0.01) | (found[:, 2] < true - 0.01)
    assert missed.mean() <= at_most(0.05, 200)
    # As good as unknown where effects are as large as their noise.
    if spread < 1:
        assert (found[:, 2] - found[:, 1]).mean() > 1.4
    elif true == -1:
        assert (found[:, 2] < 0).mean() > 0.8


def test_plans_that_do_not_differ_have_no_direction():
    flat, rising = np.zeros((3, 4)), np.tile(np.arange(4.0), (3, 1))
    assert correlated(flat, rising) == pytest.approx((np.nan, 0, 0), nan_ok=True)
    assert correlated(rising, -rising) == pytest.approx((-1, -1, -1))
