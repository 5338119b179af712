"""The methods against SciPy and statsmodels, and their error rates on simulated experiments."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from frankenlab.analyse import paired_tests
from frankenlab.analyse.paired_tests import (
    benjamini_hochberg,
    by_cluster,
    cluster_deviation,
    discordant,
    holm,
    mcnemar_exact,
    paired_bootstrap,
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


def covered(low, high, truth):
    # Accuracies move in steps of one document: a truth on a limit is covered, rounded or not.
    return np.mean((low - 1e-9 <= truth) & (truth <= high + 1e-9))


# Effects and intervals


def test_by_cluster_sums_rows_in_the_order_of_labels():
    values = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    sums = by_cluster(values, ["b", "a", "b", "c"])
    assert sums.tolist() == [[2, 4, 4], [6, 12, 8]]
    assert by_cluster([2.0, 3.0, 4.0], [7, 7, 7]).tolist() == [9]
    with pytest.raises(ValueError, match="2 cluster labels"):
        by_cluster(values, ["a", "b"])


@pytest.mark.parametrize("clusters", [8, 150])
def test_bootstrap_agrees_with_scipy_at_the_expanded_tails(clusters):
    random = np.random.default_rng(3)
    w = random.lognormal(3, 0.5, clusters)
    d = w * random.normal(0.03, 0.2, clusters)
    ours = paired_bootstrap(d[None], w, kind="perplexity", seed=1)
    # The tail whose bootstrap quantile lies where the t-interval ends.
    tail = stats.norm.cdf(-stats.t.ppf(0.95, clusters - 1) * np.sqrt(clusters / (clusters - 1)))
    scipys = stats.bootstrap(
        (d, w),
        lambda d, w, axis: 100 * d.sum(axis=axis) / w.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=1 - 2 * tail,
        n_resamples=10_000,
        rng=np.random.default_rng(4),
    )
    assert ours.effect[0] == pytest.approx(100 * d.sum() / w.sum())
    tolerance = 0.08 * scipys.standard_error
    assert ours.low90[0] == pytest.approx(scipys.confidence_interval.low, abs=tolerance)
    assert ours.high90[0] == pytest.approx(scipys.confidence_interval.high, abs=tolerance)


def test_bootstrap_depends_on_the_seed_only(monkeypatch):
    random = np.random.default_rng(0)
    d, w = random.normal(size=(7, 60)), random.uniform(1, 3, 60)

    def limits(differences, seed=1):
        effects = paired_bootstrap(differences, w, kind="perplexity", seed=seed, resamples=500)
        return np.array([effects.low, effects.low90, effects.high, effects.high90])

    whole = limits(d)
    assert (whole == limits(d)).all()
    assert (whole != limits(d, seed=2)).all()
    assert np.allclose(whole[:, 2:3], limits(d[2:3]), rtol=1e-12)
    assert (whole[0] < whole[1]).all()
    assert np.allclose(limits(-d), -whole[[2, 3, 0, 1]], rtol=1e-9)
    monkeypatch.setattr(paired_tests, "BLOCK_BYTES", 10_000)
    assert np.allclose(whole, limits(d), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("plans, clusters", [(60, 5_000), (3_000, 40)])
def test_bootstrap_memory_is_bounded(plans, clusters):
    d = np.random.default_rng(0).normal(size=(plans, clusters))
    tracemalloc.start()
    paired_bootstrap(d, np.ones(clusters), kind="perplexity", seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


@pytest.mark.slow
@pytest.mark.parametrize("n, gain, loss", [(100, 0.06, 0.03), (300, 0.05, 0.05), (300, 0.15, 0.1)])
def test_intervals_of_accuracies_cover(n, gain, loss):
    d = flips(1500, n, gain, loss, seed=11)
    effects = paired_bootstrap(d, np.ones(n), kind="mean", seed=1, resamples=2000)
    truth = 100 * (gain - loss)
    assert 0.935 <= covered(effects.low, effects.high, truth) <= 0.98
    assert 0.875 <= covered(effects.low90, effects.high90, truth) <= 0.945


def test_intervals_of_accuracies_cover_where_flips_are_rare_and_a_bare_bootstrap_does_not():
    d, truth = flips(1500, 30, 0.03, 0.0, seed=12), 3.0
    honest = paired_bootstrap(d, np.ones(30), kind="mean", seed=1, resamples=1000)
    bare = paired_bootstrap(d, np.ones(30), kind="perplexity", seed=1, resamples=1000)
    assert covered(honest.low, honest.high, truth) >= 0.95
    assert covered(honest.low90, honest.high90, truth) >= 0.90
    assert covered(bare.low, bare.high, truth) < 0.65


@pytest.mark.slow
def test_intervals_of_skewed_weighted_ratios_cover_the_ratio_of_expectations():
    random = np.random.default_rng(13)
    # Long passages gain more, so a mean of ratios would aim beside the ratio of sums:
    # E[w * log w] / E[w] = mu + sigma**2 for a log-normal w.
    truth = 100 * (0.02 + 0.05 * 0.6**2)
    inside, n, experiments = 0, 200, 400
    for seed in range(experiments):
        log_w = random.normal(4, 0.6, n)
        w = np.exp(log_w)
        d = w * (0.02 + 0.05 * (log_w - 4) + 0.1 * (random.gamma(1, 1, n) - 1))
        effects = paired_bootstrap(d[None], w, kind="perplexity", seed=seed, resamples=500)
        inside += covered(effects.low, effects.high, truth)
    assert 0.915 <= inside / experiments <= 0.98


def test_no_discordance_gives_the_rule_of_three_and_no_certainty():
    effects = paired_bootstrap(rows(20, 0, 0), np.ones(20), kind="mean", seed=1, resamples=200)
    assert effects.effect[0] == 0
    assert effects.high90[0] == -effects.low90[0]
    assert effects.high90[0] == pytest.approx(100 * (1 - 0.05 ** (1 / 20)))


def test_flips_in_one_direction_have_the_clopper_pearson_limit():
    effects = paired_bootstrap(rows(60, 5, 0), np.ones(60), kind="mean", seed=1, resamples=500)
    upper = proportion_confint(5, 60, alpha=0.05, method="beta")[1]
    assert effects.high[0] == pytest.approx(100 * upper)
    unseen_losses = 100 * (1 - 0.025 ** (1 / 60))
    assert effects.low[0] <= effects.effect[0] - unseen_losses + 1e-9
    all_up = paired_bootstrap(rows(20, 20, 0), np.ones(20), kind="mean", seed=1, resamples=200)
    assert all_up.high[0] == 100
    assert all_up.low[0] == pytest.approx(100 * 0.025 ** (1 / 20))


def test_plentiful_flips_leave_the_bootstrap_as_it_is():
    d, w = flips(20, 400, 0.1, 0.08, seed=2), np.ones(400)
    mean = paired_bootstrap(d, w, kind="mean", seed=1, resamples=1000)
    bare = paired_bootstrap(d, w, kind="perplexity", seed=1, resamples=1000)
    for name in ("low", "high", "low90", "high90"):
        assert (getattr(mean, name) == getattr(bare, name)).all()


@pytest.mark.parametrize("gain, loss", [(0.1, 0.06), (0.02, 0.0), (0.0, 0.0)])
def test_copies_of_documents_do_not_narrow_a_clustered_interval(gain, loss):
    d = flips(3, 50, gain, loss, seed=5)
    alone = paired_bootstrap(d, np.ones(50), kind="mean", seed=1, resamples=500)
    copies, passage = np.repeat(d, 4, axis=1), np.repeat(np.arange(50), 4)
    clustered = paired_bootstrap(
        by_cluster(copies, passage),
        by_cluster(np.ones(200), passage),
        kind="mean",
        seed=1,
        resamples=500,
    )
    assert np.allclose(clustered.effect, alone.effect)
    assert np.allclose(clustered.low, alone.low)
    assert np.allclose(clustered.high, alone.high)


def test_clusters_that_move_in_part_have_limits_in_parts():
    one_row_of_four = paired_bootstrap(
        rows(60, 5, 0), np.full(60, 4.0), kind="mean", seed=1, resamples=500
    )
    upper = proportion_confint(5, 60, alpha=0.05, method="beta")[1]
    assert one_row_of_four.high[0] == pytest.approx(100 * upper / 4)


def test_identical_perplexities_are_identical():
    effects = paired_bootstrap(np.zeros((1, 9)), np.ones(9), kind="perplexity", seed=1)
    assert effects.low.tolist() == effects.high.tolist() == [0]


def test_one_cluster_says_nothing_about_spread():
    effects = paired_bootstrap([[0.3]], [2.0], kind="perplexity", seed=1)
    assert effects.effect[0] == pytest.approx(15)
    assert np.isnan(effects.low).all() and np.isnan(effects.high).all()
    assert np.isnan(standard_error([[0.3]], [2.0])).all()
    accuracy = paired_bootstrap([[1.0]], [1.0], kind="mean", seed=1)
    assert accuracy.low[0] == pytest.approx(2.5) and accuracy.high[0] == 100


@pytest.mark.parametrize("kind", ["mean", "perplexity"])
@pytest.mark.parametrize("broken", [NAN, np.inf])
def test_a_broken_plan_is_nan_and_alone(kind, broken):
    d = flips(2, 30, 0.3, 0.2, seed=1)
    d[1, 4] = broken
    w = np.ones(30)
    effects = paired_bootstrap(d, w, kind=kind, seed=1, resamples=200)
    alone = paired_bootstrap(d[:1], w, kind=kind, seed=1, resamples=200)
    assert effects.effect[0] == alone.effect[0]
    assert effects.low[0] == alone.low[0]
    for values in (effects.effect[1], effects.low[1], effects.high[1]):
        assert np.isnan(values).all()
    assert np.isnan(sign_flip_test(d, seed=1, resamples=100)).tolist() == [False, True]
    assert np.isnan(standard_error(d, w)).tolist() == [False, True]


def test_wrong_shapes_and_weights_are_refused():
    with pytest.raises(ValueError, match="shape"):
        paired_bootstrap(np.zeros(5), np.ones(5), kind="mean", seed=1)
    with pytest.raises(ValueError, match="shape"):
        paired_bootstrap(np.zeros((2, 5)), np.ones(4), kind="mean", seed=1)
    for wrong in ([0.0, 0.0], [1.0, -1.0], [1.0, NAN]):
        with pytest.raises(ValueError, match="negative"):
            paired_bootstrap(np.zeros((1, 2)), wrong, kind="perplexity", seed=1)


def test_a_cluster_without_weight_is_in_the_numerator_only():
    """An empty text has no bytes; where a resample has only such clusters nothing is known."""
    d, w = np.array([[3.0, 1.0, 2.0]]), np.array([0.0, 4.0, 6.0])
    effects = paired_bootstrap(d, w, kind="perplexity", seed=1, resamples=50)
    assert effects.effect[0] == pytest.approx(100 * 6 / 10)
    few = paired_bootstrap(d[:, :2], w[:2], kind="perplexity", seed=1, resamples=50)
    assert few.effect[0] == pytest.approx(100) and np.isnan(few.low).all()
    many = np.tile(d, 20), np.tile(w, 20)
    assert np.isfinite(paired_bootstrap(*many, kind="perplexity", seed=1, resamples=200).low).all()


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
    drawn = sign_flip_test(many, seed=1, resamples=20_000)
    assert drawn == pytest.approx(mcnemar_exact(*discordant(many)), abs=0.016)


def test_sign_flip_p_is_never_zero_and_depends_on_the_seed_only(monkeypatch):
    d = np.vstack((np.ones((1, 40)), np.zeros((1, 40)), flips(3, 40, 0.3, 0.2, seed=1)))
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
    assert holm(p) == pytest.approx([0.03, NAN, 0.06, 0.06], nan_ok=True)
    assert np.isnan(holm([NAN, NAN])).all()
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


def test_holm_controls_any_false_claim_beside_true_ones(monkeypatch):
    # statsmodels' Holm collects garbage at every call: 50 ms each in a large process.
    monkeypatch.setattr("gc.collect", lambda: 0)
    p = correlated_plans(600, 20, 200, [0.9] * 10 + [0.0] * 10, seed=32)
    claims = np.array([holm(row) for row in p]) < 0.05
    assert claims[:, 10:].any(axis=1).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 600)
    assert claims[:, :10].mean() > 0.9
    found = np.array([benjamini_hochberg(row) for row in p]) < 0.05
    assert found[:, 10:].any(axis=1).mean() > 0.07
