"""Token trees and batches hold every request's tokens, each once, and keep documents apart."""

import random

import pytest
import torch

from frankenlab.engines.batches import Batch, make_batch, visible
from frankenlab.engines.packing import MAX_SHARED_ROW, group_by_length, group_to_pack
from frankenlab.engines.token_tree import (
    MIN_PREFIX,
    TokenRequest,
    TokenTree,
    shared_prefix,
    token_tree,
)


def request(context: str, continuation: str) -> TokenRequest:
    """Letters as tokens."""
    return TokenRequest(tuple(map(ord, context)), tuple(map(ord, continuation)))


# What real tasks send: choices after one question, a choice that begins another, one-token
# choices, other contexts with one ending, windows of a text, a lone request.
REQUESTS = {
    "choices": [request("ques", "left"), request("ques", "right"), request("ques", "up")],
    "choice-begins-another": [request("q", "new"), request("q", "newer"), request("q", "n")],
    "one-token": [request("sentence", "a"), request("sentence", "b")],
    "other-contexts": [request("he x", "end"), request("he yy", "end")],
    "windows": [request("^", "abcd"), request("d", "efgh"), request("h", "ij")],
    "context-ends-where-another-goes-on": [request("ab", "cd"), request("abc", "d")],
    "same-twice": [request("ab", "c"), request("ab", "c")],
    "alone": [request("a", "b")],
    "other-target-of-a-node": [request("a", "bc"), request("a", "bd"), request("ab", "e")],
}


def random_requests(seed: int) -> list[TokenRequest]:
    """Few distinct tokens, so that prefixes are shared at every length."""
    generator = random.Random(seed)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(generator.randrange(1, 3) for _ in range(generator.randrange(1, most)))

    return [TokenRequest(tokens(6), tokens(5)) for _ in range(generator.randrange(1, 7))]


CASES = [*REQUESTS.values(), *map(random_requests, range(60))]


def way_to(tree: TokenTree, node: int) -> list[int]:
    """Nodes from a root to `node`."""
    way = []
    while node != -1:
        way.append(node)
        node = tree.parents[node]
    return way[::-1]


@pytest.mark.parametrize("requests", CASES)
def test_a_tree_scores_each_requests_tokens_after_exactly_their_context(requests):
    tree = token_tree(requests)
    assert len(tree.requests) == len(requests)
    for (context, continuation), indices in zip(map(_pair, requests), tree.requests, strict=True):
        scored = [tree.scored[i] for i in indices]
        assert [target for _, target in scored] == continuation
        for length, (node, _) in enumerate(scored):
            seen = [tree.tokens[n] for n in way_to(tree, node)]
            assert seen == context + continuation[:length]


def _pair(made: TokenRequest) -> tuple[list[int], list[int]]:
    return list(made.context), list(made.continuation)


@pytest.mark.parametrize("requests", CASES)
def test_a_tree_holds_every_distinct_prefix_once_and_nothing_else(requests):
    tree = token_tree(requests)
    sequences = [(r.context + r.continuation)[:-1] for r in requests]
    prefixes = {s[:end] for s in sequences for end in range(1, len(s) + 1)}
    ways = [tuple(tree.tokens[n] for n in way_to(tree, node)) for node in range(len(tree))]
    assert len(ways) == len(set(ways)) and set(ways) == prefixes
    assert tree.depths == [len(way) - 1 for way in ways]
    assert all(parent < node for node, parent in enumerate(tree.parents))
    assert len(set(tree.scored)) == len(tree.scored)


def random_batch(seed: int, n_documents: int) -> tuple[list[TokenTree], Batch]:
    trees = [token_tree(random_requests(1000 * seed + i)) for i in range(n_documents)]
    return trees, make_batch(trees, range(100, 100 + n_documents))


def places(trees: list[TokenTree], batch: Batch) -> list[tuple[int, int]]:
    """(row, start) of each tree, found by the tokens that no other document holds."""
    found = []
    for number in range(len(trees)):
        row, start = torch.nonzero(batch.tokens == MARK + number)[0].tolist()
        found.append((row, start))
    return found


MARK = 10_000


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("long", [False, True])
def test_a_token_sees_itself_and_its_ancestors_only(seed, long):
    """By brute force, for every pair of places of a batch."""
    generator = random.Random(seed)
    trees = []
    for number in range(12):
        mark = (MARK + number,)  # a first token of its own shows where a document stands
        tail = (5,) * (generator.randrange(MAX_SHARED_ROW) if long and number % 5 == 0 else 0)
        requests = [
            TokenRequest(mark + r.context + tail, r.continuation)
            for r in random_requests(100 * seed + number)
        ]
        trees.append(token_tree(requests))
    batch = make_batch(trees, range(12))
    rows, length = batch.tokens.shape
    expected = torch.eye(length, dtype=torch.bool).repeat(rows, 1, 1)
    for tree, (row, start) in zip(trees, places(trees, batch), strict=True):
        stop = start + len(tree)
        assert batch.tokens[row, start:stop].tolist() == tree.tokens
        assert batch.positions[row, start:stop].tolist() == tree.depths
        for node in range(len(tree)):
            ancestors = [start + ancestor for ancestor in way_to(tree, node)]
            expected[row, start + node, ancestors] = True
    assert torch.equal(visible(batch.ends, 0, length), expected)
    assert torch.equal(visible(batch.ends, 3, 11), expected[:, 3:11, :11])
    assert batch.n_tokens == sum(map(len, trees)) == int((batch.tokens != 0).sum())


@pytest.mark.parametrize("seed", range(8))
def test_a_batchs_targets_are_its_trees(seed):
    trees, batch = random_batch(seed, n_documents=9)
    assert batch.documents == tuple(range(100, 109))
    tokens = [*batch.prefix.tolist(), *batch.tokens.flatten().tolist()]
    assert len(set(batch.positions_scored.tolist())) == len(batch.positions_scored)
    for tree, requests in zip(trees, batch.requests, strict=True):
        assert len(requests) == len(tree.requests)
        for indices, of_tree in zip(requests, tree.requests, strict=True):
            targets = [batch.targets[i].item() for i in indices]
            assert targets == [tree.scored[i][1] for i in of_tree]
            at = [batch.positions_scored[batch.target_positions[i]].item() for i in indices]
            assert [tokens[i] for i in at] == [tree.tokens[tree.scored[i][0]] for i in of_tree]


SHOTS = tuple(range(500, 500 + 2 * MIN_PREFIX))


@pytest.mark.parametrize("seed", range(8))
def test_what_all_documents_begin_with_is_in_a_batch_once(seed):
    alone = [random_requests(100 * seed + i) for i in range(7)]
    shot = [[TokenRequest(SHOTS + r.context, r.continuation) for r in one] for one in alone]
    trees = [token_tree(one) for one in shot]
    batch = make_batch(trees, range(7))
    prefix = batch.prefix.tolist()
    assert prefix[: len(SHOTS)] == list(SHOTS) and not set(SHOTS) & set(
        batch.tokens.flatten().tolist()
    )
    assert batch.n_tokens == len(prefix) + sum(len(tree) - len(prefix) for tree in trees)

    # Every target comes after exactly its context, prefix and visible tokens together.
    tokens, length = batch.tokens.flatten().tolist(), batch.tokens.shape[1]
    sees = visible(batch.ends, 0, length).flatten(0, 1)
    for requests, indices in zip(shot, batch.requests, strict=True):
        for made, targets in zip(requests, indices, strict=True):
            assert [batch.targets[i].item() for i in targets] == list(made.continuation)
            for n, i in enumerate(targets):
                at = batch.positions_scored[batch.target_positions[i]].item() - len(prefix)
                start = at // length * length
                seen = [start + j for j in sees[at].nonzero().flatten().tolist()]
                context = [*prefix, *(tokens[j] for j in seen)]
                assert context == [*made.context, *made.continuation[:n]]
                assert batch.positions.flatten()[at] == len(context) - 1


@pytest.mark.parametrize(
    ("requests", "shared"),
    [
        ([[request("x" * 40 + "a", "b")], [request("x" * 40 + "c", "d")]], 40),
        ([[request("x" * 40 + "a", "b")]], 0),  # a document alone shares with nobody
        ([[request("x" * 9 + "a", "b")], [request("x" * 9 + "c", "d")]], 0),  # too short
        ([[request("x" * 40, "b")], [request("x" * 40, "d")]], 39),  # the last node is scored
        ([[request("x" * 20, "x" * 20)], [request("x" * 40, "d")]], 19),
        ([[request("x" * 30 + "a", "b"), request("x" * 20 + "y", "b")]] * 2, 20),  # a branch
        ([[request("x" * 30, "b"), request("y" * 30, "b")]] * 2, 0),  # two roots
    ],
)
def test_a_prefix_ends_at_a_branch_at_a_scored_token_or_where_documents_differ(requests, shared):
    assert shared_prefix([token_tree(one) for one in requests]) == shared


@pytest.mark.parametrize("lengths", [[30] * 20, [100, 60, 31, 30, 30, 5], [200] + [8] * 30])
def test_rows_hold_little_padding(lengths):
    """Short documents share rows where rows of their own would be mostly padding."""
    trees = [token_tree([request(chr(i) + "x" * (n - 1), "y")]) for i, n in enumerate(lengths)]
    batch = make_batch(trees, range(len(trees)))
    assert batch.tokens.numel() < 1.25 * sum(lengths)


@pytest.mark.parametrize("length", [1, 8, 301])
def test_a_document_alone_gets_a_row_of_its_length(length):
    batch = make_batch([token_tree([request("x" * length, "y")])], [0])
    assert batch.tokens.shape == (1, -(-length // 8) * 8)


@pytest.mark.parametrize("seed", range(20))
def test_groups_hold_every_document_once_longest_first_within_the_budget(seed):
    generator = random.Random(seed)
    lengths = [generator.randrange(1, 90) for _ in range(generator.randrange(40))]
    groups = group_by_length(lengths, token_budget=64)
    order = [i for group in groups for i in group]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    for group in groups:
        assert len(group) == 1 or sum(lengths[i] for i in group) <= 64


def padded(lengths: list[int], groups: list[list[int]]) -> int:
    """Tokens of all rows of the groups' batches, of documents that begin in no way alike."""
    trees = [token_tree([TokenRequest((i,) * length, (0,))]) for i, length in enumerate(lengths)]
    return sum(make_batch([trees[i] for i in group], group).tokens.numel() for group in groups)


# Like sentences, like passages of which a few are very long, one too long, fewer than a batch.
SETS = {
    "sentences": [random.Random(i).randint(9, 60) for i in range(150)],
    "passages": [int(60 * random.Random(i).paretovariate(1.6)) for i in range(90)],
    "one-too-long": [3000, *[10] * 30],
    "one-batch": [30, 20, 25],
}


@pytest.mark.parametrize("kind", SETS)
def test_groups_to_be_packed_hold_every_document_once_and_no_more_than_the_budget(kind):
    lengths = SETS[kind]
    groups = group_to_pack(lengths, 1024)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(g) == 1 or sum(lengths[i] for i in g) <= 1024 for g in groups)
    assert max(lengths) in [lengths[i] for i in groups[0]]


def test_short_documents_fill_the_rows_that_long_ones_leave_open():
    lengths = SETS["sentences"]
    mixed = padded(lengths, group_to_pack(lengths, 1024))
    assert mixed < padded(lengths, group_by_length(lengths, 1024))
    assert sum(lengths) > 0.95 * mixed


def test_long_documents_are_among_their_like():
    lengths = SETS["passages"]
    assert group_to_pack(lengths, 1024) == group_by_length(lengths, 1024)
