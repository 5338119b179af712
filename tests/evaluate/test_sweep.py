"""A sweep over many plans scores each as if it ran alone, and runs no common prefix twice."""

import random
import weakref
from collections import Counter

import pytest
import torch

from frankenlab.engines.batches import make_batch
from frankenlab.engines.token_tree import TokenRequest, token_tree
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate.sweep import arrived, sweep
from frankenlab.io.errors import UserError
from frankenlab.models.export import materialize
from frankenlab.plans.plan import Plan, Window, from_steps, looped
from frankenlab.plans.trie import layer_passes, plan_trie
from tests.support.engines import DOCUMENTS, QUESTION, Wrapped, tokens
from tests.support.models import (
    PLANS,
    ROUNDING,
    VARIANTS,
    load_hf,
    parse_all,
    score_alone,
    with_window,
)
from tests.support.processes import one_line


def batch_of(documents=DOCUMENTS):
    return make_batch([token_tree(requests) for requests in documents], range(len(documents)))


def swept(engine, plans, batch) -> dict[Plan, list]:
    """plan -> for each document the (log-likelihood, is greedy) of its requests."""
    results = list(arrived(sweep(engine, plan_trie(plans), batch)))
    assert Counter(plan for plan, _ in results) == Counter(set(plans))
    return {p: [[(s.loglikelihood, s.is_greedy) for s in d] for d in docs] for p, docs in results}


def assert_same(found, expected, tolerance=1e-3):
    """Lists (documents) of lists (requests) of (log-likelihood, is greedy)."""
    for document, of_document in zip(found, expected, strict=True):
        for score, expected_score in zip(document, of_document, strict=True):
            assert score[0] == pytest.approx(expected_score[0], abs=tolerance)
            assert score[1] == expected_score[1]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_score_is_that_of_the_request_alone_on_the_exported_model(tiny, tmp_path, variant):
    """Trees, packing, masks and positions against one request at a time in transformers."""
    plans = parse_all(PLANS)
    found = swept(TorchEngine(tiny(variant), "float32"), plans, batch_of())
    for number, plan in enumerate(plans):
        materialize(tiny(variant), plan, tmp_path / str(number))
        model = load_hf(tmp_path / str(number))
        expected = [[score_alone(model, r) for r in requests] for requests in DOCUMENTS]
        assert_same(found[plan], expected)


@pytest.mark.parametrize(("start", "stop", "times", "beta"), [(1, 3, 3, 0.5), (0, 4, 2, -0.25)])
def test_a_damped_window_scores_as_transformers_with_the_window_written_out(
    tiny, start, stop, times, beta
):
    """In one sweep with plans that share its steps, undamped and damped otherwise."""
    plan = Window(start, stop, times, beta).plan(4)
    others = [looped(start, stop, times, 4), Window(start, stop, times, 0.75).plan(4)]
    engine = TorchEngine(tiny("all-biases"), "float32")
    found = swept(engine, [others[0], plan, others[1]], batch_of())[plan]
    model = with_window(load_hf(tiny("all-biases")), start, stop, times, beta)
    expected = [[score_alone(model, r) for r in requests] for requests in DOCUMENTS]
    assert_same(found, expected)


def test_documents_that_share_their_examples_are_scored_as_alone(tiny, tmp_path):
    """Few-shot examples are computed once for all documents of a batch."""
    shots, plan = tokens(9, 45), parse_all(PLANS)[-1]
    documents = [
        [TokenRequest(shots + r.context, r.continuation) for r in requests]
        for requests in DOCUMENTS
    ]
    batch = batch_of(documents)
    assert batch.prefix.tolist() == list(shots)
    found = swept(TorchEngine(tiny(), "float32"), [plan], batch)[plan]
    materialize(tiny(), plan, tmp_path / "franken")
    model = load_hf(tmp_path / "franken")
    assert_same(found, [[score_alone(model, r) for r in requests] for requests in documents])


def test_greedy_continuations_are_found(tiny):
    """Random continuations are hardly ever greedy, so the model's own are put among them."""
    model = load_hf(tiny())
    with torch.inference_mode():
        best = model(torch.tensor([QUESTION])).logits[0, -1].argmax().item()
    requests = [TokenRequest(QUESTION, (best,)), TokenRequest(QUESTION, (best, 5)), DOCUMENTS[0][0]]
    (plan,) = parse_all(["base"])
    found = swept(TorchEngine(tiny(), "float32"), [plan], batch_of([requests]))[plan]
    expected = [[score_alone(model, r) for r in requests]]
    assert [greedy for _, greedy in expected[0]][:1] == [True]
    assert_same(found, expected)


def random_plans(seed: int) -> list[Plan]:
    """Loops, among them plans that begin others."""
    generator = random.Random(seed)
    loops = [looped(i, j, k, 4) for i in range(4) for j in range(i + 1, 5) for k in (2, 3)]
    plans = generator.sample(loops, 8) + parse_all(["0:2", "0:3", "base", "0:4*0.5", "1@attn"])
    plans += parse_all(["0,(1:3)x2*0.5,3", "0,(1:3)x2*0.25,3", "(0:3)*0.5,3", "0:3,(1:4)*2,3"])
    generator.shuffle(plans)
    return plans


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_is_each_plan_alone(tiny, seed):
    engine, plans, batch = TorchEngine(tiny(), "float32"), random_plans(seed), batch_of()
    together = swept(engine, plans, batch)
    for plan in plans:
        assert_same(together[plan], swept(engine, [plan], batch)[plan], tolerance=ROUNDING)


@pytest.mark.parametrize("document", range(len(DOCUMENTS)))
def test_a_document_scores_the_same_beside_any_others(tiny, document):
    engine, (plan,) = TorchEngine(tiny("qwen2"), "float32"), parse_all(["0:3,1:4"])
    alone = swept(engine, [plan], batch_of([DOCUMENTS[document]]))[plan]
    others = DOCUMENTS[document + 1 :] + [[TokenRequest(tokens(9, 90), (1, 2))]]
    beside = swept(engine, [plan], batch_of([*others, DOCUMENTS[document], *others]))[plan]
    assert_same([beside[len(others)]], alone)


class Counting(Wrapped):
    """Counts calls, and how many hidden states are alive at a time."""

    def __init__(self, engine):
        super().__init__(engine)
        self.runs = self.finished = self.scored = self.most_alive = 0
        self.states = []

    def run(self, step, hidden, batch, start=None):
        self.runs += 1
        result = super().run(step, hidden, batch, start)
        self.states.append(weakref.ref(result))
        alive = sum(state() is not None for state in self.states)
        self.most_alive = max(self.most_alive, alive)
        return result

    def finish(self, step, hidden, batch, start=None):
        self.finished += 1
        return super().finish(step, hidden, batch, start)

    def score(self, hidden, batch):
        self.scored += 1
        return super().score(hidden, batch)


def distinct_prefixes(plans) -> set[tuple]:
    return {plan.steps[:end] for plan in plans for end in range(1, len(plan.steps) + 1)}


@pytest.mark.parametrize("seed", range(3))
def test_every_distinct_prefix_runs_once(tiny, seed):
    """In full where a plan goes on from it, at scored positions where one ends."""
    engine, plans = Counting(TorchEngine(tiny(), "float32")), random_plans(seed)
    swept(engine, [*plans, *plans], batch_of(DOCUMENTS[:2]))
    prefixes = distinct_prefixes(plans)
    inner = {prefix[:-1] for prefix in prefixes} - {()}
    assert engine.runs == len(inner) < sum(len(plan.steps) - 1 for plan in plans)
    assert engine.finished == engine.scored == len(set(plans))
    halves = sum(1 if prefix[-1].part == "block" else 0.5 for prefix in prefixes)
    assert layer_passes(plan_trie(plans)) == halves


def test_all_blocks_twice_take_about_half_the_passes():
    """The saving that the design promises for RYS's grid."""
    n = 30
    plans = [looped(i, j, 2, n) for i in range(n) for j in range(i + 1, n + 1)]
    unshared = sum(plan.depth for plan in plans)
    assert layer_passes(plan_trie(plans)) < 0.55 * unshared


def test_a_sweeps_memory_is_the_depth_not_the_number_of_plans(tiny):
    engine = Counting(TorchEngine(tiny(), "float32"))
    blocks = [(i, j) for i in range(4) for j in range(i + 1, 5)]
    plans = [looped(i, j, k, 4) for i, j in blocks for k in (2, 3, 4)]
    plans += [Window(i, j, k, 0.5).plan(4) for i, j in blocks for k in (1, 2, 3)]
    swept(engine, plans, batch_of(DOCUMENTS[:1]))
    deepest = max(len(plan.steps) for plan in plans)
    assert engine.most_alive <= deepest + 1 < engine.runs / 4


def test_a_plan_that_runs_nothing_twice_shares_nothing():
    (plan,) = parse_all(["0:4"])
    assert layer_passes(plan_trie([plan])) == 4
    assert layer_passes(plan_trie([])) == 0


class Poisoned(Wrapped):
    """Puts a value into the output of one layer."""

    def __init__(self, engine, layer, value):
        super().__init__(engine)
        self.layer, self.value = layer, value

    def run(self, step, hidden, batch, start=None):
        return self.poisoned(step, super().run(step, hidden, batch, start))

    def finish(self, step, hidden, batch, start=None):
        return self.poisoned(step, super().finish(step, hidden, batch, start))

    def poisoned(self, step, result):
        if step.layer == self.layer:
            result[..., 0] = self.value
        return result


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_name_the_plan_and_the_layer(tiny, value):
    engine = Poisoned(TorchEngine(tiny(), "float32"), layer=2, value=value)
    clean, bad, worse = parse_all(["0:2", "0:2,2@mlp,3", "0:4"])
    results = arrived(sweep(engine, plan_trie([clean, bad, worse]), batch_of()))
    assert next(results)[0] == clean
    with pytest.raises(UserError) as error:
        next(results)
    assert 'plan "0:2,2@mlp,3"' in one_line(error)
    assert "step 3 of 4, layer 2 (mlp)" in str(error.value)


def test_values_that_are_not_finite_are_an_error_also_without_memory_to_find_the_step(tiny):
    class Full(Wrapped):
        def run(self, step, hidden, batch, start=None):
            raise torch.OutOfMemoryError("no memory")

    engine = TorchEngine(tiny(), "float32")
    engine.layers[0].down[3, 5] = float("nan")
    (plan,) = parse_all(["0"])
    with pytest.raises(UserError, match='plan "0": NaN or infinite values after a step that'):
        list(arrived(sweep(Full(engine), plan_trie([plan]), batch_of())))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_poisoned_weight_is_found(tiny, value):
    engine = TorchEngine(tiny(), "float32")
    engine.layers[1].down[3, 5] = value
    (plan,) = parse_all(["0:2,1:4"])
    with pytest.raises(UserError, match=r'plan "0:2,1:4": .* step 2 of 5, layer 1 \(block\)'):
        list(arrived(sweep(engine, plan_trie([plan]), batch_of())))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_poisoned_head_is_found_though_no_target_meets_it(tiny, value):
    engine = TorchEngine(tiny(), "float32")
    targets = {t for d in DOCUMENTS for r in d for t in r.continuation}
    untouched = next(token for token in range(384) if token not in targets)
    engine.head[untouched] = value
    (plan,) = parse_all(["base"])
    with pytest.raises(UserError, match='plan "base": .* after the head'):
        list(arrived(sweep(engine, plan_trie([plan]), batch_of())))


def test_equal_plans_end_at_one_node():
    plans = [*parse_all(["0:4", "base"]), from_steps(parse_all(["0:4"])[0].steps, 4)]
    assert layer_passes(plan_trie(plans)) == 4
