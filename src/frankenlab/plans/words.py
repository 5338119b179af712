"""A plan in words: "layer 23 twice" beside its text `0:24,23:30`."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby

from frankenlab.plans.plan import BASE, Plan

_TIMES = {1: "once", 2: "twice"}
_NUMBERS = ("three", "four", "five", "six", "seven", "eight", "nine", "ten")
_PARTS = {"attn": "the attention of ", "mlp": "the MLP of "}
# More groups of layers than this are counted and not listed.
_MOST_GROUPS = 3


def words(plan: Plan) -> str:
    """Return what a plan does to its base, in words.

    Layers are counted from 0 and ranges include both ends: `0:20,10:30` is "layers 10–19 twice".
    """
    if plan.text == BASE:
        return "the unmodified model"
    if plan.loop:
        start, stop, times = plan.loop
        return f"{_layers(range(start, stop))} {_times(times)}"
    if plan.window:
        start, stop, times, beta = plan.window
        passes = "each pass " if times > 1 else ""
        return f"{_layers(range(start, stop))} {_times(times)}, {passes}damped by {beta:.3g}"
    said = [*_repeats(plan), *_omitted(plan)]
    if not said:
        in_order = [step.layer for step in plan.steps] == list(range(plan.n_layers))
        said = ["each layer once" if in_order else f"{len(plan.steps)} layers in another order"]
    return ", ".join(said) + _scales(plan) + _windows(plan)


def layer_counts(plan: Plan) -> list[float]:
    """Return how often each layer of the model runs; an attention or an MLP alone is one half."""
    counts = [0.0] * plan.n_layers
    for step in plan.steps:
        counts[step.layer] += step.depth
    return counts


def _repeats(plan: Plan) -> list[str]:
    """Return a phrase for each number of times that layers, or parts of them, run."""
    parts = _part_counts(plan)
    groups: dict[tuple[int, str], list[int]] = defaultdict(list)
    for layer in range(plan.n_layers):
        attention, mlp = parts["attn"][layer], parts["mlp"][layer]
        if attention == mlp and attention > 1:
            groups[attention, ""].append(layer)
        elif attention != mlp:
            for part, count in (("attn", attention), ("mlp", mlp)):
                if count > 1:
                    groups[count, part].append(layer)
    found = [
        f"{'each of ' if _in_place(plan, layers, part) else ''}{_PARTS.get(part, '')}"
        f"{_layers(layers)} {_times(times)}"
        for (times, part), layers in groups.items()
        if layers
    ]
    if len(found) > _MOST_GROUPS:
        repeated = {layer for layers in groups.values() for layer in layers}
        return [f"{len(repeated)} layers twice or more"]
    return found


def _omitted(plan: Plan) -> list[str]:
    """Return a phrase for the layers, or parts of layers, that never run."""
    parts = _part_counts(plan)
    never = {
        part: {layer for layer in range(plan.n_layers) if not counts[layer]}
        for part, counts in parts.items()
    }
    both = never["attn"] & never["mlp"]
    found = [f"without {_layers(sorted(both))}"] if both else []
    for part, layers in never.items():
        if layers - both:
            found.append(f"without {_PARTS[part]}{_layers(sorted(layers - both))}")
    return found


def _scales(plan: Plan) -> str:
    scales = sorted({step.scale for step in plan.steps if step.scale != 1.0 and step.span == 1})
    if not scales:
        return ""
    if len(scales) == 1:
        return f", with updates scaled by {scales[0]:g} where it repeats"
    return ", with scaled updates"


def _windows(plan: Plan) -> str:
    scales = {step.scale for step in plan.steps if step.span > 1}
    if not scales:
        return ""
    if len(scales) == 1:
        return f", with windows damped by {scales.pop():.3g}"
    return ", with damped windows"


def _part_counts(plan: Plan) -> dict[str, Counter[int]]:
    counts: dict[str, Counter[int]] = {"attn": Counter(), "mlp": Counter()}
    for step in plan.steps:
        for part in step.parts:
            counts[part][step.layer] += 1
    return counts


def _in_place(plan: Plan, layers: Sequence[int], part: str) -> bool:
    """Tell whether each of several layers repeats in a row, before the next one runs."""
    wanted = {layer: index for index, layer in enumerate(layers)}
    order = [s.layer for s in plan.steps if s.layer in wanted and (not part or part in s.parts)]
    return len(layers) > 1 and order == sorted(order)


def _layers(layers: Iterable[int]) -> str:
    """Return "layer 4", "layers 4–7" or "layers 2, 4–7 and 9"."""
    numbers = list(layers)
    runs = []
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}")
    listed = " and ".join(filter(None, [", ".join(runs[:-1]), runs[-1]]))
    return f"layer{'s' * (len(numbers) > 1)} {listed}"


def _times(count: int) -> str:
    if count in _TIMES:
        return _TIMES[count]
    return f"{_NUMBERS[count - 3] if count - 3 < len(_NUMBERS) else f'{count:,}'} times"
