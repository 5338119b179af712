"""Attention over rows of token trees, in memory that grows with their length and not its square.

What a token sees follows from one number a token (`batches.visible`), so the mask of a long row is
made for a few of its tokens at a time, when they attend. Short rows, which most are, have one mask
that is made once for all layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from frankenlab.engines.batches import visible

# Elements of the masks that are in memory at once: 32 MB in float32.
MASK_ELEMENTS = 1 << 23

# Keys of a row are a multiple of this: a CPU's 16-bit attention takes half as long again else.
KEY_MULTIPLE = 16


@dataclass
class Mask:
    """Which keys the tokens of each row see. The keys of a row are `padding` that no token sees,
    `before` that all see, and the row's own tokens.

    Attributes:
        ends: int64 [rows, length], on the device: see `batches.Batch`.
        dtype: of the mask, that of the queries.
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
        """Keys of a row."""
        return self.padding + self.before + self.ends.shape[1]

    def spans(self) -> list[tuple[int, int]]:
        """The tokens that attend together, from `start` to `stop`; the last of them first."""
        rows, length = self.ends.shape
        size = MASK_ELEMENTS // max(rows * self.keys, 1)
        if size >= length:
            return [(0, length)]
        # Counted from the end, so that the keys of every block are such a multiple if all are.
        size = max(size // KEY_MULTIPLE, 1) * KEY_MULTIPLE
        return [(max(stop - size, 0), stop) for stop in range(length, 0, -size)]

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Tokens that attend together, and their additive mask [rows, 1, tokens, keys] over the
        first keys of the row, the others being seen by none of them."""
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
    """[rows, heads, length, head dim] each, where a key head may serve several query heads;
    [rows, length, heads, head dim]. Causal without a mask."""
    if mask is None:
        return _attend(queries, keys, values, None)
    parts = [
        _attend(queries[:, :, tokens], *(x[:, :, : block.shape[-1]] for x in (keys, values)), block)
        for tokens, block in mask.blocks()
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    mixed = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )
    return mixed.transpose(1, 2)
