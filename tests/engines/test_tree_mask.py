"""The table of a tree mask names the blocks of keys that a block of queries sees, and no other."""

import pytest
import torch

from frankenlab.engines import kernels
from frankenlab.engines.kernels import tree_attention
from frankenlab.engines.tree_mask import TreeMask, tree_mask


def random_ends(seed: int, tokens: int, prefix: int, padding: int = 0) -> torch.Tensor:
    """Ends of a prefix that all see, of random trees one after the other, and of padding."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    ends = [tokens] * prefix
    limits = [tokens - padding]
    while len(ends) < tokens - padding:
        place = len(ends)
        while place >= limits[-1]:
            limits.pop()
        # A token's end is within its parent's; half of the tokens go on where it ends.
        end = between(place + 1, min(limits[-1], place + 30))
        end = limits[-1] if len(limits) > 1 and between(0, 1) else end
        limits.append(end)
        ends.append(end)
    return torch.tensor([*ends, *range(tokens - padding + 1, tokens + 1)], dtype=torch.int64)


def visible_pairs(ends: torch.Tensor) -> torch.Tensor:
    places = torch.arange(len(ends))
    return (places <= places[:, None]) & (places[:, None] < ends)


@pytest.mark.parametrize("tile", [(8, 4), (4, 8), (8, 8), (64, 64)])
@pytest.mark.parametrize(("tokens", "prefix", "padding"), [(1, 0, 0), (50, 0, 3), (64, 21, 8)])
def test_the_table_is_that_of_all_pairs(tile, tokens, prefix, padding):
    for seed in range(5):
        ends = random_ends(seed, tokens, prefix, padding)
        mask = tree_mask(ends, tile)
        assert mask.ends.tolist() == ends.tolist()
        assert {tensor.dtype for tensor in mask} == {torch.int32}
        blocks = visible_pairs(ends).split(tile[0])
        for block, (start, whole, stop) in zip(blocks, mask.ranges.tolist(), strict=True):
            keys = block.split(tile[1], dim=1)
            full = [n for n, pairs in enumerate(keys) if pairs.all() and pairs.shape[1] == tile[1]]
            some = [n for n, pairs in enumerate(keys) if pairs.any() and n not in full]
            assert mask.key_blocks[start:whole].tolist() == full
            assert mask.key_blocks[whole:stop].tolist() == some
        # One number more than is visited, for a kernel that reads ahead.
        assert len(mask.key_blocks) == mask.ranges[-1, 2] + 1


def test_documents_do_not_visit_each_other():
    """A thousand documents of one block each: a visit each, and the prefix's."""
    ends = torch.arange(16, 16 * 1002, 16).repeat_interleave(16)
    ends[:16] = len(ends)
    assert len(tree_mask(ends, (16, 16)).key_blocks) == 1 + 2 * 1000 + 1


@pytest.mark.parametrize("at_once", [16, 512])
def test_eager_attention_is_that_of_the_mask_of_all_pairs(monkeypatch, at_once):
    monkeypatch.setattr(kernels, "QUERIES_AT_ONCE", at_once)
    ends = random_ends(3, 60, 9, 4)
    heads = torch.randn(60, 6, 8, generator=torch.Generator().manual_seed(1))
    queries, keys, values = heads.split((4, 1, 1), dim=1)
    scores = torch.einsum("qhd,kd->hqk", queries, keys[:, 0]) / 8**0.5
    weights = scores.masked_fill(~visible_pairs(ends), float("-inf")).softmax(-1)
    expected = torch.einsum("hqk,kd->qhd", weights, values[:, 0])
    found = tree_attention(queries, keys, values, tree_mask(ends, (16, 16)))
    assert found.is_contiguous()
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_mask_goes_to_a_device_whole():
    mask = tree_mask(random_ends(1, 20, 3), (8, 8)).to(torch.device("meta"))
    assert isinstance(mask, TreeMask) and {tensor.device.type for tensor in mask} == {"meta"}
