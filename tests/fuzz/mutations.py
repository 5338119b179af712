"""Damage to a file: what broken disks, cut copies and careless editors do to bytes and to JSON."""

import json
import random
import struct
from typing import Any

# What a length, an offset or a count is likely to be wrong by.
EXTREMES = (0, 1, -1, 127, 255, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**62, -(2**63))

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 10**9, 2**63, 10**30, -(10**9)),
    *("", "x", "0", "1e9", "a\nb", "\udcff", "../../escape", "/etc/passwd", "nul\0"),
    *([], [[]], [None], {}, {"": {}}, [0] * 50),
)


def mutate(draw: random.Random, contents: bytes, is_json: bool) -> tuple[bytes, str]:
    """Return damaged contents and, in words, what was done to them."""
    if is_json and draw.random() < 0.7:
        try:
            return _mutate_json(draw, contents)
        except (ValueError, RecursionError):
            pass  # An earlier change made it no JSON: its bytes can be changed all the same.
    changes = []
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        contents, what = draw.choice(BYTES)(draw, contents)
        changes.append(what)
    return contents, ", then ".join(changes)


def _place(draw: random.Random, size: int) -> int:
    """Return an offset; headers and footers, where lengths and offsets stand, come more often."""
    if not size:
        return 0
    kind = draw.random()
    if kind < 0.35:
        return draw.randrange(min(size, draw.choice((16, 256, 4096))))
    if kind < 0.65:
        return size - 1 - draw.randrange(min(size, draw.choice((16, 256, 4096))))
    return draw.randrange(size)


def _cut(draw: random.Random, contents: bytes) -> tuple[bytes, str]:
    at = _place(draw, len(contents))
    return contents[:at], f"cut to {at} of {len(contents)} bytes"


def _cut_start(draw: random.Random, contents: bytes) -> tuple[bytes, str]:
    at = _place(draw, len(contents))
    return contents[at:], f"its first {at} bytes lost"


def _zero(draw: random.Random, contents: bytes) -> tuple[bytes, str]:
    at, length = _place(draw, len(contents)), draw.choice((1, 8, 64, 4096))
    length = min(length, len(contents) - at)
    return contents[:at] + bytes(length) + contents[at + length :], f"{length} zeros at {at}"


def _swap(draw: random.Random, contents: bytes) -> tuple[bytes, str]:
    if len(contents) < 2:
        return contents, "nothing to swap"
    length = min(draw.choice((1, 4, 64, 512)), len(contents) // 2)
    one, other = sorted((_place(draw, len(contents)), _place(draw, len(contents))))
    other = min(max(other, one + length), len(contents) - length)
    one = min(one, other - length)
    changed = bytearray(contents)
    changed[one : one + length], changed[other : other + length] = (
        contents[other : other + length],
        contents[one : one + length],
    )
    return bytes(changed), f"{length} bytes at {one} and {other} swapped"


def _flip(draw: random.Random, contents: bytes) -> tuple[bytes, str]:
    if not contents:
        return contents, "no bit to flip"
    changed, places = bytearray(contents), []
    for _ in range(draw.choice((1, 1, 1, 3, 40))):
        at, bit = _place(draw, len(contents)), draw.randrange(8)
        changed[at] ^= 1 << bit
        places.append(f"{at}.{bit}")
    return bytes(changed), f"bits {' '.join(places)} flipped"


def _append(draw: random.Random, contents: bytes) -> tuple[bytes, str]:
    added = draw.choice((b"\0", b"\n", b"}", draw.randbytes(7), draw.randbytes(4096), contents))
    return contents + added, f"{len(added)} bytes appended"


def _insert(draw: random.Random, contents: bytes) -> tuple[bytes, str]:
    at, added = _place(draw, len(contents)), draw.randbytes(draw.choice((1, 2, 8, 100)))
    return contents[:at] + added + contents[at:], f"{len(added)} bytes put in at {at}"


def _drop(draw: random.Random, contents: bytes) -> tuple[bytes, str]:
    at, length = _place(draw, len(contents)), draw.choice((1, 4, 100))
    return contents[:at] + contents[at + length :], f"{length} bytes at {at} left out"


def _extreme(draw: random.Random, contents: bytes) -> tuple[bytes, str]:
    """Change a whole number of 1 to 8 bytes, mostly at a place where lengths and offsets align."""
    width = draw.choice((1, 2, 4, 4, 8, 8))
    at = _place(draw, len(contents))
    if draw.random() < 0.7:
        at -= at % width
    value = draw.choice(EXTREMES)
    number = struct.pack("<q", value)[:width] if value < 2**63 else bytes([255]) * width
    return contents[:at] + number + contents[at + width :], f"{width} bytes at {at} made {value}"


BYTES = (_cut, _cut_start, _zero, _swap, _flip, _append, _insert, _drop, _extreme, _extreme, _flip)


def _mutate_json(draw: random.Random, contents: bytes) -> tuple[bytes, str]:
    value = json.loads(contents)
    changes = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        value, what = _changed(draw, value, "")
        changes.append(what)
    text = json.dumps(value, ensure_ascii=True)
    if draw.random() < 0.05:
        text, what = _as_text(draw, text)
        changes.append(what)
    return text.encode(), ", then ".join(changes)


def _as_text(draw: random.Random, text: str) -> tuple[str, str]:
    kind = draw.randrange(5)
    if kind == 0:
        return "[" * 100_000 + "]" * 100_000, "nested 100,000 deep"
    if kind == 1:
        return "\ufeff" + text, "a byte order mark before it"
    if kind == 2:
        return text.replace(":", ': NaN, "nan":', 1), "NaN put in"
    if kind == 3:
        return text.replace(":", ": " + "9" * 5000 + ', "long":', 1), "a number of 5,000 digits"
    return text + text, "twice the same"


def _changed(draw: random.Random, value: Any, where: str) -> tuple[Any, str]:
    """Return the value with one change somewhere below it."""
    inside: list[Any] = []
    if isinstance(value, dict | list):
        inside = list(value if isinstance(value, dict) else range(len(value)))[:500]
    if not inside or draw.random() < 0.12:
        strange = draw.choice(STRANGE)
        if isinstance(value, int) and not isinstance(value, bool) and draw.random() < 0.5:
            strange = draw.choice(
                (value + 1, value - 1, -value, value * 1000, value / 2, str(value))
            )
        shown = json.dumps(strange)
        return strange, f"{where or 'the whole'} made {shown[:40]}"
    key = draw.choice(inside)
    copy = dict(value) if isinstance(value, dict) else list(value)
    below = f"{where}.{key}" if where else str(key)
    kind = draw.random()
    if kind < 0.1:
        copy.pop(key)
        return copy, f"{below} left out"
    if kind < 0.15:
        other = draw.choice(inside)
        copy[key], copy[other] = copy[other], copy[key]
        return copy, f"{below} and {other} swapped"
    copy[key], what = _changed(draw, copy[key], below)
    return copy, what
