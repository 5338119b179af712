"""The tests against SciPy and statsmodels, and their error rates on simulated experiments."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from frankenlab.analyse import paired_tests
from frankenlab.analyse.paired_tests import (
    benjamini_hochberg,
    by_cluster,
    cluster_deviation,
    discordant,
    dominance,
    mcnemar_exact,
    sign_flip_test,
    standard_error,
)

NAN = float("nan")


def flips(experiments, n, gain, loss, seed):
    """Paired accuracy differences [experiments, n] with these probabilities of +1 and -1."""
    draws = np.random.default_rng(seed).random((experiments, n))
    return np.where(draws < gain, 1.0, np.where(draws < gain + loss, -1.0, 0.0))


def rows(n, gains, losses):
    """One plan's differences with exactly these discordant counts."""
    return np.repeat([1.0, -1.0, 0.0], [gains, losses, n - gains - losses])[None]


# Clusters and standard errors


def test_by_cluster_sums_rows_in_the_order_of_labels():
    values = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    sums = by_cluster(values, ["b", "a", "b", "c"])
    assert sums.tolist() == [[2, 4, 4], [6, 12, 8]]
    assert by_cluster([2.0, 3.0, 4.0], [7, 7, 7]).tolist() == [9]
    with pytest.raises(ValueError, match="2 cluster labels"):
        by_cluster(values, ["a", "b"])


def test_standard_errors():
    random = np.random.default_rng(8)
    scores = random.integers(0, 2, (3, 40)).astype(float)
    assert np.allclose(standard_error(scores, np.ones(40)), stats.sem(scores, axis=1))
    w = random.lognormal(3, 0.5, 400)
    nll = w * random.normal(2, 0.5, 400)
    draws = random.integers(400, size=(4000, 400))
    resampled = (nll[draws].sum(axis=1) / w[draws].sum(axis=1)).std()
    assert standard_error(nll[None], w)[0] == pytest.approx(resampled, rel=0.05)
    assert cluster_deviation(scores, np.ones(40)) == pytest.approx(100 * scores.std(axis=1, ddof=1))
    assert np.isnan(standard_error([[0.3]], [2.0])).all()


def test_dominance_is_the_share_of_the_passage_that_decides():
    alike = np.tile([1.0, -1.0], 20)
    wild = np.where(np.arange(40) == 7, 100.0, alike)
    found = dominance(
        [alike, wild, np.zeros(40), np.where(np.arange(40) == 7, NAN, 1)], np.ones(40)
    )
    assert found[0] == pytest.approx(1 / 40)
    assert 0.95 < found[1] < 1
    assert np.isnan(found[2:]).all()


# Tests


def test_mcnemar_equals_statsmodels_and_scipy():
    up, down = np.meshgrid([0, 1, 2, 5, 6, 17, 40], [0, 1, 3, 6, 25], indexing="ij")
    p = mcnemar_exact(up, down)
    for index in np.ndindex(p.shape):
        u, d = int(up[index]), int(down[index])
        assert p[index] == pytest.approx(mcnemar([[10, u], [d, 7]], exact=True).pvalue)
        sign_test = stats.binomtest(u, u + d).pvalue if u + d else 1.0
        assert p[index] == pytest.approx(sign_test)


def test_discordant_counts_clusters_that_moved():
    gained, lost = discordant([[1, -1, 0, 1], [0, 0, 0, -2]])
    assert gained.tolist() == [2, 0] and lost.tolist() == [1, 1]


def test_sign_flips_enumerated_equal_scipy():
    d = np.random.default_rng(1).normal(0.4, 1, (4, 10))
    expected = [
        stats.permutation_test((x,), np.sum, permutation_type="samples", n_resamples=2**10).pvalue
        for x in d
    ]
    assert sign_flip_test(d, seed=1) == pytest.approx(expected)


def test_sign_flips_of_accuracies_are_mcnemars_test():
    few = flips(30, 12, 0.4, 0.2, seed=1)
    assert sign_flip_test(few, seed=1) == pytest.approx(mcnemar_exact(*discordant(few)))
    many = flips(30, 200, 0.1, 0.06, seed=2)
    for step in (1, 1 / 3, 2):
        assert sign_flip_test(step * many, seed=1) == pytest.approx(
            mcnemar_exact(*discordant(many))
        )


def test_sign_flips_of_whole_steps_are_exact_and_those_of_others_are_drawn():
    d = np.random.default_rng(4).integers(-2, 4, (5, 30)) / 4
    # Noise takes the differences off every lattice and leaves the order of their sums.
    drawn = sign_flip_test(d + 1e-5 * np.sign(d), seed=1, resamples=40_000)
    assert sign_flip_test(d, seed=1) == pytest.approx(drawn, abs=0.015)
    sure = np.full((1, 60), 0.5)
    assert sign_flip_test(sure, seed=1, resamples=100)[0] == pytest.approx(2 * 0.5**60)


def test_sign_flip_p_is_never_zero_and_depends_on_the_seed_only(monkeypatch):
    random = np.random.default_rng(1).normal(0.1, 1, (3, 40))
    d = np.vstack((np.ones((1, 40)), np.zeros((1, 40)), random))
    p = sign_flip_test(d, seed=1, resamples=999)
    assert p[:2].tolist() == [0.001, 1.0]
    assert (p == sign_flip_test(d, seed=1, resamples=999)).all()
    assert (p != sign_flip_test(d, seed=2, resamples=999)).any()
    monkeypatch.setattr(paired_tests, "BLOCK_BYTES", 5_000)
    assert (p == sign_flip_test(d, seed=1, resamples=999)).all()


def test_mcnemar_holds_its_level():
    null = flips(4000, 300, 0.06, 0.06, seed=21)
    rejected = np.mean(mcnemar_exact(*discordant(null)) < 0.05)
    assert 0.02 <= rejected <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


def test_sign_flips_hold_their_level_on_heavy_tails_and_see_a_shift():
    null = np.random.default_rng(22).standard_t(2, (2000, 50))
    rejected = np.mean(sign_flip_test(null, seed=1, resamples=999) < 0.05)
    assert 0.035 <= rejected <= 0.065
    shifted = np.random.default_rng(23).normal(0.5, 1, (200, 50))
    assert np.mean(sign_flip_test(shifted, seed=1, resamples=999) < 0.05) > 0.85


# Corrections


@pytest.mark.slow
def test_corrections_leave_nan_out():
    p = [0.01, NAN, 0.04, 0.03]
    assert benjamini_hochberg(p) == pytest.approx([0.03, NAN, 0.04, 0.04], nan_ok=True)
    assert np.isnan(benjamini_hochberg([NAN, NAN])).all()
    assert benjamini_hochberg([]).size == 0


def correlated_plans(experiments, plans, n, shift, seed):
    """p [experiments, plans] of plans that tend to flip the same documents."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=(experiments, 1, n))
    latent = (shared + random.normal(size=(experiments, plans, n))) / np.sqrt(2)
    moved = latent + np.asarray(shift)[:, None]
    return mcnemar_exact((moved > 1.5).sum(axis=-1), (moved < -1.5).sum(axis=-1))


def test_benjamini_hochberg_controls_false_discoveries_over_correlated_plans():
    p = correlated_plans(400, 30, 200, [0.7] * 6 + [0.0] * 24, seed=31)

    def false_share(found):
        return np.mean(found[:, 6:].sum(axis=1) / np.maximum(found.sum(axis=1), 1))

    found = np.array([benjamini_hochberg(row) for row in p]) < 0.10
    assert false_share(found) <= 0.10
    assert found[:, :6].mean() > 0.8
    assert false_share(p < 0.10) > 0.12
