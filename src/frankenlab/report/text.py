"""How the page and the figures write numbers, intervals, units and lists."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

INTERVAL = "95 % interval"
# Longer names of units, and what a unit means where its name does not say it.
UNIT_NAMES = {"points": "percentage points"}
UNIT_MEANINGS = {
    "log-percent": "log-percent: 100·Δ ln perplexity, sign turned so that above 0 is better"
}


def signed(value: float, digits: int = 1) -> str:
    """Return a number with its sign and a true minus: "+1.2", "−0.8", "0.0"."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def interval(row: Mapping[str, Any] | pd.Series, kind: str = "", unit: str = "") -> str:
    """Return an effect with the limits of its interval: "+1.2 [−0.8, +3.1]".

    `kind` names another effect than the row's own: "shift", "interaction", "read" or "memory",
    whose limits are "<kind>_low" and "<kind>_high". A unit stands before the limits.
    """
    prefix = f"{kind}_" if kind else ""
    effect = signed(row[kind if kind in row else f"{prefix}effect"])
    low, high = signed(row[f"{prefix}low"]), signed(row[f"{prefix}high"])
    return f"{effect} {unit} [{low}, {high}]" if unit else f"{effect} [{low}, {high}]"


def metric_value(value: float, kind: str) -> str:
    """Return a metric's value with the digits that its kind deserves."""
    return f"{value:.2f}" if kind == "perplexity" else f"{value:.3f}"


def number(value: Any, form: str = ",.0f") -> str:
    """Return a number in a format, or a dash where there is none."""
    return "–" if pd.isna(value) else f"{value:{form}}"


def p_value(value: float) -> str:
    """Return a p-value with three digits."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: "1 comparison", "3 comparisons"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def listed(parts: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def shorten(text: str, length: int = 30) -> str:
    """Return the text, or its beginning and an ellipsis when it is longer than `length`."""
    return text if len(text) <= length else text[: length - 1] + "…"


def unit_name(unit: str) -> str:
    """Return the long name of a unit of effects."""
    return UNIT_NAMES.get(unit, unit)
