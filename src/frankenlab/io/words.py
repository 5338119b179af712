"""Text of users that is quoted in a message: on one line, and short."""

from typing import Any

QUOTED = 80


def printable(text: str) -> str:
    """Return the text with every character that no terminal shows as one "?"; same length."""
    return "".join(character if character.isprintable() else "?" for character in text)


def excerpt(text: Any, length: int = QUOTED) -> str:
    """Return the text on one line, its middle left out where it is longer than `length`."""
    shown = printable(str(text))
    if len(shown) <= length:
        return shown
    head = (length - 3 + 1) // 2
    return f"{shown[:head]}...{shown[len(shown) - (length - 3 - head) :]}"
