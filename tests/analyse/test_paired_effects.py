"""Effects, intervals and p: against SciPy, against each other, and their error rates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from frankenlab.analyse.paired_effects import PairedEffects, paired_effects
from frankenlab.analyse.paired_tests import mcnemar_exact, sign_flip_test
from tests.analyse.test_paired_tests import flips, rows

NAN = float("nan")


def effects(d, w=None, clusters=None, kind="mean", **how) -> PairedEffects:
    w = np.ones(np.shape(d)[1]) if w is None else w
    return paired_effects(d, w, clusters, kind=kind, seed=1, **how)


def covered(limits, truth):
    # Accuracies move in steps of one document: a truth on a limit is covered, rounded or not.
    low, high = limits
    return np.mean((low - 1e-9 <= truth) & (truth <= high + 1e-9))


def at_most(rate, experiments):
    """Return the largest share of errors that is still this rate, by chance."""
    return rate + 3 * np.sqrt(rate * (1 - rate) / experiments)


def skewed(skewness, shape, seed):
    """Differences of mean 0 and deviation 1 with this skewness: gamma, turned."""
    k = 4 / skewness**2
    return (k - np.random.default_rng(seed).gamma(k, 1, shape)) / np.sqrt(k)


# Skewed perplexities


@pytest.mark.parametrize("skewness", [0.5, 2.0, 5.8])
def test_perplexities_hold_their_level_under_skew(skewness):
    experiments = 1500
    p = effects(skewed(skewness, (experiments, 150), seed=7), kind="perplexity").p
    for level in (0.05, 0.004):
        assert np.mean(p <= level) <= at_most(level, experiments)


def test_sign_flips_alone_do_not_hold_it():
    p = sign_flip_test(skewed(5.8, (800, 150), seed=7), seed=1, resamples=999)
    assert np.mean(p <= 0.05) > at_most(0.05, 800)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["gamma", "lognormal"])
@pytest.mark.parametrize("n", [150, 300, 800])
def test_each_side_holds_the_level_of_a_verdict_with_weights(law, n):
    """Two one-sided tests need each tail: equivalence at the margin is one of them."""
    experiments, side = 5000, 0.004
    random = np.random.default_rng(n)
    w = random.lognormal(0, 0.5, n)
    if law == "gamma":
        d = skewed(3.0, (experiments, n), seed=n) * w
    else:
        wild = random.lognormal(0, 1.0, (experiments, n))
        d = (np.exp(0.5) - wild) * w
    low, high = effects(d, w, kind="perplexity").interval(1 - 2 * side)
    assert np.mean(low > 0) <= at_most(side, experiments)
    assert np.mean(high < 0) <= at_most(side, experiments)


def test_a_ratio_whose_weights_move_with_its_gains_is_aimed_at_rightly():
    # Long passages gain more, so a mean of ratios would aim beside the ratio of sums:
    # E[w * log w] / E[w] = mu + sigma**2 for a log-normal w.
    random = np.random.default_rng(13)
    truth, n, inside = 100 * (0.02 + 0.05 * 0.6**2), 200, []
    for _ in range(300):
        log_w = random.normal(4, 0.6, n)
        w = np.exp(log_w)
        d = w * (0.02 + 0.05 * (log_w - 4) + 0.1 * (random.gamma(1, 1, n) - 1))
        inside.append(covered(effects(d[None], w, kind="perplexity").interval(0.95), truth))
    assert 0.915 <= np.mean(inside) <= 0.99


@pytest.mark.slow
def test_each_side_holds_its_level_where_long_passages_gain_more():
    """The ratio's own drift hides half of the skewness; each experiment has its own weights."""
    random, n, outside = np.random.default_rng(17), 150, []
    for _ in range(4000):
        log_w = random.normal(0, 0.8, n)
        w = np.exp(log_w)
        d = w * (0.3 * -skewed(3.0, n, random) + log_w - 0.8**2)
        low, high = effects(d[None], w, kind="perplexity").interval(0.95)
        outside.append((low[0] > 0, high[0] < 0))
    assert (np.mean(outside, axis=0) <= at_most(0.025, 4000)).all()


def test_without_skewness_it_is_the_t_test():
    d = np.random.default_rng(3).normal(0.1, 1, (1, 200))
    d = np.concatenate((d, 2 * d.mean() - d), axis=1)  # symmetric around its mean
    found = effects(d, kind="perplexity")
    scipys = stats.ttest_1samp(100 * d[0], 0)
    assert found.p[0] == pytest.approx(scipys.pvalue)
    limits = scipys.confidence_interval(0.9)
    assert found.interval(0.9)[0][0] == pytest.approx(limits.low)
    assert found.interval(0.9)[1][0] == pytest.approx(limits.high)


def test_a_wild_passage_widens_the_interval_on_its_own_side():
    d = np.append(np.random.default_rng(2).normal(-1, 1, 59), -40.0)[None]
    found = effects(d, kind="perplexity")
    low, high = (limit[0] - found.effect[0] for limit in found.interval(0.95))
    t = stats.t.ppf(0.975, 59) * found.standard_error[0]
    assert high == pytest.approx(t) and low < -2 * t


# p and intervals


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    arrays(float, (3, 40), elements=st.floats(-1, 1).map(lambda x: round(x, 3))),
    st.sampled_from([0.9, 0.95, 0.992, 0.999]),
    st.sampled_from([-1.0, 0.5, 8.0]),
    st.sampled_from([-3.0, 0.0, 3.0]),
)
def test_p_of_a_perplexity_is_where_its_interval_ends(d, confidence, stretch, drift):
    w = np.linspace(1, 3, 40)
    d = np.sign(d) * np.exp(stretch * np.abs(d)) + 0.2 + drift * (w - 2) ** 2
    found = effects(d, w, kind="perplexity")
    limits = found.interval(confidence)
    assert (limits[0] <= found.effect).all() and (found.effect <= limits[1]).all()
    spread = found.standard_error > 1e-6
    for limit in limits:
        # Moved so that 0 is at the limit, the difference has just this p.
        moved = effects(d - np.outer(limit / 100, w), w, kind="perplexity")
        assert moved.p[spread] == pytest.approx(1 - confidence)
    wider = found.interval(1 - (1 - confidence) / 2)
    assert (wider[0] <= limits[0]).all() and (limits[1] <= wider[1]).all()


@pytest.mark.parametrize("n", [8, 20, 150, 570])
@pytest.mark.parametrize("level", [0.05, 0.004, 0.001])
def test_mcnemar_is_where_the_interval_ends(n, level):
    few = min(n, 40)
    pairs = [(up, down) for up in range(few + 1) for down in range(up) if up + down <= n]
    found = effects(np.concatenate([rows(n, up, down) for up, down in pairs]))
    assert found.p == pytest.approx(mcnemar_exact(*np.transpose(pairs)))
    assert ((found.interval(1 - level)[0] > 0) == (found.p <= level)).all()


@pytest.mark.parametrize("kind", ["mean", "perplexity"])
def test_turned_differences_have_turned_intervals(kind):
    d = np.random.default_rng(0).choice([-1.0, 0, 0, 0, 1, 1], (5, 80))
    one, other = effects(d, kind=kind), effects(-d, kind=kind)
    assert one.p == pytest.approx(other.p)
    assert one.interval(0.95)[0] == pytest.approx(-other.interval(0.95)[1])


# Means


@pytest.mark.parametrize("n, gain, loss", [(100, 0.06, 0.03), (300, 0.05, 0.05), (300, 0.15, 0.1)])
def test_intervals_of_accuracies_cover(n, gain, loss):
    found = effects(flips(1500, n, gain, loss, seed=11))
    for confidence in (0.95, 0.90, 0.996):
        share = covered(found.interval(confidence), 100 * (gain - loss))
        assert confidence - at_most(1 - confidence, 1500) + 1 - confidence <= share


def test_intervals_of_accuracies_cover_where_flips_are_rare_and_bare_ones_do_not():
    d, truth = flips(1500, 30, 0.03, 0.0, seed=12), 3.0
    assert covered(effects(d).interval(0.95), truth) >= 0.95
    assert covered(effects(d).interval(0.90), truth) >= 0.90
    assert covered(effects(d, kind="perplexity").interval(0.95), truth) < 0.65


def test_no_discordance_gives_the_rule_of_three_and_no_certainty():
    found = effects(rows(20, 0, 0))
    low, high = found.interval(0.90)
    assert found.effect[0] == 0
    assert high[0] == -low[0] == pytest.approx(100 * (1 - 0.05 ** (1 / 20)))


def test_flips_in_one_direction_have_the_clopper_pearson_limit():
    found = effects(rows(60, 5, 0))
    upper = proportion_confint(5, 60, alpha=0.05, method="beta")[1]
    low, high = found.interval(0.95)
    assert high[0] == pytest.approx(100 * upper)
    assert low[0] <= found.effect[0] - 100 * (1 - 0.025 ** (1 / 60)) + 1e-9
    low, high = effects(rows(20, 20, 0)).interval(0.95)
    assert high[0] == 100
    assert low[0] == pytest.approx(100 * 0.025 ** (1 / 20))


def test_plentiful_flips_leave_the_t_interval_as_it_is():
    d = flips(20, 400, 0.1, 0.08, seed=2)
    found = effects(d)
    expected = stats.ttest_1samp(100 * d, 0, axis=1).confidence_interval(0.9)
    sure = found.p > 0.12  # an undecided interval may be extended to 0
    assert found.interval(0.9)[0][sure] == pytest.approx(expected.low[sure])
    assert found.interval(0.9)[1][sure] == pytest.approx(expected.high[sure])


@pytest.mark.parametrize("gain, loss", [(0.1, 0.06), (0.02, 0.0), (0.0, 0.0)])
def test_copies_of_documents_do_not_narrow_a_clustered_interval(gain, loss):
    d = flips(3, 50, gain, loss, seed=5)
    alone = effects(d)
    copies, passage = np.repeat(d, 4, axis=1), np.repeat(np.arange(50), 4)
    clustered = effects(copies, np.ones(200), passage)
    assert clustered.n_clusters == 50
    assert np.allclose(clustered.effect, alone.effect)
    (low, high), (least, most) = clustered.interval(0.95), alone.interval(0.95)
    # Clusters have the correction for skewness, and the larger p.
    assert (low <= least + 1e-9).all() and (high >= most - 1e-9).all()
    assert (high - low < 2.1 * (most - least)).all()
    assert (clustered.p >= alone.p - 1e-9).all()


def test_clusters_that_move_in_part_have_limits_in_parts():
    one_row_of_four = effects(rows(60, 5, 0), np.full(60, 4.0))
    upper = proportion_confint(5, 60, alpha=0.05, method="beta")[1]
    assert one_row_of_four.interval(0.95)[1][0] == pytest.approx(100 * upper / 4)


def test_means_in_parts_take_the_larger_of_both_p():
    """Rare flips are not normal, and many small losses beside few large gains not symmetric."""
    rare = np.append(np.full(5, 0.5), np.zeros(145))[None]
    assert effects(rare).p[0] == pytest.approx(2 * 0.5**5)
    lopsided = np.concatenate((np.full(44, -0.25), np.full(4, 1.0), np.zeros(102)))[None]
    flipped, long_tailed = sign_flip_test(lopsided, seed=1), effects(lopsided, kind="perplexity").p
    assert flipped[0] < effects(lopsided).p[0] < long_tailed[0]


def test_few_documents_have_an_interval_that_ends():
    """Mean differences over many plans on the first 20 documents of a race."""
    some = [-0.67, -0.4, -0.4, -0.33, -0.2, -0.07, 0.07, 0.07, 0.07, *np.zeros(11)]
    found = effects(np.array([some]))
    low, high = found.interval(0.95)
    t = stats.ttest_1samp(100 * np.array(some), 0).confidence_interval(0.95)
    assert t.high - t.low < high[0] - low[0] < 1.5 * (t.high - t.low)


@pytest.mark.slow
def test_means_in_parts_hold_their_level():
    """Rare large gains and small losses, of mean 0: sign flips alone find losses too often."""
    experiments = 2500
    random = np.random.default_rng(19)
    d = random.choice([1.0, -0.1, 0.0], (experiments, 570), p=[0.03, 0.3, 0.67])
    assert np.mean(effects(d).p <= 0.004) <= at_most(0.004, experiments)
    assert np.mean(sign_flip_test(d[:1000], seed=1) <= 0.004) > at_most(0.004, 1000)


# Edges


def test_identical_perplexities_are_identical():
    found = effects(np.zeros((1, 9)), kind="perplexity")
    assert found.p[0] == 1 and [limit[0] for limit in found.interval(0.95)] == [0, 0]


def test_the_same_loss_on_every_passage_is_certain():
    w = np.array([10.0, 30, 20, 40, 15])
    found = effects(-0.25 * w[None], w, kind="perplexity")
    low, high = found.interval(0.99)
    assert found.p[0] < 1e-9 and low[0] == pytest.approx(-25) == high[0]


def test_one_cluster_says_nothing_about_spread():
    found = effects([[0.3]], [2.0], kind="perplexity")
    assert found.effect[0] == pytest.approx(15) and np.isnan(found.p[0])
    assert all(np.isnan(limit).all() for limit in found.interval(0.95))
    low, high = effects([[1.0]], [1.0]).interval(0.95)
    assert low[0] == 0 and high[0] == 100


@pytest.mark.parametrize("kind", ["mean", "perplexity"])
@pytest.mark.parametrize("broken", [NAN, np.inf])
def test_a_broken_plan_is_nan_and_alone(kind, broken):
    d = flips(2, 30, 0.3, 0.2, seed=1)
    d[1, 4] = broken
    found, alone = effects(d, kind=kind), effects(d[:1], kind=kind)
    low, high = found.interval(0.95)
    assert found.effect[0] == alone.effect[0] and found.p[0] == pytest.approx(alone.p[0])
    assert low[0] == alone.interval(0.95)[0][0]
    for values in (found.effect, found.p, low, high):
        assert np.isnan(values[1]) and not np.isnan(values[0])


def test_wrong_shapes_and_weights_are_refused():
    with pytest.raises(ValueError, match="shape"):
        effects(np.zeros((2, 5)), np.ones(4))
    for wrong in ([0.0, 0.0], [1.0, -1.0], [1.0, NAN]):
        with pytest.raises(ValueError, match="negative"):
            effects(np.zeros((1, 2)), wrong, kind="perplexity")


def test_a_cluster_without_weight_is_in_the_numerator_only():
    """An empty text has no bytes."""
    d, w = np.array([[3.0, 1.0, 2.0]]), np.array([0.0, 4.0, 6.0])
    assert effects(d, w, kind="perplexity").effect[0] == pytest.approx(100 * 6 / 10)
    many = effects(np.tile(d, 20), np.tile(w, 20), kind="perplexity")
    assert np.isfinite(many.interval(0.95)).all()
