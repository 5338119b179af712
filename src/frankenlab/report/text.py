"""How the page and the figures write numbers, intervals, units, plans and lists."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pandas as pd

from frankenlab.plans.plan import parse
from frankenlab.plans.words import words

INTERVAL = "95 % interval"
# Longer names of units, and what a unit means where its name does not say it.
PART_WORDS = {"block": "whole layer", "attn": "attention", "mlp": "MLP"}
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


def share(value: float) -> str:
    """Return a share in percent: "62 %"."""
    return f"{100 * value:.0f} %"


def spoken_p(value: float) -> str:
    """Return "p = 0.31" or "p < 0.001"."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def p_value(value: float) -> str:
    """Return a p-value with three digits."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: "1 comparison", "3 comparisons"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return f" {last} ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def shorten(text: str, length: int = 30) -> str:
    """Return the text, or its beginning and an ellipsis when it is longer than `length`."""
    return text if len(text) <= length else text[: length - 1] + "…"


def unit_name(unit: str) -> str:
    """Return the long name of a unit of effects."""
    return UNIT_NAMES.get(unit, unit)


@cache
def plan_words(text: str, n_layers: int) -> str:
    """Return what a plan does, in words: "layer 23 twice" for `0:24,23:30`."""
    return words(parse(text, n_layers))


def layers_of(row: Mapping[str, Any] | pd.Series) -> int:
    """Return how many layers a row's model has, from its plan's depth."""
    return round(row["depth"] / row["relative_depth"])


def quantization_name(quantization: str) -> str:
    """Return "unquantized" for "none"; other names say what they are."""
    return "unquantized" if quantization == "none" else quantization


def quantization_words(quantization: str) -> str:
    """Return where something holds: "unquantized" or "at exl2-4.0"."""
    return "unquantized" if quantization == "none" else f"at {quantization}"


def metric_name(metric: str) -> str:
    """Return a metric in words: "accuracy", "perplexity", or its name."""
    if "perplexity" in metric:
        return "perplexity"
    names = {"acc": "accuracy", "acc_norm": "normalized accuracy", "bits_per_byte": "bits per byte"}
    return names.get(metric, metric)


def spoken_value(value: float, kind: str) -> str:
    """Return a metric's value as one would say it: "58.7 %" or "75.6"."""
    if kind == "perplexity":
        return f"{value:,.1f}" if value >= 10 else f"{value:.2f}"
    return f"{100 * value:.1f} %" if 0 <= value <= 1 else f"{value:.2f}"


def percent(ratio: float) -> str:
    """Return a ratio as a change with its sign: "+30 %" for 1.3; a small one has a decimal."""
    change = 100 * (ratio - 1)
    return f"{signed(change, 0 if abs(change) >= 9.5 else 1)} %"


def spoken_change(row: Mapping[str, Any] | pd.Series) -> str:
    """Return the size of a row's change: "+10.0 points", or "+30 %" of a perplexity."""
    if row["kind"] == "perplexity":
        return percent(row["value"] / row["base_value"])
    return f"{signed(row['effect'])} {row['unit']}"


def effect_words(effect: float, unit: str) -> str:
    """Return an effect as one would say it: "+10.0 points" or "+30 % in perplexity".

    An effect in log-percent is better above 0, and the perplexity itself below.
    """
    if unit == "log-percent":
        return f"{percent(math.exp(-effect / 100))} in perplexity"
    return f"{signed(effect)} {unit}".strip()


def change_text(effect: float, low: float, high: float, unit: str) -> str:
    """Return an effect with its limits: "+10.0 points [0.0, +19.9]" or "+30 % [+21 %, +46 %]"."""
    if unit == "log-percent":
        effect, low, high = (math.exp(-value / 100) for value in (effect, high, low))
        return f"{percent(effect)} [{percent(low)}, {percent(high)}]"
    named = f"{signed(effect)} {unit}".strip()
    return f"{named} [{signed(low)}, {signed(high)}]"


def cosine_text(value: float) -> str:
    """Return a cosine with a true minus: "0.98" or "−0.20"."""
    return f"{value:.2f}".replace("-", "−")


def correlation_text(row: Mapping[str, Any] | pd.Series) -> str:
    """Return a row's correlation with its limits: "+0.42 [+0.10, +0.66]"."""
    value, low, high = (signed(row[name], 2) for name in ("correlation", "low", "high"))
    return f"{value} [{low}, {high}]"


def size_words(size: float, unit: str) -> str:
    """Return a size of change without a sign: "4.6 points", "12 points", "4 % in perplexity"."""
    if unit == "log-percent":
        return f"{100 * math.expm1(size / 100):.0f} % in perplexity"
    return f"{size:.0f} {unit}" if size >= 9.5 else f"{round(size, 1):g} {unit}"


def rst(text: str) -> str:
    """Return the text with all that reStructuredText would read as markup escaped."""
    return re.sub(r"([\\*`_|<>])", r"\\\1", text)


def repeated(places: str, part: str, scale: float, in_place: bool) -> str:
    """Return what of some places runs again: "the attention of 3 layers (scaled by 0.5)"."""
    of = {"attn": "the attention of ", "mlp": "the MLP of "}.get(part, "")
    how = [f"scaled by {scale:g}" if scale != 1 else "", "in place" if in_place else ""]
    said = ", ".join(filter(None, how))
    return f"{of}{places} ({said})" if said else f"{of}{places}"


def have(count: int) -> str:
    """Return "none has", "1 has" or "3 have"."""
    return f"{count or 'none'} {'has' if count < 2 else 'have'}"


def parameters_text(count: float) -> str:
    """Return a number of parameters: "135 M", "1.5 B"."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 999.9 M is 1 B.
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.0f}"


def guard_name(guard: str, guards: int) -> str:
    """Return a guard task's name, or of how many tasks a row is the mean."""
    return guard if guards == 1 else f"the mean of {guards} guard tasks"
