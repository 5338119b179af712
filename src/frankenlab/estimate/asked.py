"""Reads what a user wants predicted: the speeds, the numbers of GPUs and the cards."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frankenlab.config.cards import CARDS, Card
from frankenlab.config.experiment import Experiment
from frankenlab.io.errors import UserError

# Settings of the summary of a dry run, in the environment.
SPEED_VARIABLE, GPUS_VARIABLE = "FRANKENLAB_TOKENS_PER_SECOND", "FRANKENLAB_GPUS"
CARDS_VARIABLE = "FRANKENLAB_CARDS"


@dataclass(frozen=True)
class Asked:
    """Tokens a second by model, or None; numbers of GPUs on which the run's length is wanted; cards
    that are to be compared."""

    speeds: dict[str, float] | None
    gpus: Sequence[int]
    cards: Sequence[Card]


def asked(experiment: Experiment, environment: Mapping[str, str]) -> Asked:
    """Return what the environment asks of a summary.

    Raises:
        UserError: one of its variables says something that is not allowed.
    """
    speeds, gpus, cards = (
        environment.get(name, "") for name in (SPEED_VARIABLE, GPUS_VARIABLE, CARDS_VARIABLE)
    )
    return Asked(
        given_speeds(speeds, experiment) if speeds else None,
        numbers_of_gpus(gpus, GPUS_VARIABLE),
        named_cards(cards, CARDS_VARIABLE),
    )


def given_speeds(text: str, experiment: Experiment) -> dict[str, float]:
    """Read "4000" (of the first model of the config) or "llama-7b=4000,llama-13b=2200".

    Raises:
        UserError: neither, or a model that the config does not have.
    """
    first = next(iter(experiment.models))
    found = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            speed = float(number)
        except ValueError:
            speed = math.nan
        if not 0 < speed < math.inf:
            raise UserError(
                f'tokens per second "{text}": a number above 0 is expected, or model=number,...'
            )
        if (name or first) not in experiment.models:
            raise UserError(
                f'tokens per second: "{name}" is no model of the config; it has '
                f"{', '.join(experiment.models)}"
            )
        found[name or first] = speed
    return found


def numbers_of_gpus(text: str, where: str) -> Sequence[int]:
    """Return the numbers of GPUs that a text lists, as in "1,4,16"; none of an empty text.

    Raises:
        UserError: it lists something else; names it and `where` it stands.
    """
    parts = text.split(",") if text else []
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise UserError(
            f'{where} "{text}": a whole number from 1 on is expected, or several, as in 1,4,16'
        )
    return [int(part) for part in parts]


def named_cards(text: str, where: str) -> Sequence[Card]:
    """Return the cards that a text lists, as in "h100,a100"; none of an empty text.

    Raises:
        UserError: it lists something else; names it and `where` it stands.
    """
    names = [name.strip().lower() for name in text.split(",")] if text else []
    for name in names:
        if name not in CARDS:
            raise UserError(f'{where}: "{name}" is none of {", ".join(CARDS)}')
    return [CARDS[name] for name in names]
