"""Byte-level BPE as its authors describe it (Sennrich et al. 2016, Radford et al. 2019)."""

import unicodedata
from collections.abc import Mapping
from typing import Any

import regex

from frankenlab.models.gguf.tokenizer import SPLITTINGS


def reference_encode(text: str, metadata: Mapping[str, Any]) -> list[int]:
    """Return the token ids of a text without special tokens, by the metadata of a GGUF file: slow,
    and independent of the library tokenizers."""
    splitting = SPLITTINGS[metadata["tokenizer.ggml.pre"]]
    ids = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = enumerate(metadata["tokenizer.ggml.merges"])
    ranks = {tuple(merge.split(" ")): rank for rank, merge in merges}
    spelling = byte_spelling()
    pieces = [unicodedata.normalize("NFC", text) if splitting.nfc else text]
    for pattern in splitting.patterns:
        pieces = [p for piece in pieces for p in regex.split(f"({pattern})", piece) if p]
    encoded = []
    for piece in pieces:
        symbols = [spelling[byte] for byte in piece.encode()]
        if splitting.whole_pieces and "".join(symbols) in ids:
            symbols = ["".join(symbols)]
        while len(symbols) > 1:
            pairs = list(zip(symbols, symbols[1:], strict=False))
            best = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
            if pairs[best] not in ranks:
                break
            symbols[best : best + 2] = ["".join(pairs[best])]
        encoded += [ids[symbol] for symbol in symbols if symbol in ids]
    return encoded


def byte_spelling() -> dict[int, str]:
    """Return the character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    moved = {byte: chr(256 + i) for i, byte in enumerate(others)}
    return {byte: moved.get(byte, chr(byte)) for byte in range(256)}
