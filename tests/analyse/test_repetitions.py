"""The effect of more repetitions: over blocks that no effect chose."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.outcomes import Outcomes
from frankenlab.analyse.repetitions import (
    balanced,
    dose_response,
    isotonic,
    possible_best,
    repetitions,
    trend,
)
from frankenlab.analyse.settings import Statistics
from frankenlab.plans.plan import Change
from tests.analyse.test_paired_effects import at_most

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


def layer(number: int, times: int, *kind: object) -> str:
    return Change(number, number + 1, times, *kind).plan(LAYERS).text


def dose(plans: dict[str, np.ndarray]) -> dict:
    """The row of `dose_response` of one kind of place."""
    (row,) = dose_response(scores(plans), TASKS, {"m": LAYERS}, RULES).to_dict("records")
    return row


def layers_losing(losses: dict[int, float], seed: int, documents: int = 150) -> dict:
    """Four layers at each count: a share of the base's right answers is lost by it, a tenth of all
    answers flips besides."""
    rng = np.random.default_rng(seed)
    base = rng.random(documents) < 0.5
    plans = {"base": base}
    for number in range(4):
        for times, loss in losses.items():
            flipped = base ^ (rng.random(documents) < 0.1)
            plans[layer(number, times)] = flipped & (rng.random(documents) >= loss)
    return plans


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
    table = dose_response(scores(plans), TASKS, {"m": LAYERS}, RULES)
    assert table.empty and "significant" in table


def test_each_part_of_the_layers_has_its_own_series_and_so_has_each_way_to_repeat_it():
    base = np.tile([0, 1], 20)
    ways = [("attn",), ("attn", 0.5), ("attn", 1.0, True)]
    every = {"base": base} | {layer(1, times, *way): base for way in ways for times in (2, 3)}
    made = dose_response(scores(every), TASKS, {"m": LAYERS}, RULES)
    kinds = list(zip(made["part"], made["scale"], made["in_place"], strict=True))
    assert kinds == [("attn", 1.0, False), ("attn", 1.0, True), ("attn", 0.5, False)]
    plans = {"base": base} | {layer(n, t): base for n in (1, 2) for t in (2, 3)}
    plans |= {layer(n, t, "attn"): 1 - base if t == 4 else base for n in (5,) for t in (2, 4)}
    table = repetitions(scores(plans), TASKS, {"m": LAYERS}, RULES)
    assert table["part"].tolist() == ["block", "block", "attn", "attn"]
    assert table["times"].tolist() == [2, 3, 2, 4] and table["blocks"].tolist() == [2, 2, 1, 1]
    made = dose_response(scores(plans), TASKS, {"m": LAYERS}, RULES)
    assert made["counts"].tolist() == ["2, 3", "2, 4"] and made["longest"].tolist() == [1, 1]


def test_a_planted_fall_is_found_with_its_size_and_where_it_begins():
    row = dose(layers_losing({2: 0.0, 3: 0.15, 4: 0.3, 8: 0.8}, seed=1, documents=300))
    # Half of the answers are right: from 2 to 8 about 0.8 * 50 points in six steps.
    assert -8 < row["slope"] < -5 and row["slope_low"] < row["slope"] < row["slope_high"] < 0
    assert row["significant"] and row["q"] == row["p"] < 0.01
    assert row["fit"] == "decreasing" and row["fit_share"] > 0.95
    assert row["best"] <= row["best_high"] == 2 and row["best_low"] == 1
    assert row["worse_from"] == 3


def test_a_rise_has_its_best_at_the_highest_count_and_nothing_is_worse_from_there():
    base = np.tile([0, 0, 0, 1], 40)
    better = {times: np.where(np.arange(160) % 16 < 4 * (times - 1), 1, base) for times in (2, 3)}
    row = dose({"base": base} | {layer(1, times): acc for times, acc in better.items()})
    assert row["slope"] == pytest.approx(18.75) and row["fit"] == "increasing"
    assert (row["best"], row["best_low"], row["best_high"]) == (3, 3, 3)
    assert pd.isna(row["worse_from"])


@pytest.mark.slow
def test_the_test_for_trend_holds_its_level():
    """Answers flip either way, as often at every count: no trend, whatever a repetition costs."""
    wrong, excluded, n = 0, 0, 120
    for seed in range(400):
        rng = np.random.default_rng(seed)
        # What a repetition does at any count, and flips that each count and layer has for itself.
        harm = np.where(rng.random(n) < 0.1, -1.0, 0.0)
        flips = rng.choice([-1.0, 0.0, 1.0], (3, 2, n), p=[0.06, 0.88, 0.06])
        found = trend((2, 3, 6), harm + flips.mean(axis=1), plain(n), RULES)
        low, high = found.interval(0.95)
        wrong += found.p[0] <= 0.05
        excluded += low[0] > 0 or high[0] < 0
    assert 0 < wrong / 400 <= at_most(0.05, 400) and excluded <= wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    "truth", [(0, 0.05, 0.03, -0.1), (0, -0.01, -0.02, -0.04), (0, 0, 0, 0.01)]
)
def test_the_best_count_is_in_its_interval(truth):
    """A document has its own noise at every count, and noise that all counts share."""
    missed, n = 0, 150
    for seed in range(300):
        rng = np.random.default_rng(seed)
        shared = rng.normal(0, 0.2, n)
        gained = np.array(truth[1:])[:, None] + shared + rng.normal(0, 0.2, (3, n))
        missed += not possible_best(gained, plain(n), RULES)[np.argmax(truth)]
    assert missed / 300 <= at_most(0.05, 300)


def test_a_clearly_best_count_is_alone_in_its_interval():
    gained = np.random.default_rng(1).normal([[0.5], [0.1], [-0.5]], 0.3, (3, 100))
    assert possible_best(gained, plain(100), RULES).tolist() == [False, True, False, False]
    # What does not differ may be best too.
    assert possible_best(np.zeros((2, 100)), plain(100), RULES).all()
    # One passage alone says nothing.
    assert possible_best(gained, plain(100, clusters=1), RULES).all()
    gained[1, 0] = np.nan
    assert possible_best(gained, plain(100), RULES).tolist() == [False, True, False, False]


def plain(n: int, clusters: int | None = None) -> Outcomes:
    """Documents of equal weight, in some clusters."""
    labels = np.arange(n) % (clusters or n)
    none = np.zeros((0, n))
    return Outcomes("mean", (), np.arange(n), none, np.ones(n), labels.astype(str), none, 1.0)


@pytest.mark.parametrize(
    ("effects", "name", "fitted"),
    [
        ([-1, -3, -2], "decreasing", [-1, -2.5, -2.5]),
        ([1, 3, 2], "increasing", [1, 2.5, 2.5]),
        ([0, 0, 0], "flat", [0, 0, 0]),
    ],
)
def test_the_nearer_monotone_fit_is_taken(effects, name, fitted):
    found, fit, share = isotonic(np.array(effects, float))
    assert (found, fit.tolist()) == (name, fitted)
    assert np.isnan(share) if name == "flat" else 0.8 < share < 1
    assert isotonic(np.array([1.0, np.nan]))[0] == "unknown"


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
        f"{start} {times}": Change(start, start + 1, times)
        for start, every in enumerate(counts)
        for times in every
    }
    found = balanced(loops)
    assert (list(found), {len(plans) for plans in found.values()}) == (expected[0], {expected[1]})
    # In the same order at every count.
    starts = [[plan.split()[0] for plan in plans] for plans in found.values()]
    assert all(own == starts[0] for own in starts)
