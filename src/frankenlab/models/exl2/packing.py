"""Small integers packed into 32-bit words, as EXL2 stores codes and scales.

Every function works a whole matrix at a time, on any device.
"""

import torch

from frankenlab.models.exl2.limits import BITS, WORD


def unpack_columns(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the codes of columns that are streams of bits, least significant first: code k is at
    bit k·bits.

    Args:
        words: int32 [w, n].
        bits: one of `BITS`.

    Returns:
        uint8 [w · 32 / bits, n]; `w` must make that whole.
    """
    period, per_period = _period(bits)
    n = words.shape[1]
    blocks = words.reshape(-1, period, n)
    codes = words.new_empty((blocks.shape[0], per_period, n), dtype=torch.uint8)
    mask = (1 << bits) - 1
    for k in range(per_period):
        word, shift = divmod(k * bits, WORD)
        # The shift copies the sign bit; the mask keeps none of the copies.
        value = blocks[:, word] >> shift
        if shift + bits > WORD:
            present = WORD - shift
            value = (value & ((1 << present) - 1)) | (blocks[:, word + 1] << present)
        codes[:, k] = value & mask
    return codes.reshape(-1, n)


def pack_columns(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the words that `unpack_columns` takes apart into these codes.

    Args:
        codes: integers [k, n] below 2^bits; k · bits must be a multiple of 32.

    Returns:
        int32 [k · bits / 32, n].
    """
    period, per_period = _period(bits)
    n = codes.shape[1]
    blocks = codes.reshape(-1, per_period, n).to(torch.int32)
    words = blocks.new_zeros((blocks.shape[0], period, n))
    for k in range(per_period):
        word, shift = divmod(k * bits, WORD)
        words[:, word] |= blocks[:, k] << shift
        if shift + bits > WORD:
            words[:, word + 1] |= blocks[:, k] >> (WORD - shift)
    return words.reshape(-1, n)


def unpack_nibbles(words: torch.Tensor) -> torch.Tensor:
    """Return the nibbles of words, int32 [g, n / 8] -> uint8 [g, n]: nibble n % 8 of word n // 8,
    least significant first."""
    shifts = torch.arange(0, WORD, 4, dtype=torch.int32, device=words.device)
    return ((words.unsqueeze(-1) >> shifts) & 15).to(torch.uint8).flatten(1)


def pack_nibbles(nibbles: torch.Tensor) -> torch.Tensor:
    """Return the words of which `unpack_nibbles` makes these nibbles; n must be a multiple of 8."""
    groups = nibbles.reshape(nibbles.shape[0], -1, 8).to(torch.int32)
    words = groups.new_zeros(groups.shape[:2])
    for k in range(8):
        words |= groups[:, :, k] << (4 * k)
    return words


def _period(bits: int) -> tuple[int, int]:
    """Return (words, codes) after which the stream meets a word's start again."""
    for words in (1, 3, 5):
        if words * WORD % bits == 0:
            return words, words * WORD // bits
    raise ValueError(f"{bits} bits is not one of {BITS}")
