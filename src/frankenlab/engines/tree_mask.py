"""The mask of token trees that stand in one sequence, and the blocks of it that a kernel visits.

A table names, for each block of queries, the blocks of keys that it sees anything of. So attention
over many short documents costs what their own lengths ask for, and no mask of all pairs is made.
"""

from typing import NamedTuple

import torch


class TreeMask(NamedTuple):
    """Token q sees token j if j <= q < ends[j].

    Attributes:
        ends: int32 [tokens]: for each token, the first place after it that does not see it.
        ranges: int32 [blocks of queries, 3]: where a block's list of blocks of keys starts in
            `key_blocks`, where the blocks end that all of its queries see whole, and where it
            ends.
        key_blocks: int32: the blocks of keys that the blocks of queries visit, and one number more,
            which a kernel that reads ahead may read.
    """

    ends: torch.Tensor
    ranges: torch.Tensor
    key_blocks: torch.Tensor

    def to(self, device: torch.device) -> "TreeMask":
        """Return the mask on a device, without waiting for what the device does."""
        return TreeMask(*(tensor.to(device, non_blocking=True) for tensor in self))


def tree_mask(ends: torch.Tensor, tile: tuple[int, int]) -> TreeMask:
    """Return the mask of a sequence, with the table for a kernel's blocks.

    Args:
        ends: int [tokens], on the CPU (see `TreeMask`); every token sees itself.
        tile: the numbers of queries and of keys in a block.
    """
    tokens, (queries, keys) = len(ends), tile
    first = torch.arange(0, tokens, queries)[:, None]
    stop = (first + queries).clamp(max=tokens)
    first_key = torch.arange(0, tokens, keys)
    stop_key = first_key + keys
    filled = torch.nn.functional.pad(ends, (0, -tokens % keys)).view(-1, keys)
    # Keys after the last token are in no block that is seen whole, since they end at 0.
    earliest, latest = filled.amin(1), filled.amax(1)
    # A block that overlaps the queries has a token that sees itself.
    visited = (first_key < stop) & ((stop_key > first) | (latest > first))
    whole = visited & (stop_key <= first + 1) & (earliest >= stop)
    rows, columns = torch.cat((whole.nonzero(), (visited & ~whole).nonzero())).unbind(1)
    key_blocks = torch.nn.functional.pad(columns[torch.sort(rows, stable=True).indices], (0, 1))
    end = visited.sum(1).cumsum(0)
    start = end - visited.sum(1)
    ranges = torch.stack((start, start + whole.sum(1), end), dim=1)
    return TreeMask(*(tensor.to(torch.int32) for tensor in (ends, ranges, key_blocks)))
