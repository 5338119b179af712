"""Attention over rows of token trees, in memory that grows with their length and not its square.

One number a token says what it sees (`batches.visible`), so the mask of a long row is made for a
few of its tokens at a time, when they attend. Short rows, which most are, have one mask that is
made once for all layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from frankenlab.engines.batches import visible

# Most elements of masks in memory at once: 32 MB in float32.
MASK_ELEMENTS = 1 << 23

# The number of keys of a row is a multiple of this; otherwise a CPU's 16-bit attention takes half
# as long again. A GPU has no use for it.
KEY_MULTIPLE = 16


@dataclass
class Mask:
    """Which keys the tokens of each row see.

    The keys of a row are `padding` keys that no token sees, `before` keys that all tokens see, and
    the row's own tokens.

    Attributes:
        ends: int64 [rows, length], on the device: see `batches.Batch`.
        dtype: that of the queries.
        whole: the mask of all tokens, where they attend together.
    """

    ends: torch.Tensor
    dtype: torch.dtype
    padding: int = 0
    before: int = 0
    whole: torch.Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        (block, *others) = self.spans()
        if not others:
            self.whole = self._additive(*block)

    @property
    def keys(self) -> int:
        """Number of keys of a row."""
        return self.padding + self.before + self.ends.shape[1]

    def spans(self) -> list[tuple[int, int]]:
        """Return the (start, stop) of tokens that attend together, the last tokens first."""
        rows, length = self.ends.shape
        size = MASK_ELEMENTS // max(rows * self.keys, 1)
        if size >= length:
            return [(0, length)]
        # Counted from the end: then each block has a multiple of keys if the whole row has.
        size = max(size // KEY_MULTIPLE, 1) * KEY_MULTIPLE
        return [(max(stop - size, 0), stop) for stop in range(length, 0, -size)]

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the tokens that attend together, and their additive mask.

        The mask is [rows, 1, tokens, keys] over the first keys of a row; none of these tokens sees
        the keys after them.
        """
        for start, stop in reversed(self.spans()):
            mask = self._additive(start, stop) if self.whole is None else self.whole
            yield slice(start, stop), mask

    def _additive(self, start: int, stop: int) -> torch.Tensor:
        ends, first = self.ends, self.padding + self.before
        shape = (len(ends), stop - start, first + stop)
        mask = torch.zeros(shape, dtype=self.dtype, device=ends.device)
        mask[..., : self.padding] = float("-inf")
        mask[..., first:].masked_fill_(~visible(ends, start, stop), float("-inf"))
        return mask.unsqueeze(1)


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask | None = None
) -> torch.Tensor:
    """Return the attention's result, [rows, length, heads, head dim].

    Args:
        queries, keys, values: [rows, heads, length, head dim]; a key head may serve several query
            heads.
        mask: None for causal attention.
    """
    if mask is None:
        return _attend(queries, keys, values, None)
    parts = []
    for tokens, block in mask.blocks():
        seen = slice(block.shape[-1])
        parts.append(_attend(queries[:, :, tokens], keys[:, :, seen], values[:, :, seen], block))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    shared = queries.shape[1] // keys.shape[1]
    if shared > 1 and keys.is_cuda and mask is not None and queries.shape[2] > 1:
        # Not every kernel that takes a mask takes key heads that several query heads share.
        keys, values = (
            x.unsqueeze(2).expand(-1, -1, shared, -1, -1).flatten(1, 2) for x in (keys, values)
        )
    mixed = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )
    return mixed.transpose(1, 2)
