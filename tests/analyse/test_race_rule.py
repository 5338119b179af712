"""Which plans a race drops, and how often it drops the wrong one."""

import numpy as np
import pytest
from scipy.stats import norm

from frankenlab.analyse.race_rule import Rule, Sample, stand

RULE = Rule(error=0.05, margin=1.0, decisions=3)


def answers(means: list[float], documents: int, seed: int = 0) -> np.ndarray:
    """Right or wrong [plans, documents]: documents differ in difficulty, plans share most of it."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=documents)
    noise = 0.4 * rng.normal(size=(len(means), documents))
    threshold = np.sqrt(1.16) * norm.ppf(means)[:, None]
    return (difficulty + noise < threshold).astype(float)


def sample(scores: np.ndarray, total: float) -> Sample:
    return Sample(scores, np.ones(scores.shape[1]), total)


def test_a_clearly_worse_plan_is_dropped_and_a_clearly_best_one_leads():
    scores = answers([0.5, 0.75, 0.3, 0.72], 60)
    standing = stand([sample(scores, 300)], RULE)
    assert standing.leader == 1 and standing.behind[1] == 0
    assert standing.kept.tolist() == [False, True, False, True]
    assert standing.behind[2] == pytest.approx(100 * (scores[1].mean() - scores[2].mean()))


def test_the_safe_and_the_best_few_are_never_dropped():
    scores = answers([0.2, 0.8, 0.3, 0.75, 0.4], 100)
    assert stand([sample(scores, 300)], RULE, safe=[0]).kept[0]
    rule = Rule(error=0.05, margin=1.0, decisions=3, keep=3)
    assert stand([sample(scores, 300)], rule).kept.tolist() == [False, True, False, True, True]


def test_plans_that_agreed_on_every_document_may_still_differ():
    """A variance of 0 over a dozen documents is no evidence about the rest."""
    scores = answers([0.5, 0.55, 0.45], 12)
    scores[1] = scores[0]
    assert stand([sample(scores, 300)], RULE).kept[:2].all()


def test_when_all_documents_are_seen_nothing_is_uncertain():
    scores = answers([0.5, 0.52, 0.6], 200)
    standing = stand([sample(scores, 200)], RULE)
    assert np.allclose(standing.ahead, -standing.behind)


def test_tasks_are_averaged_with_equal_weight():
    few, many = answers([0.5, 0.6], 40), answers([0.6, 0.5], 160, seed=1)
    standing = stand([sample(few, 300), sample(many, 300)], RULE)
    gaps = [100 * (s[standing.leader] - s[1 - standing.leader]).mean() for s in (few, many)]
    assert standing.behind.max() == pytest.approx(np.mean(gaps))


def test_weights_make_a_ratio_of_sums():
    rng = np.random.default_rng(0)
    weights = rng.integers(10, 200, 80).astype(float)
    better, worse = -2.9 * weights, -3.0 * weights + rng.normal(size=80)
    standing = stand([Sample(np.array([worse, better]), weights, 300)], RULE)
    assert standing.behind[0] == pytest.approx(10, abs=0.2)
    assert standing.kept.tolist() == [False, True]


def chosen_loss(scores: np.ndarray, rounds: list[int], error: float, margin: float) -> float:
    """Points by which the race's choice is behind the best on all documents."""
    n = scores.shape[1]
    rule = Rule(error, margin, len(rounds))
    left, leaders = np.arange(len(scores)), [0]
    for seen in rounds:
        safe = [int(np.flatnonzero(left == leader)[0]) for leader in leaders]
        standing = stand([sample(scores[left][:, :seen], n)], rule, safe)
        leaders = list(dict.fromkeys([*leaders, int(left[standing.leader])]))
        left = left[standing.kept]
        assert set(leaders) <= set(left)
    means = 100 * scores.mean(axis=1)
    return means.max() - means[left].max()


@pytest.mark.slow
@pytest.mark.parametrize(("error", "margin"), [(0.05, 1.0), (0.2, 0.0)])
def test_the_error_is_held_in_random_orders_of_fixed_documents(error: float, margin: float):
    """Two dozen plans, half of them within a few points of the best: the hard case."""
    means = np.concatenate([np.linspace(0.52, 0.6, 12), np.linspace(0.2, 0.5, 12)])
    scores = answers(means.tolist(), 240, seed=3)
    rng = np.random.default_rng(1)
    losses = [
        chosen_loss(scores[:, rng.permutation(240)], [20, 40, 80, 160], error, margin)
        for _ in range(400)
    ]
    failed = np.mean(np.array(losses) > margin + 1e-9)
    # Three standard errors of a share of 400.
    assert failed <= error + 3 * np.sqrt(error * (1 - error) / 400)
