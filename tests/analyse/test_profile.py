"""Profiles over the depth: bands hold the truth, shrinking helps, reliability knows noise."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.gains import Gains
from frankenlab.analyse.paired_effects import paired_effects
from frankenlab.analyse.profile import (
    LEAST_PLACES,
    band,
    halves,
    places,
    profile,
    rank_correlation,
    reliability,
)
from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.shrinkage import measure, shrunken
from frankenlab.plans.plan import Change

RULES = Statistics(resamples=400)
LAYERS, DOCUMENTS = 24, 120
TASKS = {name: SimpleNamespace(metric="acc", role="search") for name in "ab"}


def planted(layers: int = LAYERS) -> np.ndarray:
    """A true profile in points: the first layer ruins the model, the middle gains a little."""
    where = (np.arange(layers) + 0.5) / layers
    truth = 6 * np.exp(-(((where - 0.6) / 0.15) ** 2)) - 3
    truth[0] = -30
    return truth


def drawn(rng: np.random.Generator, truth: np.ndarray, documents: int = DOCUMENTS) -> np.ndarray:
    """Differences [places, documents] that gain `truth` points. Where the base is right a plan can
    only lose, and hard documents flip for many plans at once."""
    right = rng.random(documents) < 0.5
    hard = 0.6 * rng.standard_normal(documents) + 0.8 * rng.standard_normal((len(truth), documents))
    share = pd.Series(hard.ravel()).rank(pct=True).to_numpy().reshape(hard.shape)
    up, down = 0.16 + truth.clip(0) / 50, 0.16 - truth.clip(max=0) / 50
    return np.where(right, -1.0 * (share < down[:, None]), 1.0 * (share < up[:, None]))


def found(values: np.ndarray):
    return paired_effects(values, np.ones(values.shape[1]), kind="mean", seed=1, resamples=100)


def share_inside(searches: int, truth: np.ndarray, **rest) -> tuple[float, float]:
    """How often the whole truth is inside the band, and inside the intervals of single places."""
    whole, single = [], []
    for seed in range(searches):
        values = drawn(np.random.default_rng(seed), truth, **rest)
        effects = found(values)
        for limits, kept in ((band(effects, RULES), whole), (effects.interval(0.95), single)):
            kept.append(((limits[0] <= truth) & (truth <= limits[1])).all())
    return float(np.mean(whole)), float(np.mean(single))


@pytest.mark.slow
def test_the_band_holds_the_whole_planted_profile():
    whole, single = share_inside(120, planted())
    # Two Monte Carlo errors of 95 % in 120 searches are 4 %.
    assert whole >= 0.91
    assert single < 0.75


@pytest.mark.slow
def test_the_band_holds_where_answers_hardly_flip():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(60):
        flips = rng.random((LAYERS, DOCUMENTS)) < 0.01
        values = np.where(flips, rng.choice([-1.0, 1.0], flips.shape), 0.0)
        low, high = band(found(values), RULES)
        inside.append(((low <= 0) & (high >= 0)).all())
    assert np.mean(inside) >= 0.95


def test_the_band_is_wider_than_one_interval_and_narrower_than_bonferronis():
    rng = np.random.default_rng(3)
    # Places that flip the same documents need less correction than places of their own.
    common = rng.choice([-1.0, 0.0, 1.0], 200, p=[0.1, 0.8, 0.1])
    values = np.where(rng.random((LAYERS, 200)) < 0.15, 0.0, common)
    effects = found(values)
    (low, high), one = band(effects, RULES), effects.interval(0.95)
    most = effects.interval(1 - 0.05 / LAYERS)
    assert (low < one[0] - 0.1).all() and (high > one[1] + 0.1).all()
    assert (low > most[0] + 0.1).all() and (high < most[1] - 0.1).all()


def test_shrunken_profiles_are_closer_to_the_truth():
    truth = planted()
    raw, kept = 0.0, 0.0
    for seed in range(6):
        values = drawn(np.random.default_rng(seed), truth)
        stage = measure([Gains(values, np.ones(DOCUMENTS))], range(LAYERS))
        mean, _ = shrunken([stage], LAYERS)
        raw += ((stage.effects - truth) ** 2).mean()
        kept += ((mean - truth) ** 2).mean()
    assert kept < 0.8 * raw


def test_reliability_is_near_0_on_noise_and_near_1_with_a_strong_signal():
    noise = [
        halves(found(drawn(np.random.default_rng(seed), np.zeros(LAYERS))), 1)[0]
        for seed in range(12)
    ]
    assert abs(np.mean(noise)) < 0.2
    strong = drawn(np.random.default_rng(0), np.linspace(-20, 20, LAYERS), 400)
    value, low, high = halves(found(strong), 1)
    assert 0.9 < low < value < high < 1


def test_one_ruinous_place_makes_no_profile_reliable():
    truth = np.zeros(LAYERS)
    truth[0] = -30
    each = [halves(found(drawn(np.random.default_rng(seed), truth)), 1)[0] for seed in range(8)]
    assert np.mean(each) < 0.45


def test_reliability_foresees_other_documents():
    """Spearman-Brown: the correlation with a second set of as many documents."""
    truth = np.linspace(-5, 5, LAYERS)
    said, seen = [], []
    for seed in range(16):
        values = drawn(np.random.default_rng(seed), truth, 2 * DOCUMENTS)
        one, other = values[:, :DOCUMENTS], values[:, DOCUMENTS:]
        said.append(halves(found(one), 1)[0])
        seen.append(rank_correlation(one.sum(axis=1), other.sum(axis=1), LAYERS)[0])
    assert np.mean(said) == pytest.approx(np.mean(seen), abs=0.08)


def test_what_does_not_vary_has_no_reliability():
    assert np.isnan(halves(found(np.zeros((LAYERS, 30))), 1)).all()
    assert np.isnan(rank_correlation(np.zeros(9), np.arange(9.0), 9)).all()
    assert np.isnan(rank_correlation(np.arange(9.0), np.arange(9.0) ** 2, 3)).all()


def test_attention_that_runs_again_before_its_mlp_stands_beside_the_whole_layer():
    before = {f"before {n}": Change(n, n + 1, 2, "attn", 1.0, True) for n in range(6)}
    after = {f"after {n}": Change(n, n + 1, 2, "attn") for n in range(5)}
    whole = {f"whole {n}": Change(n, n + 1, 2) for n in range(6)}
    found = places(after | before | whole)
    assert set(found) == {"block", "attn"}
    assert list(found["attn"].values()) == list(before)
    assert list(places(after | whole)["attn"].values()) == list(after)
    # Of longer ranges it is another plan: each layer twice, in place of the range twice.
    doubled = {f"doubled {n}": Change(n, n + 2, 2, "block", 1.0, True) for n in range(5)}
    ranges = {f"range {n}": Change(n, n + 2, 2) for n in range(6)}
    assert list(places(doubled | ranges)["block"].values()) == list(ranges)


def changes(*ways: tuple[int, int, str, range]) -> dict[str, Change]:
    """Plan -> change of these (length, times, part, starts)."""
    return {
        f"{part} {start} {length} {times}": Change(start, start + length, times, part)
        for length, times, part, starts in ways
        for start in starts
    }


@pytest.mark.parametrize(
    ("ways", "expected"),
    [
        # The way with the most plans, all parts together.
        ([(1, 2, "block", range(6)), (2, 2, "block", range(5))], {"block": (1, 2, 6)}),
        (
            [(1, 2, "block", range(6)), (2, 3, "attn", range(5)), (2, 3, "mlp", range(4))],
            {"attn": (2, 3, 5), "mlp": (2, 3, 4)},
        ),
        # The shorter and the less often of equals.
        ([(2, 2, "block", range(5)), (1, 3, "block", range(5))], {"block": (1, 3, 5)}),
        ([(1, 3, "block", range(5)), (1, 2, "block", range(5))], {"block": (1, 2, 5)}),
        # What is left out is not repeated; too few places are no profile.
        ([(1, 0, "block", range(9)), (1, 2, "block", range(LEAST_PLACES - 1))], {}),
        ([(1, 2, "block", range(6)), (1, 2, "mlp", range(3))], {"block": (1, 2, 6)}),
    ],
)
def test_places_are_of_the_way_that_has_the_most_plans(ways, expected):
    every = changes(*ways)
    made = {
        part: (*{(every[p].stop - every[p].start, every[p].times) for p in own.values()}, len(own))
        for part, own in places(every).items()
    }
    assert {part: (*way, count) for part, (way, count) in made.items()} == expected


def scores(
    model: str = "m",
    layers: int = 6,
    parts: tuple[str, ...] = ("block", "attn", "mlp"),
    dropped: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of each layer, and of its attention and its MLP, run twice, on two tasks; `dropped`
    plans of the MLP saw half of the documents."""
    rng = np.random.default_rng(seed)
    frames = []
    for task in TASKS:
        base = rng.random(40) < 0.5
        rows = {"base": base}
        for part in parts:
            for start in range(layers):
                text = Change(start, start + 1, 2, part).plan(layers).text
                rows[text] = base ^ (rng.random(40) < 0.2)
                if part == "mlp" and start < dropped:
                    rows[text] = rows[text][:20]
        for plan, acc in rows.items():
            table = pd.DataFrame({"plan": plan, "document": np.arange(len(acc)), "acc": acc * 1.0})
            frames.append(table.assign(task=task))
    table = pd.concat(frames, ignore_index=True)
    table["cluster"] = table["document"].astype(str)
    return table.assign(model=model, quantization="none", stage="search", hardware="one")


def test_parts_are_side_by_side_and_paired():
    table = profile(scores(), TASKS, {"m": 6}, RULES)
    curves = table[table["task"] == "a"].groupby(["part", "against"], sort=False)
    assert list(curves.groups) == [
        ("block", "base"),
        ("attn", "base"),
        ("mlp", "base"),
        ("attn", "block"),
        ("mlp", "block"),
        ("attn", "mlp"),
    ]
    each = {key: own.set_index("start") for key, own in curves}
    for part, against in (("attn", "mlp"), ("mlp", "block")):
        expected = each[part, "base"]["effect"] - each[against, "base"]["effect"]
        assert each[part, against]["effect"].tolist() == pytest.approx(expected.tolist())
    block = each["block", "base"]
    assert block["position"].tolist() == pytest.approx([(start + 0.5) / 6 for start in range(6)])
    assert set(table["n"]) == {40} and set(table["documents"]) == {40}
    assert (table["band_low"] <= table["low"]).all() and (table["high"] <= table["band_high"]).all()
    assert (table["shrunken_low"] < table["shrunken_high"]).all()


def test_a_race_leaves_the_documents_that_all_plans_saw():
    whole, raced = (profile(scores(dropped=n), TASKS, {"m": 6}, RULES) for n in (0, 2))
    assert set(raced["n"]) == {20} and set(raced["documents"]) == {40}
    assert raced["effect"].tolist() != whole["effect"].tolist()
    # The documents of the whole layers alone are not fewer.
    alone = scores(dropped=2)
    alone = alone[~alone["plan"].str.contains("mlp")]
    assert set(profile(alone, TASKS, {"m": 6}, RULES)["n"]) == {40}


def test_shapes_are_compared_between_tasks_and_between_models():
    both = pd.concat([scores(), scores("k", 9, ("block",), seed=1)])
    table = reliability(both, TASKS, {"m": 6, "k": 9}, RULES)
    kinds = table.groupby("measure").size()
    # Six profiles of m and one of k, on each of two tasks.
    assert kinds.to_dict() == {
        "mean": 14,
        "reliability": 14,
        "between tasks": 7,
        "between models": 2,
    }
    between = table[table["measure"] == "between models"]
    assert between["model"].tolist() == ["k", "k"] and between["other"].tolist() == ["m", "m"]
    own = table[(table["measure"] == "mean") & (table["model"] == "k") & (table["task"] == "a")]
    places_ = profile(both, TASKS, {"m": 6, "k": 9}, RULES)
    places_ = places_[(places_["model"] == "k") & (places_["task"] == "a")]
    assert own["estimate"].item() == pytest.approx(places_["effect"].mean())


def test_a_grid_that_repeats_nothing_alike_has_no_profile():
    few = scores(layers=3)
    for table in (profile(few, TASKS, {"m": 3}, RULES), reliability(few, TASKS, {"m": 3}, RULES)):
        assert table.empty and "part" in table
