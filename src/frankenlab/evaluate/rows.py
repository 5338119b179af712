"""The unit of what is scored and stored: one plan on one document."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """Scores of one plan on one document's requests.

    Attributes:
        plan: the plan's canonical text.
        requests: hash of the document's requests.
        loglikelihoods: one a request; is_greedy: whether greedy decoding gives it.
        hardware: name of the processor or GPU that computed the row.
    """

    plan: str
    requests: str
    loglikelihoods: tuple[float, ...]
    is_greedy: tuple[bool, ...]
    hardware: str
