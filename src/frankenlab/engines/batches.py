"""Token trees -> batches: the tensors of token ids that an engine runs.

An engine says which of two layouts it takes. With "rows", token trees are packed into rows. What
all documents of a batch begin with (few-shot examples) is computed once for all of them, as in
shared-prefix decoding (Juravsky et al. 2024, Hydragen). With "flat", these tokens and then all
trees stand one after the other in a single row, for kernels that skip what a token does not see.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch

from frankenlab.engines.packing import FLAT_MULTIPLE, Packing, pack, padded
from frankenlab.engines.token_tree import TokenTree, shared_prefix

Layout = Literal["rows", "flat"]


@dataclass(frozen=True)
class Batch:
    """Rows of token trees, several a row where they fit, padded on the right to one length; before
    them a prefix that every document begins with.

    Attributes:
        documents: the caller's number of each document in the batch.
        prefix: int64 [prefix length], often empty. Its token i is at position i and sees those
            before it; every token of the rows sees all of it.
        tokens: int64 [rows, length]; padding holds token 0.
        positions: int64 [rows, length].
        ends: int64 [rows, length]: for each token, the first place after it in its row that does
            not see it (see `visible`). Padding is seen by itself only, so that no row of the
            softmax is empty.
        positions_scored: int64 [scored positions]: distinct indices into the prefix and the
            rows * length tokens after it.
        targets: int64 [targets]: token ids.
        target_positions: int64 [targets]: index of each target's position in `positions_scored`.
        requests: for each document and request, the indices into `targets` that it sums.
        n_tokens: tokens that are not padding.
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
    """Tell who sees whom among the first `stop` tokens of each row.

    Returns:
        bool [rows, stop - start, stop]: whether token `start` + i sees token j. It does if it is
        j itself or comes after j and before j's end.
    """
    places = torch.arange(stop, device=ends.device)
    seeing = places[start:, None]
    return (places <= seeing) & (seeing < ends[:, None, :stop])


def make_batch(trees: Sequence[TokenTree], documents: Sequence[int]) -> Batch:
    """Pack trees into rows. `documents` are the caller's numbers of the trees."""
    shared = shared_prefix(trees)
    prefix = torch.tensor(trees[0].tokens[:shared], dtype=torch.int64)
    trees = [tree.without(shared) for tree in trees]
    packing = pack([len(tree) for tree in trees])
    tokens, positions, ends = _rows(trees, packing)
    starts = [shared + row * packing.length + start for row, start in packing.places]
    return Batch(
        documents=tuple(documents),
        prefix=prefix,
        tokens=tokens,
        positions=positions,
        ends=ends,
        **_scored(trees, [range(s, s + len(t)) for s, t in zip(starts, trees, strict=True)]),
        n_tokens=shared + sum(len(tree) for tree in trees),
    )


def make_flat_batch(trees: Sequence[TokenTree], documents: Sequence[int]) -> Batch:
    """Put what the trees begin with, and then one tree after the other, into a single row."""
    shared = shared_prefix(trees)
    prefix = torch.tensor(trees[0].tokens[:shared], dtype=torch.int64)
    trees = [tree.without(shared) for tree in trees]
    stops = list(accumulate((len(tree) for tree in trees), initial=shared))
    places = [(0, start) for start in stops[:-1]]
    tokens, positions, ends = _rows(trees, Packing(places, 1, padded(stops[-1], FLAT_MULTIPLE)))
    tokens[0, :shared], positions[0, :shared] = prefix, torch.arange(shared)
    ends[0, :shared] = stops[-1]
    return Batch(
        documents=tuple(documents),
        prefix=torch.empty(0, dtype=torch.int64),
        tokens=tokens,
        positions=positions,
        ends=ends,
        **_scored(trees, [range(start, stop) for start, stop in pairwise(stops)]),
        n_tokens=stops[-1],
    )


def _rows(
    trees: Sequence[TokenTree], packing: Packing
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the tokens, positions and ends of rows with the trees in their places."""
    shape = (packing.n_rows, packing.length)
    tokens = torch.zeros(shape, dtype=torch.int64)
    positions = torch.zeros(shape, dtype=torch.int64)
    ends = torch.arange(1, packing.length + 1).repeat(packing.n_rows, 1)
    for tree, (row, start) in zip(trees, packing.places, strict=True):
        stop = start + len(tree)
        tokens[row, start:stop] = torch.tensor(tree.tokens, dtype=torch.int64)
        positions[row, start:stop] = torch.tensor(tree.depths, dtype=torch.int64)
        ends[row, start:stop] = start + torch.tensor(tree.ends(), dtype=torch.int64)
    return tokens, positions, ends


def _scored(trees: Sequence[TokenTree], indices: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the fields of a batch that say what is scored.

    Args:
        indices: `indices[t][n]` is the place of node n of tree t among the batch's tokens.
    """
    positions: dict[int, int] = {}
    targets: list[int] = []
    target_positions: list[int] = []
    requests = []
    for tree, places in zip(trees, indices, strict=True):
        offset = len(targets)
        for node, target in tree.scored:
            target_positions.append(positions.setdefault(places[node], len(positions)))
            targets.append(target)
        requests.append(tuple(tuple(offset + i for i in summed) for summed in tree.requests))
    return {
        "positions_scored": torch.tensor(list(positions), dtype=torch.int64),
        "targets": torch.tensor(targets, dtype=torch.int64),
        "target_positions": torch.tensor(target_positions, dtype=torch.int64),
        "requests": tuple(requests),
    }


# How a batch of each layout is made of trees and the caller's numbers of them.
MAKERS: dict[Layout, Callable[[Sequence[TokenTree], Sequence[int]], Batch]] = {
    "rows": make_batch,
    "flat": make_flat_batch,
}
