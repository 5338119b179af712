"""The rounds of a racing search, named as stages: search-1, search-2, and so on.

A round gives the plans that are left more documents; `frankenlab.racing` says which are left.
"""

from collections.abc import Mapping
from typing import Any

from frankenlab.io.errors import UserError

SEARCH = "search"


def evaluations(search: Mapping[str, Any]) -> list[str]:
    """Names under which the search stage is evaluated: its own, or one a round of its race.

    Args:
        search: the config's `stages.search`.
    """
    if "racing" not in search:
        return [SEARCH]
    return [named(i + 1) for i in range(len(search["racing"]["rounds"]) + 1)]


def named(number: int | str) -> str:
    """The name of a round; the first is number 1."""
    return f"{SEARCH}-{number}"


def split(name: str) -> tuple[str, int | None]:
    """The stage and the round that a name stands for: "search-2" is ("search", 2)."""
    stage, _, number = name.partition("-")
    return stage, int(number) if number else None


def before(name: str) -> str | None:
    """The round before one; None for the first, and for a stage."""
    number = split(name)[1]
    return named(number - 1) if number is not None and number > 1 else None


def limit(search: Mapping[str, Any], number: int) -> int | None:
    """Most documents a task that plans have seen after a round; the last takes all of the stage."""
    rounds = search["racing"]["rounds"]
    return rounds[number - 1] if number <= len(rounds) else search["limit"]


def check(search: Mapping[str, Any]) -> None:
    """Whether each round adds documents to the one before.

    Raises:
        UserError: one does not.
    """
    if "racing" not in search:
        return
    sizes = [*search["racing"]["rounds"], *([search["limit"]] if search["limit"] else [])]
    for before, after in zip(sizes, sizes[1:], strict=False):
        if after <= before:
            raise UserError(
                f"config: stages.search.racing.rounds: {after} documents after {before}; each "
                "round needs more than the one before, and search.limit more than all of them"
            )
