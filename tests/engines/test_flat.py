"""One sequence of all trees and what they begin with gives the scores of rows."""

import pytest
import torch

from frankenlab.engines.batches import make_batch, make_flat_batch, visible
from frankenlab.engines.packing import FLAT_MULTIPLE, group_evenly
from frankenlab.engines.token_tree import TokenRequest, token_tree
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate.sweep import arrived, sweep
from frankenlab.plans.plan import Window
from frankenlab.plans.trie import plan_trie
from tests.support.engines import DOCUMENTS, tokens
from tests.support.models import ROUNDING, parse_all

SHOTS = tokens(9, 45)
PLANS = [
    *parse_all(["base", "0:3,1:4", "0:2,1@attn,2@mlp*0.5,2:4", "0:4,3@mlp"]),
    Window(1, 3, 2, 0.5).plan(4),
]


def trees_after(shots: tuple[int, ...]):
    return [
        token_tree(TokenRequest(shots + r.context, r.continuation) for r in requests)
        for requests in DOCUMENTS
    ]


@pytest.mark.parametrize("variant", ["untied", "all-biases", "qwen2"])
@pytest.mark.parametrize("shots", [(), SHOTS], ids=["alone", "after shots"])
def test_scores_are_those_of_rows(tiny, variant, shots):
    engine, trees, found = TorchEngine(tiny(variant), "float32"), trees_after(shots), {}
    for layout, make in (("rows", make_batch), ("flat", make_flat_batch)):
        engine.layout = layout
        batch = make(trees, range(len(trees)))
        results = list(arrived(sweep(engine, plan_trie(PLANS), batch)))
        assert len(results) == len(PLANS)
        found[layout] = {
            (plan.text, d, r): (score.loglikelihood, score.is_greedy)
            for plan, documents in results
            for d, scores in enumerate(documents)
            for r, score in enumerate(scores)
        }
    for key, (loglikelihood, greedy) in found["rows"].items():
        other, other_greedy = found["flat"][key]
        assert other == pytest.approx(loglikelihood, abs=ROUNDING) and greedy == other_greedy


@pytest.mark.parametrize("shots", [(), SHOTS], ids=["alone", "after shots"])
def test_a_token_sees_what_it_sees_in_rows(shots):
    """The same tokens, by their ids and positions, in the same order."""
    trees, seen = trees_after(shots), []
    for make in (make_batch, make_flat_batch):
        batch = make(trees, range(len(trees)))
        first, length = len(batch.prefix), batch.tokens.shape[1]
        ids = batch.tokens.flatten().tolist()
        sees = visible(batch.ends, 0, length).flatten(0, 1)
        own = []
        for place in batch.positions_scored.tolist():
            if place >= first:
                row = (place - first) // length * length
                own.append(
                    batch.prefix.tolist()
                    + [ids[row + j] for j in sees[place - first].nonzero().flatten().tolist()]
                )
        seen.append(own)
        assert batch.n_tokens == len(shots) + sum(len(t) - len(shots) for t in trees)
    assert seen[0] == seen[1] and len(seen[0]) > 100


def test_a_flat_batch_has_one_row_padded_at_its_end_and_padding_sees_itself():
    batch = make_flat_batch(trees_after(SHOTS), range(len(DOCUMENTS)))
    (length,) = {x.shape[1] for x in (batch.tokens, batch.positions, batch.ends)}
    assert len(batch.tokens) == 1 and len(batch.prefix) == 0
    assert length % FLAT_MULTIPLE == 0 and 0 < length - batch.n_tokens < FLAT_MULTIPLE
    padding = visible(batch.ends, 0, length)[0, batch.n_tokens :]
    assert torch.equal(padding.nonzero()[:, 1], torch.arange(batch.n_tokens, length))


@pytest.mark.parametrize("lengths", [[30] * 100, [100, 60, 31] * 9 + [5], [5000, 20, 30]])
def test_groups_of_documents_are_as_large_as_the_budget_and_each_other(lengths):
    groups = group_evenly(lengths, 1024)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    sizes = [sum(lengths[i] for i in group) for group in groups]
    assert all(n <= 1024 or len(g) == 1 for n, g in zip(sizes, groups, strict=True))
    assert max(lengths) == lengths[groups[0][0]]
    if max(lengths) < 1024:
        assert max(sizes) - min(sizes) <= 2 * max(lengths)
        assert len(groups) <= -(-sum(lengths) // 1024) + 1
