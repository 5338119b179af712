"""Requests -> token batches in which no token of a document is computed twice.

A document's requests (the choices of one question, say) share most of their tokens. They are
merged into one tree, whose tokens stand depth first in a row, each with its own position; a
token sees itself and its ancestors only. That is the tree attention of speculative decoding
(Miao et al. 2024, SpecInfer) used for scoring. Depth first, a token's descendants are the tokens
right after it, so one number a token says who sees it, and no mask of a row's length squared has
to be kept.

What all documents of a batch begin with (few-shot examples) is computed once for all of them, as
in shared-prefix decoding (Juravsky et al. 2024, Hydragen).

An engine whose kernels know no such mask takes causal batches instead: one row per way from a
root of a tree to a leaf, with ordinary causal attention.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

# Rows are padded to a multiple of this: fewer distinct shapes, so fewer kernels to choose.
LENGTH_MULTIPLE = 8

# Short documents share rows up to this length.
MAX_SHARED_ROW = 256

# A shorter beginning is computed with each document: taking it apart costs more than it saves.
MIN_PREFIX = 16

# Length of a row at which attention over it, masked or not, costs as much as its matrix products
# (about: it depends on the model's width). Longer rows waste less padding and more attention.
ATTENTION_LENGTH = 900

# Groups at most for which two ways of grouping are compared.
COMPARED_GROUPS = 8


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """Score `continuation` after `context`, both token ids.

    Raises:
        ValueError: one of them is empty: nothing would be scored, or after nothing.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def __post_init__(self) -> None:
        if not (self.context and self.continuation):
            raise ValueError(f"an empty side: {self.context} before {self.continuation}")


@dataclass(slots=True)
class TokenTree:
    """All token requests of one document as one tree of tokens.

    Attributes:
        tokens: token id of each node, depth first: a node, its descendants, then others.
        parents: index of each node's parent, -1 for a root.
        depths: position of each node in its sequence (its rotary position).
        scored: (node, target token) pairs, each once: the node's output predicts the target.
        requests: for each request, the indices into `scored` whose log-probabilities add up.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    scored: list[tuple[int, int]] = field(default_factory=list)
    requests: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def trunk(self) -> int:
        """How many nodes come before the first branch and before the first that is scored."""
        end = min((node for node, _ in self.scored), default=len(self))
        branches = {p for node, p in enumerate(self.parents) if p != node - 1}
        # A second root is a branch of nothing: there is no trunk then.
        return min([end, *(p + 1 for p in branches)])

    def without(self, count: int) -> "TokenTree":
        """The tree without the first `count` nodes of its trunk; depths stay."""
        return TokenTree(
            tokens=self.tokens[count:],
            parents=[max(parent - count, -1) for parent in self.parents[count:]],
            depths=self.depths[count:],
            scored=[(node - count, target) for node, target in self.scored],
            requests=self.requests,
        )

    def paths(self) -> list[list[int]]:
        """Nodes on the way from a root to each leaf, in the order of the leaves."""
        inner = set(self.parents)
        ways = []
        for leaf in (node for node in range(len(self)) if node not in inner):
            way, node = [], leaf
            while node >= 0:
                way.append(node)
                node = self.parents[node]
            ways.append(way[::-1])
        return ways

    def ends(self) -> list[int]:
        """For each node, the first node after it that does not descend from it."""
        ends = list(range(1, len(self) + 1))
        for node in range(len(self) - 1, -1, -1):
            if (parent := self.parents[node]) >= 0:
                ends[parent] = max(ends[parent], ends[node])
        return ends


def token_tree(requests: Iterable[TokenRequest]) -> TokenTree:
    """Merges requests into a tree: common prefixes are stored once.

    The last token of a continuation is only predicted, so it gets no node.
    """
    requests = list(requests)
    tree = TokenTree(requests=[[] for _ in requests])
    children: dict[tuple[int, int], int] = {}
    scored: dict[tuple[int, int], int] = {}
    sequences = [request.context + request.continuation for request in requests]
    # In the order of their tokens, what begins alike is neighbours: the nodes come depth first.
    for number in sorted(range(len(requests)), key=lambda i: sequences[i][:-1]):
        sequence, first = sequences[number], len(requests[number].context) - 1
        node, indices = -1, tree.requests[number]
        for i, token in enumerate(sequence[:-1]):
            child = children.get((node, token))
            if child is None:
                child = children[node, token] = len(tree.tokens)
                tree.tokens.append(token)
                tree.parents.append(node)
                tree.depths.append(i)
            node = child
            if i >= first:
                indices.append(scored.setdefault((node, sequence[i + 1]), len(scored)))
    tree.scored = list(scored)
    return tree


@dataclass(frozen=True)
class Batch:
    """Rows of token trees, several a row where they fit, or of causal sequences, padded on the
    right to one length; before them a prefix that every document begins with.

    Attributes:
        documents: the caller's number of each document in the batch.
        prefix: int64 [prefix length], often empty. Its token i is at position i and sees those
            before it; every token of the rows sees all of it.
        tokens: int64 [rows, length]; padding holds token 0.
        positions: int64 [rows, length].
        ends: int64 [rows, length]: of each token, the first place after it in its row that does
            not see it (see `visible`). Padding is seen by itself only, so that no row of the
            softmax is empty.
        positions_scored: int64 [scored positions]: distinct indices into the prefix and the
            rows * length tokens after it.
        targets: int64 [targets]: token ids.
        target_positions: int64 [targets]: index of each target's position in `positions_scored`.
        requests: per document, per request, the indices into `targets` that it sums.
        n_tokens: tokens that are no padding.
    """

    documents: tuple[int, ...]
    prefix: torch.Tensor
    tokens: torch.Tensor
    positions: torch.Tensor
    ends: torch.Tensor
    positions_scored: torch.Tensor
    targets: torch.Tensor
    target_positions: torch.Tensor
    requests: tuple[tuple[tuple[int, ...], ...], ...]
    n_tokens: int


def visible(ends: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Who sees whom among the first `stop` tokens of each row: bool [rows, stop - start, stop],
    whether token `start` + i sees token j. It does if it is j itself or comes after j and before
    j's end."""
    places = torch.arange(stop, device=ends.device)
    seeing = places[start:, None]
    return (places <= seeing) & (seeing < ends[:, None, :stop])


def group_by_length(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Groups of indices, longest first, of at most `token_budget` tokens each.

    Longest first shows a lack of memory at once, and neighbours in length pack well. A single
    document over the budget forms a group of its own.
    """
    groups: list[list[int]] = []
    used = 0
    for index in _longest_first(lengths):
        if groups and used + lengths[index] <= token_budget:
            groups[-1].append(index)
            used += lengths[index]
        else:
            groups.append([index])
            used = lengths[index]
    return groups


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def group_to_pack(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Groups of indices for `make_batch`, of at most `token_budget` tokens each (or of a single
    document), the longest in the first.

    The cheaper of two ways: neighbours in length, for the shortest rows, or every n-th in the order
    of the lengths, whose short documents fill the rows that the long ones leave open.
    """
    ways = (group_by_length(lengths, token_budget), _mixtures(lengths, token_budget))
    return min(ways, key=lambda groups: _cost_per_token(groups, lengths))


def _mixtures(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Groups of all lengths; neighbours in length where documents are too long to be mixed so."""
    order = _longest_first(lengths)
    least = max(-(-sum(lengths) // token_budget), 1)
    for count in range(least, 2 * least + 1):
        groups = [order[first::count] for first in range(min(count, len(order)))]
        if all(sum(lengths[i] for i in group) <= token_budget for group in groups):
            return groups
    return group_by_length(lengths, token_budget)


def _cost_per_token(groups: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
    """Of some of the groups: packing them all would take seconds."""
    some = groups[:: max(-(-len(groups) // COMPARED_GROUPS), 1)]
    packings = [_pack([lengths[i] for i in group]) for group in some]
    # Documents may all be without tokens.
    return sum(map(_cost, packings)) / max(sum(lengths[i] for group in some for i in group), 1)


def shared_prefix(trees: Sequence[TokenTree]) -> int:
    """Tokens that all trees begin with, before any branch or scored node; 0 if too few to share."""
    if len(trees) < 2:
        return 0
    most = min(tree.trunk() for tree in trees)
    # All agree where the two that are furthest apart in the order of their tokens agree.
    tokens = [tree.tokens[:most] for tree in trees]
    pairs = enumerate(zip(min(tokens), max(tokens), strict=True))
    count = next((i for i, (a, b) in pairs if a != b), most)
    return count if count >= MIN_PREFIX else 0


def make_batch(trees: Sequence[TokenTree], documents: Sequence[int]) -> Batch:
    """Packs trees into rows. `documents` are the caller's numbers of the trees."""
    shared = shared_prefix(trees)
    prefix = torch.tensor(trees[0].tokens[:shared], dtype=torch.int64)
    trees = [tree.without(shared) for tree in trees]
    places, n_rows, length = _pack([len(tree) for tree in trees])
    tokens = torch.zeros((n_rows, length), dtype=torch.int64)
    positions = torch.zeros((n_rows, length), dtype=torch.int64)
    ends = torch.arange(1, length + 1).repeat(n_rows, 1)
    where = []
    for tree, (row, start) in zip(trees, places, strict=True):
        stop = start + len(tree)
        tokens[row, start:stop] = torch.tensor(tree.tokens, dtype=torch.int64)
        positions[row, start:stop] = torch.tensor(tree.depths, dtype=torch.int64)
        ends[row, start:stop] = start + torch.tensor(tree.ends(), dtype=torch.int64)
        first = shared + row * length
        where.append(range(first + start, first + stop))
    return Batch(
        documents=tuple(documents),
        prefix=prefix,
        tokens=tokens,
        positions=positions,
        ends=ends,
        **_scored(trees, where),
        n_tokens=shared + sum(len(tree) for tree in trees),
    )


def make_causal_batch(trees: Sequence[TokenTree], documents: Sequence[int]) -> Batch:
    """One row per way from a root to a leaf, from position 0 on; a token sees all before it.

    A node that several ways share is scored in the first of them.
    """
    ways = [tree.paths() for tree in trees]
    rows = [(tree, way) for tree, own in zip(trees, ways, strict=True) for way in own]
    length = _padded(max(len(way) for _, way in rows))
    tokens = torch.zeros((len(rows), length), dtype=torch.int64)
    for row, (tree, way) in enumerate(rows):
        tokens[row, : len(way)] = torch.tensor([tree.tokens[node] for node in way])
    where: list[dict[int, int]] = []
    row = 0
    for own in ways:
        where.append({})
        for way in own:
            for column, node in enumerate(way):
                where[-1].setdefault(node, row * length + column)
            row += 1
    return Batch(
        documents=tuple(documents),
        prefix=torch.empty(0, dtype=torch.int64),
        tokens=tokens,
        positions=torch.arange(length).expand(len(rows), length),
        ends=torch.full((len(rows), length), length),
        **_scored(trees, where),
        n_tokens=sum(len(way) for _, way in rows),
    )


def causal_length(tree: TokenTree) -> int:
    """Tokens that the tree takes in a causal batch, without padding."""
    return sum(map(len, tree.paths()))


def _scored(
    trees: Sequence[TokenTree], where: Sequence[Mapping[int, int] | Sequence[int]]
) -> dict[str, Any]:
    """The fields of a batch about what is scored; `where[t][n]` is the flat index of node n of
    tree t."""
    scored_index: dict[int, int] = {}
    targets: list[int] = []
    target_positions: list[int] = []
    requests = []
    for tree, places in zip(trees, where, strict=True):
        offset = len(targets)
        for node, target in tree.scored:
            target_positions.append(scored_index.setdefault(places[node], len(scored_index)))
            targets.append(target)
        requests.append(tuple(tuple(offset + i for i in indices) for indices in tree.requests))
    return {
        "positions_scored": torch.tensor(list(scored_index), dtype=torch.int64),
        "targets": torch.tensor(targets, dtype=torch.int64),
        "target_positions": torch.tensor(target_positions, dtype=torch.int64),
        "requests": tuple(requests),
    }


def _pack(lengths: Sequence[int]) -> tuple[list[tuple[int, int]], int, int]:
    """The (row, start) of each tree, the number of rows, their length: the cheapest width."""
    longest = _padded(max(lengths))
    widths = range(longest, max(longest, MAX_SHARED_ROW) + 1, LENGTH_MULTIPLE)
    return min((_first_fit(lengths, width) for width in widths), key=_cost)


def _cost(packing: tuple[list[tuple[int, int]], int, int]) -> float:
    """In tokens of rows without attention."""
    _, rows, length = packing
    return rows * length * (1 + length / ATTENTION_LENGTH)


def _first_fit(lengths: Sequence[int], width: int) -> tuple[list[tuple[int, int]], int, int]:
    """First-fit decreasing into rows of `width`."""
    filled: list[int] = []
    places = [(0, 0)] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        need = lengths[index]
        row = next((r for r, used in enumerate(filled) if used + need <= width), len(filled))
        if row == len(filled):
            filled.append(0)
        places[index] = (row, filled[row])
        filled[row] += need
    return places, len(filled), _padded(max(filled, default=1))


def _padded(length: int) -> int:
    return -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
