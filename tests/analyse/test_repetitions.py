"""The effect of more repetitions: over blocks that no effect chose."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.repetitions import balanced, repetitions
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import looped

LAYERS = 24
TASKS = {"t": SimpleNamespace(metric="acc", role="search")}
RULES = Statistics(resamples=200)


def scores(plans: dict[str, np.ndarray]) -> pd.DataFrame:
    """Scores of one task; a plan with fewer scores saw only the first documents."""
    frames = [
        pd.DataFrame({"plan": plan, "document": np.arange(len(acc)), "acc": acc})
        for plan, acc in plans.items()
    ]
    table = pd.concat(frames).astype({"acc": float})
    table["cluster"] = table["document"].astype(str)
    common = {"model": "m", "quantization": "none", "task": "t", "stage": "search"}
    return table.assign(hardware="one", **common)


def layer(number: int, times: int) -> str:
    return looped(number, number + 1, times, LAYERS).text


def test_with_equal_truth_there_is_no_fall_unless_the_blocks_are_chosen_by_their_effect():
    """Repeating harms no layer at any count: documents flip either way with the same chance."""
    chosen, all_of_them = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        base = rng.random(150) < 0.5
        plans = {"base": base}
        for number in range(LAYERS):
            for times in (2, 3):
                plans[layer(number, times)] = base ^ (rng.random(150) < 0.15)
        effects = np.array(
            [
                [100 * (plans[layer(number, times)].mean() - base.mean()) for times in (2, 3)]
                for number in range(LAYERS)
            ]
        )
        best = effects[np.argsort(-effects[:, 0])[:6]]
        chosen.append(best[:, 1].mean() - best[:, 0].mean())
        table = repetitions(scores(plans), TASKS, {"m": LAYERS}, RULES)
        assert table["times"].tolist() == [2, 3] and set(table["blocks"]) == {LAYERS}
        assert table["effect"].tolist() == pytest.approx(effects.mean(axis=0))
        all_of_them.append(table["effect"].diff().iloc[-1])
    assert np.mean(chosen) < -2
    assert abs(np.mean(all_of_them)) < 0.7


def test_a_race_is_compared_on_what_all_of_these_plans_saw():
    plans = {
        "base": np.tile([0, 1], 20),
        layer(1, 2): np.tile([1, 1], 20),
        # Was dropped after ten documents.
        layer(1, 3): np.tile([0, 0], 5),
        # Is no loop, and saw less.
        "0:5,4:9,7:24": np.tile([0, 0], 2),
    }
    table = repetitions(scores(plans), TASKS, {"m": LAYERS}, RULES)
    assert table["n"].tolist() == [10, 10] and table["unit"].tolist() == ["points"] * 2
    assert table["effect"].tolist() == [50, -50]
    assert (table["low"] < table["effect"]).all() and (table["effect"] < table["high"]).all()


def test_without_several_counts_there_is_nothing_to_say():
    plans = {"base": np.ones(4), layer(1, 2): np.ones(4), layer(2, 3): np.ones(4)}
    table = repetitions(scores(plans), TASKS, {"m": LAYERS}, RULES)
    assert table.empty and "effect" in table


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # Every block's counts -> the counts shown, and how many blocks were run with all of them.
        ([{2}, {2, 3}, {2, 3}], ([2, 3], 2)),
        ([{2, 3}, {2, 3}, {2, 3, 4}], ([2, 3], 3)),
        ([{2, 3}, {2, 3, 4}, {2, 3, 4}], ([2, 3, 4], 2)),
        ([{2, 4}, {2, 3}, {3, 4}, {2, 4}], ([2, 4], 2)),
    ],
)
def test_the_counts_shown_are_those_with_the_most_plans(counts, expected):
    loops = {
        f"{start} {times}": (start, start + 1, times)
        for start, every in enumerate(counts)
        for times in every
    }
    found = balanced(loops)
    assert (list(found), {len(plans) for plans in found.values()}) == (expected[0], {expected[1]})
    # In the same order at every count.
    starts = [[plan.split()[0] for plan in plans] for plans in found.values()]
    assert all(own == starts[0] for own in starts)
