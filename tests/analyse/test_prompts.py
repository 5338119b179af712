"""The effect of plans under several prompts, and how much it varies between them."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.outcomes import outcomes
from frankenlab.analyse.prompts import prompts, spread
from frankenlab.analyse.settings import Statistics
from tests.analyse.test_comparisons import accuracy_scores
from tests.analyse.test_paired_effects import at_most

RULES = Statistics(resamples=300)
TASKS = {task: SimpleNamespace(metric="acc", role="search") for task in ("a", "b")}
FROZEN, FINALIST, CONTROL = "0:3,1:4", "0:2,0:4", "0:4,2:4"
RECORD = {
    "frozen": FROZEN,
    "finalists": [FINALIST],
    "controls": [CONTROL],
    "reference_quantization": "none",
}
VARIANTS = {"a@terse": ("a", "terse"), "a@two": ("a", "two")}


def confirm(task: str, answers: dict[str, list[int]], documents=None) -> pd.DataFrame:
    """Confirm scores of one task."""
    table = accuracy_scores(answers, task=task, stage="confirm")
    return table if documents is None else table[table["document"].isin(documents)]


def answers(n: int, **wrong: range) -> dict[str, list[int]]:
    """All right but what is named: of the base and of each plan."""
    plans = {"base": "base", "frozen": FROZEN, "finalist": FINALIST, "control": CONTROL}
    return {
        plan: [int(i not in wrong.get(name, ())) for i in range(n)] for name, plan in plans.items()
    }


def test_each_plan_is_compared_with_the_base_under_the_same_prompt_on_shared_documents():
    own = confirm("a", answers(40, base=range(10), frozen=range(5)))
    terse = confirm("a@terse", answers(40, base=range(20), frozen=range(22)))
    # Two documents are worked examples.
    two = confirm("a@two", answers(40, base=range(8)), range(2, 40))
    other = confirm("b", answers(40))
    table = prompts(
        pd.concat([own, other]), pd.concat([terse, two]), VARIANTS, TASKS, {"m": RECORD}, RULES
    )
    assert list(table["task"].unique()) == ["a"], "a task without other prompts has no rows"
    assert list(table["prompt"].unique()) == ["own", "terse", "two"] and set(table["n"]) == {38}
    assert table.drop_duplicates("plan")["group"].tolist() == ["frozen", "finalist", "control"]
    frozen = table[table["group"] == "frozen"].set_index("prompt")
    assert frozen["effect"].tolist() == pytest.approx([500 / 38, -200 / 38, 600 / 38])
    assert frozen["base_value"].tolist() == pytest.approx([30 / 38, 20 / 38, 32 / 38])
    assert (frozen["low"] < frozen["effect"]).all() and (frozen["effect"] < frozen["high"]).all()
    assert frozen["mean"].iloc[0] == pytest.approx(frozen["effect"].mean())
    assert set(table["prompts"]) == {3} and frozen["spread"].nunique() == 1
    assert "p" not in table and "significant" not in table


def test_prompts_that_agree_on_every_document_do_not_vary():
    gains = np.array([1.0, -1.0, 0.0, 1.0, 0.0, 0.0])
    found = spread([gains, gains, gains], measured(6))
    assert found == (0, 0, 0, 0, 1)


def measured(n: int):
    return outcomes(accuracy_scores({"base": [1] * n}), "acc")


def test_the_noise_is_taken_off_the_variance_between_prompts():
    """By hand: half of the mean over pairs of prompts of the squared difference of their effects,
    less the squared standard error of that difference."""
    rng = np.random.default_rng(3)
    gains = rng.choice([-1.0, 0.0, 1.0], (4, 60), p=[0.1, 0.5, 0.4]) * rng.random((4, 1)).round()
    pairs = [gains[a] - gains[b] for a, b in combinations(range(4), 2)]
    squares = [(100 * d.mean()) ** 2 for d in pairs]
    errors = [100**2 * d.var(ddof=1) / 60 for d in pairs]
    found = spread(list(gains), measured(60))
    assert found.deviation**2 == pytest.approx(np.mean(squares) / 2 - np.mean(errors) / 2)
    assert found.noise**2 == pytest.approx(np.mean(errors) / 2)
    assert found.low < found.deviation < found.high


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("true", [0.0, 6.0])
def test_the_interval_holds_the_standard_deviation_between_prompts(count, true):
    """Half of what a plan does to a document is the same under all prompts."""
    rng = np.random.default_rng(count)
    n, runs, missed, below, found_p = 150, 400, 0, 0, 0
    documents = measured(n)
    for _ in range(runs):
        shared = rng.choice([-1.0, 0.0, 1.0], n, p=[0.15, 0.7, 0.15])
        shifts = rng.normal(0.0, true / 100, count)
        gains = []
        for shift in shifts:
            drawn = rng.choice([-1.0, 0.0, 1.0], n, p=[0.15, 0.7, 0.15])
            mixed = np.where(rng.random(n) < 0.5, shared, drawn)
            gains.append(np.where(rng.random(n) < abs(shift), np.sign(shift), mixed))
        found = spread(gains, documents)
        missed += not found.low <= true <= found.high
        below += found.deviation**2 / runs
        found_p += found.p < 0.05
    assert missed / runs <= at_most(0.05, runs)
    if true == 0:
        assert found_p / runs <= at_most(0.05, runs)
    else:
        # What is below 0 counts as 0, so that the mean is a little high.
        assert below == pytest.approx(true**2, rel=0.3)
