"""A stage of an experiment, or one round of a search that drops plans on its way."""

import re
from dataclasses import dataclass, replace

from frankenlab.io.errors import UserError
from frankenlab.tasks.index import STAGES

SEARCH, SELECT, CONFIRM = STAGES

_TEXT = re.compile(rf"({'|'.join(STAGES)})(?:-([1-9][0-9]*))?")


@dataclass(frozen=True)
class Stage:
    """A stage; `round` counts from 1 and is None where it has no rounds.

    In paths and wildcards it is text: "select" is Stage("select"), "search-2" Stage("search", 2).
    """

    name: str
    round: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Stage":
        """Return the stage that a text names.

        Raises:
            UserError: it names none.
        """
        match = _TEXT.fullmatch(text)
        if match is None or (match[2] and match[1] != SEARCH):
            raise UserError(f'"{text}" is no stage; allowed: {", ".join(STAGES)}, {SEARCH}-<round>')
        return cls(match[1], int(match[2]) if match[2] else None)

    def __str__(self) -> str:
        return self.name if self.round is None else f"{self.name}-{self.round}"

    @property
    def searches(self) -> bool:
        """Tell whether this is the search, or a round of it."""
        return self.name == SEARCH

    @property
    def before(self) -> "Stage | None":
        """The round before this one; None for the first, and for a stage without rounds."""
        if self.round is None or self.round == 1:
            return None
        return replace(self, round=self.round - 1)
