"""Predictors are what their sources define: checked on numbers that one can follow by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from frankenlab.analyse.predictors import (
    MEASURED,
    POSITION,
    PUBLISHED,
    anomaly,
    correlation,
    predictors,
    ranks,
    single_layers,
    stability,
)
from tests.support.synthetic_why import probe_tables

# Mean change 4 and deviation 2, steps 4, 0, 2, 2, 0, 4, 0.
LAYERS = pd.DataFrame(
    {
        "change": [2.0, 6.0, 6.0, 4.0, 2.0, 2.0, 6.0, 6.0],
        "self_similarity": [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        "variance": [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 128.0, 256.0],
        "rank": [5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 13.0],
    }
)


def z(values, start, stop):
    values = np.array(values)
    return (values[start:stop].mean() - values.mean()) / values.std()


def test_the_anomaly_score_is_a_sum_of_four_z_scores():
    expected = (
        z(LAYERS["change"], 3, 5)
        - z(LAYERS["self_similarity"], 3, 5)
        + z(LAYERS["variance"], 3, 5)
        + z(LAYERS["rank"], 3, 5)
    )
    assert anomaly(LAYERS, 3, 5) == pytest.approx(expected)
    # One layer after the other, the score of a block is the mean.
    each = [anomaly(LAYERS, 3, 4), anomaly(LAYERS, 4, 5)]
    assert anomaly(LAYERS, 3, 5) == pytest.approx(np.mean(each))


def test_the_stability_score_has_the_terms_of_its_place():
    steps = np.array([4.0, 0, 2, 2, 0, 4, 0])
    settled = -(steps[4:6].mean() - steps.mean()) / steps.std() * 1.5
    # Growth by 2 everywhere but 4 at layer 5.
    off = np.array([0, 0, 0, 0, 2.0, 0, 0])
    growth = -(1 - off.mean()) / off.std()
    fall = 1 - 2 / ((6 + 6 + 4) / 3)
    rank = 0.5 * z(LAYERS["rank"], 4, 6)
    assert stability(LAYERS, 4, 6) == pytest.approx(settled + growth + fall + rank)
    # At the end of the model only the rank and the fall count; here nothing falls.
    assert stability(LAYERS, 6, 8) == pytest.approx(0.5 * z(LAYERS["rank"], 6, 8))
    # At its beginning no growth is known.
    first = -(steps[0] - steps.mean()) / steps.std() * 1.5
    assert stability(LAYERS, 0, 1) == pytest.approx(first + 0.5 * z(LAYERS["rank"], 0, 1))


def test_a_block_has_the_mean_of_its_layers_and_the_similarity_of_its_ends():
    layers, similarity, _ = probe_tables(8, ("t",))
    found = predictors(layers, similarity, [(2, 3), (2, 5)])
    assert set(found) == {*MEASURED, *PUBLISHED, POSITION}
    assert found["kl"].tolist() == pytest.approx([layers["kl"][2], layers["kl"][2:5].mean()])
    ends = similarity.set_index(["first", "second"]).loc[[(2, 3), (2, 5)]]
    assert found["block_influence"].tolist() == pytest.approx(list(1 - ends["cosine"]))
    assert found["angle"].tolist() == list(ends["angle"])
    assert found[POSITION].tolist() == [2.5 / 8, 3.5 / 8]


def test_the_table_of_layers_has_the_published_predictors_of_each_task():
    layers, similarity, _ = probe_tables(8, ("t", "u"))
    table = single_layers(layers, similarity)
    assert len(table) == 16 and table["task"].tolist() == ["t"] * 8 + ["u"] * 8
    assert table["ratio"].tolist() == list(layers["second_block"] / layers["first_block"])
    own = layers[layers["task"] == "u"].reset_index(drop=True)
    assert table["stability"].iloc[11] == pytest.approx(stability(own, 3, 4))


def test_within_one_group_it_is_spearmans_correlation():
    rng = np.random.default_rng(1)
    x, y = rng.integers(6, size=(2, 40)).astype(float)
    groups = np.zeros(40)
    expected = spearmanr(x, y).statistic
    assert correlation(ranks(x, groups), ranks(y, groups)) == pytest.approx(expected)


def test_groups_are_ranked_apart():
    x = np.array([1.0, 2, 3, 1, 2, 3])
    # Larger in the second group throughout, and falling within each.
    y = np.array([3.0, 2, 1, 30, 20, 10])
    groups = np.array([2.0, 2, 2, 5, 5, 5])
    assert spearmanr(x, y).statistic > -0.5
    assert correlation(ranks(x, groups), ranks(y, groups)) == pytest.approx(-1)
    # Of groups of one size it is the mean of their correlations.
    x, y = np.random.default_rng(3).normal(size=(2, 20))
    halves = np.arange(20) % 2.0
    each = [spearmanr(x[halves == half], y[halves == half]).statistic for half in (0, 1)]
    assert correlation(ranks(x, halves), ranks(y, halves)) == pytest.approx(np.mean(each))
    assert np.isnan(correlation(ranks(np.ones(20), halves), ranks(y, halves)))
