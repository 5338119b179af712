"""Designs that several models share: what the same line of a config means for each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frankenlab.plans.generators import Generator
from frankenlab.plans.plan import BASE, Plan

LINE, SINGLE = "line", "single"


@dataclass(frozen=True)
class Design:
    """The same design on several models.

    Attributes:
        kind: "line": all plans of a generator; "single": one plan of it on each model.
        label: what it is, as people read it.
        plans: model -> canonical texts.
    """

    kind: str
    label: str
    plans: Mapping[str, tuple[str, ...]]


def shared(
    generators: Mapping[str, Sequence[Generator]], depths: Mapping[str, int]
) -> list[Design]:
    """Return the designs that all models have: each generator that is in all of their grids, and
    each of its plans where it makes equally many for all models.

    It does where positions and lengths are shares of the depth, and for models of one depth. The
    first plan of one is then the first of the other.

    Args:
        generators: model -> those of its grid.
        depths: model -> its number of layers.
    """
    models = list(generators)
    first, *others = generators.values()
    lines = [line for line in dict.fromkeys(first) if all(line in other for other in others)]
    found: list[Design] = []
    for line in lines:
        made = {model: list(line.make(depths[model])) for model in models}
        whole = {model: _texts(plans) for model, plans in made.items()}
        if not all(whole.values()):
            continue
        name = _line(line)
        if all(len(texts) > 1 for texts in whole.values()):
            found.append(Design(LINE, f"the mean over {name}", whole))
        if len({len(plans) for plans in made.values()}) > 1:
            continue
        for number, same in enumerate(zip(*made.values(), strict=True), 1):
            plans = [plan for plan in same if plan is not None and plan.text != BASE]
            if len(plans) == len(models):
                texts = {model: (plan.text,) for model, plan in zip(models, plans, strict=True)}
                found.append(Design(SINGLE, _place(plans) or f"plan {number} of {name}", texts))
    unique = {tuple(design.plans.items()): design for design in reversed(found)}
    return [design for design in found if unique[tuple(design.plans.items())] is design]


def _texts(plans: Sequence[Plan | None]) -> tuple[str, ...]:
    texts = [plan.text for plan in plans if plan is not None]
    return tuple(text for text in dict.fromkeys(texts) if text != BASE)


def _line(generator: Generator) -> str:
    """Return a generator as its line in a config: "block (length 0.1, times 2, 3)"."""
    keys = generator.model_dump(mode="json", exclude_defaults=True, exclude={"generator"})
    said = ", ".join(f"{key} {_value(value)}" for key, value in keys.items())
    return f"{generator.generator} ({said})" if said else generator.generator


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _place(plans: Sequence[Plan]) -> str:
    """Return where in the depth the plans repeat what, on average; "" where they are no repeats of
    one range alike."""
    changes = [plan.change for plan in plans]
    known = [change for change in changes if change is not None]
    kinds = {change[2:] for change in known}
    if len(known) < len(plans) or len(kinds) > 1:
        return ""
    times, part, scale, in_place = kinds.pop()
    # Their shares of the depth, by whole layers, differ a little.
    depths = [plan.n_layers for plan in plans]
    low = sum(change.start / n for change, n in zip(known, depths, strict=True)) / len(plans)
    high = sum(change.stop / n for change, n in zip(known, depths, strict=True)) / len(plans)
    of = {"attn": "the attention from ", "mlp": "the MLPs from "}.get(part, "")
    how = [f"scaled by {scale:g}" if scale != 1 else "", "in place" if in_place else ""]
    said = f"{of}{100 * low:.0f} to {100 * high:.0f} % of the depth, {times} times"
    return ", ".join(filter(None, [said, *how]))
