"""Which documents form a batch, and where each stands in its rows: decided by lengths alone."""

from collections.abc import Sequence
from typing import NamedTuple

# Rows are padded to a multiple of this: fewer distinct shapes, so fewer kernels to choose.
LENGTH_MULTIPLE = 8

# A row of its own for all documents is padded to a multiple of this, for the same reason.
FLAT_MULTIPLE = 16

# Short documents share rows up to this length.
MAX_SHARED_ROW = 256

# Length of a row at which attention over it, masked or not, costs as much as its matrix products
# (about: it depends on the model's width). Longer rows waste less padding and more attention.
ATTENTION_LENGTH = 900

# How many groups, at most, are packed to compare two ways of grouping.
COMPARED_GROUPS = 8


class Packing(NamedTuple):
    """Where documents stand: the (row, start) of each, the number of rows, and their length."""

    places: list[tuple[int, int]]
    n_rows: int
    length: int


def group_by_length(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Return groups of indices, longest first, of at most `token_budget` tokens each.

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


def group_to_pack(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Return groups of indices whose documents share rows, the longest document in the first.

    A group has at most `token_budget` tokens, or a single document. The cheaper of two ways is
    taken: neighbours in length, which need the shortest rows, or every n-th document in the order
    of the lengths, so that short documents fill the rows that the long ones leave open.
    """
    ways = (group_by_length(lengths, token_budget), group_evenly(lengths, token_budget))
    return min(ways, key=lambda groups: _cost_per_token(groups, lengths))


def group_evenly(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Return groups of all lengths and nearly equal size, the longest document in the first.

    A group has at most `token_budget` tokens. Where documents are too long to mix, neighbours in
    length form groups.
    """
    order = _longest_first(lengths)
    least = max(-(-sum(lengths) // token_budget), 1)
    for count in range(least, 2 * least + 1):
        groups = [order[first::count] for first in range(min(count, len(order)))]
        if all(sum(lengths[i] for i in group) <= token_budget for group in groups):
            return groups
    return group_by_length(lengths, token_budget)


def pack(lengths: Sequence[int]) -> Packing:
    """Pack documents into rows of the width that costs least."""
    longest = padded(max(lengths))
    widths = range(longest, max(longest, MAX_SHARED_ROW) + 1, LENGTH_MULTIPLE)
    return min((_first_fit(lengths, width) for width in widths), key=_cost)


def padded(length: int, multiple: int = LENGTH_MULTIPLE) -> int:
    """Return the length of a row that holds `length` tokens."""
    return -(-length // multiple) * multiple


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def _cost_per_token(groups: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
    """Estimate the cost from a few of the groups, since packing them all would take seconds."""
    some = groups[:: max(-(-len(groups) // COMPARED_GROUPS), 1)]
    packings = [pack([lengths[i] for i in group]) for group in some]
    # Documents may all be without tokens.
    return sum(map(_cost, packings)) / max(sum(lengths[i] for group in some for i in group), 1)


def _cost(packing: Packing) -> float:
    """Return the cost of a batch, where a token of a row without attention costs 1."""
    return packing.n_rows * packing.length * (1 + packing.length / ATTENTION_LENGTH)


def _first_fit(lengths: Sequence[int], width: int) -> Packing:
    """Put the longest document first into the first row of `width` that has room for it."""
    filled: list[int] = []
    places = [(0, 0)] * len(lengths)
    for index in _longest_first(lengths):
        need = lengths[index]
        row = next((r for r, used in enumerate(filled) if used + need <= width), len(filled))
        if row == len(filled):
            filled.append(0)
        places[index] = (row, filled[row])
        filled[row] += need
    return Packing(places, len(filled), padded(max(filled, default=1)))
