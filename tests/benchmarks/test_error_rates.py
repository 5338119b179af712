"""The simulation of whole experiments: its worlds have the truth that they say, and a false claim
counts."""

from dataclasses import replace

import error_rates
import error_rates_experiments
import numpy as np
import pandas as pd
import pytest
from error_rates_decisions import contrasts, gains_of, levels, race
from error_rates_experiments import (
    Chosen,
    Sizes,
    experiments,
    false_claims,
    records,
    role_of,
    task_rows,
)
from error_rates_tables import over_budget, share
from error_rates_worlds import (
    QUANTIZATIONS,
    SEARCH_TASKS,
    Setting,
    clusters,
    confirm_differences,
    grid,
    passage_differences,
    passage_weights,
    search_differences,
    skewed,
    world,
)
from scipy import special, stats

SMALL = Sizes((60, 60), (60, 60), (120, 120), guard=(60, 60), passages=30, rounds=(20,))


def test_planted_plans_gain_and_others_do_not():
    random = np.random.default_rng(1)
    drawn = world(Setting(gain=5, neighbourhood=True), random)
    planted = drawn.effects > 0
    assert planted.sum() == 6
    values = search_differences(drawn, 1, 20_000, random)
    assert 100 * values.mean(axis=1) == pytest.approx(drawn.effects, abs=1.5)
    assert (values != 0).mean(axis=1) == pytest.approx(drawn.flips[1], abs=0.015)
    alike = np.corrcoef(values[planted])
    assert np.median(alike) > 0.2  # plans flip the same documents


def test_confirm_documents_have_the_same_truth():
    random = np.random.default_rng(2)
    drawn = world(Setting(gain=10, guard_effect=-3), random)
    plan = int(np.argmax(drawn.effects))
    for task, effect in ((SEARCH_TASKS[0], 10.0), ("guard 1", -3.0)):
        values = confirm_differences(drawn, task, plan, 40_000, 1, random)
        control = 0.0 if task in SEARCH_TASKS else effect
        assert 100 * values.mean(axis=2) == pytest.approx(np.array([[effect, control]] * 2), abs=1)


@pytest.mark.parametrize("skew", [-5.8, -0.5, 0.0, 2.0])
def test_skewed_numbers_have_the_moments_they_say(skew):
    even = special.ndtri((np.arange(200_000) + 0.5) / 200_000)
    found = skewed(even, skew)
    assert (found.mean(), found.std()) == pytest.approx((0, 1), abs=0.01)
    assert stats.skew(found) == pytest.approx(skew, abs=0.2)


def test_passages_are_worse_by_the_effect():
    random = np.random.default_rng(3)
    setting = Setting(passage_effect=-3, skew=-2)
    weights = passage_weights(20_000, random)
    values = passage_differences(setting, weights, 1, random)
    assert 100 * values.sum(axis=2) / weights.sum() == pytest.approx(-3, abs=0.3)


def test_only_declared_passages_are_clusters():
    setting = Setting(cluster=4)
    assert clusters(setting, 10).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert len(set(clusters(replace(setting, declared=False), 10))) == 10


def test_what_is_compared_has_its_share_of_the_budget():
    roles = ["search", "search", "guard", "guard", "guard"]
    at = levels(roles, 2)
    count = {f: sum(c.family == f for r in roles for c in contrasts(r, 2)) for f in at}
    assert count == {"verdicts": 10, "controls": 2, "bits": 5}
    assert sum(at[family] * number for family, number in count.items()) < 0.05
    for contrast in contrasts("search", 2):
        total = contrast.coefficients.sum()
        assert total == pytest.approx(1 if contrast.family == "verdicts" else 0)


def test_a_race_drops_bad_plans_and_counts_what_they_saw():
    random = np.random.default_rng(6)
    values = [-1.0 * (random.random((12, n)) < 0.5) for n in (60, 80)]
    for task in values:
        task[4:] = 0
    labels = [np.arange(60), np.arange(80)]
    seen = race(values, labels, (20,), keep=9)
    assert seen[:, :4].tolist() == [[20] * 4, [20] * 4]
    assert seen[0, 4:].tolist() == [60] * 8 and seen[1, 4:].tolist() == [80] * 8
    assert race(values, labels, (), keep=3).tolist() == [[60] * 12, [80] * 12]
    raced = gains_of(values[1], labels[1], seen[1])
    assert raced.clusters.tolist() == [20] * 4 + [80] * 8
    assert raced.weights.sum(axis=1).tolist() == [20] * 4 + [80] * 8


@pytest.mark.parametrize(
    ("verdict", "truth", "false"),
    [
        ("improved", 0.0, True),
        ("improved", 1.0, False),
        ("harmed", 0.0, True),
        ("harmed", -1.0, False),
        ("equivalent", 3.0, True),
        ("equivalent", -2.9, False),
        ("inconclusive", 0.0, False),
    ],
)
def test_what_is_false(verdict, truth, false):
    rows = pd.DataFrame({"verdict": [verdict], "truth": [truth]})
    assert false_claims(rows, 3.0).tolist() == [false]


def one_experiment(gained: float, truth: float) -> dict:
    """Return the record of an experiment in which the plans gain on a share of all documents, and
    the truth is said to be this."""
    random = np.random.default_rng(5)
    shape = (1, len(QUANTIZATIONS), 1 + error_rates_experiments.CONTROLS, 200)
    rows, tasks = [], (*SEARCH_TASKS, *Setting().guards)
    at = levels([role_of(task) for task in tasks], error_rates_experiments.CONTROLS)
    for task in tasks:
        drawn = 1.0 * (random.random(shape) < gained)
        truths = np.full((1, shape[2]), truth)
        rows.append(task_rows(task, drawn, truths, np.ones(200), np.arange(200), at))
    chosen = Chosen(world(Setting(), random), 0, {"false search": False})
    return records([chosen], pd.concat(rows, ignore_index=True)).iloc[0].to_dict()


def test_false_claims_are_counted():
    found = one_experiment(gained=0.3, truth=30.0)
    assert not found["false improved"] and not found["false verdicts"]
    assert found["accuracies, verdict's level"] == 1
    found = one_experiment(gained=0.3, truth=0.0)
    assert found["false improved"] and found["any false claim"] and not found["false harmed"]
    assert found["accuracies, verdict's level"] == 0
    assert found["confirm error"] == pytest.approx(30, abs=5)


def test_false_equivalence_is_counted():
    assert one_experiment(gained=0.0, truth=3.0)["false equivalent"]
    assert not one_experiment(gained=0.0, truth=0.0)["any false claim"]


@pytest.mark.slow
def test_a_large_gain_is_found_and_the_same_seed_repeats_it():
    sizes = replace(SMALL, confirm=(200, 200))
    settings = {"one": Setting(gain=30), "other": Setting(gain=30, passage_effect=-50)}
    found = experiments(settings, sizes, [1], 3)
    for rows in found.values():
        assert rows["planted frozen"].all() and rows["gain improved"].all()
        assert rows["confirm error"].abs().max() < 10
    assert found["one"]["search error"].equals(found["other"]["search error"])  # one search
    assert not found["other"]["outcome"].str.startswith("free").any()  # a perplexity is harmed
    again = experiments(settings, sizes, [1], 3)
    pd.testing.assert_frame_equal(found["one"], again["one"])


def test_settings_with_one_search_are_drawn_together():
    names = [list(group) for group in error_rates.groups(error_rates.SETTINGS).values()]
    assert sorted(sum(names, [])) == sorted(error_rates.SETTINGS)
    assert ["rare flips", "rare flips, margin"] in names
    assert ["planted +3"] in names


def test_settings_are_named_by_their_beginnings():
    assert list(error_rates.chosen(["null"])) == ["null"]
    assert len(error_rates.chosen(["planted"])) == 3
    assert error_rates.chosen([]) == error_rates.SETTINGS
    with pytest.raises(SystemExit, match="no such setting"):
        error_rates.chosen(["nul", "skew", "other"])


def test_rates_have_their_monte_carlo_error():
    assert share(pd.Series([1.0, 0.0, 0.0, 0.0])) == "25.0 ± 21.7"
    assert share(pd.Series([np.nan])) == "–"
    assert over_budget(pd.Series([True] * 90 + [False] * 910))
    assert not over_budget(pd.Series([True] * 55 + [False] * 945))


def test_every_setting_can_be_drawn():
    assert len(grid().plans) == 79
    for setting in error_rates.SETTINGS.values():
        drawn = world(setting, np.random.default_rng(0))
        values = search_differences(drawn, 0, 12, np.random.default_rng(0))
        assert values.shape == (79, 12) and np.isfinite(values).all()


@pytest.mark.slow
def test_the_command_writes_its_page(tmp_path, capsys):
    page = tmp_path / "page.md"
    sizes = ["--search", "30", "30", "--select", "30", "30", "--confirm", "40", "40"]
    error_rates.main(
        ["--settings", "null", "--draws", "2", "--workers", "1", *sizes, "--output", str(page)]
    )
    text = page.read_text()
    assert "| null | " in text and "confirm (40, 40)" in text
    assert "1 of 1 batches" in capsys.readouterr().err
