"""The error that a user sees without a traceback, and how users' text is quoted in it."""

from typing import Any

MAX_QUOTED = 80  # characters


class UserError(Exception):
    """Wrong input or a missing resource: one line that says what, where, and what is allowed."""


def printable(text: str) -> str:
    """Return the text with "?" for every unprintable character; its length stays the same."""
    return "".join(character if character.isprintable() else "?" for character in text)


def excerpt(text: Any, length: int = MAX_QUOTED) -> str:
    """Return the text on one line, without its middle where it is longer than `length`."""
    shown = printable(str(text))
    if len(shown) <= length:
        return shown
    tail = (length - 3) // 2
    head = length - 3 - tail
    return f"{shown[:head]}...{shown[len(shown) - tail :]}"


def describe(error: BaseException) -> str:
    """Return an error's type and message on one line."""
    return f"{type(error).__name__}: {one_line(error)}"


def one_line(text: Any) -> str:
    """Return the text with every run of white space as one space."""
    return " ".join(str(text).split())
