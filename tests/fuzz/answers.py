"""The answers of Frankenlab and of lm-eval to a case."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """Scores of a document: (log-likelihood, is greedy) of each request, where a rolling request
    has no such flag in lm-eval (None), and its metrics by name."""

    pairs: tuple[tuple[float, bool | None], ...]
    metrics: Mapping[str, object]


@dataclass(frozen=True)
class Answers:
    """Scores by document number."""

    documents: Mapping[int, Document]


@dataclass(frozen=True)
class Refusal:
    """An error that is meant for the user."""

    message: str


@dataclass(frozen=True)
class Crash:
    """An error that nobody meant: its kind and place, its text and the lines that it went by."""

    kind: str
    message: str = ""
