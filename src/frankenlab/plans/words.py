"""A plan in words: "layer 23 twice" beside its text `0:24,23:30`."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby

from frankenlab.plans.plan import BASE, Change, Plan

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
    if plan.window:
        start, stop, times, beta = plan.window
        passes = "each pass " if times > 1 else ""
        return f"{_layers(range(start, stop))} {_times(times)}, {passes}damped by {beta:.3g}"
    repeats = _repeats(plan) if plan.changes is None else _ranges(plan.changes)
    said = [*([_listed(repeats)] if repeats else []), *_omitted(plan)] or [_order(plan)]
    return ", ".join(said) + _scales(plan) + _windows(plan)


def layer_counts(plan: Plan) -> list[float]:
    """Return how often each layer of the model runs; an attention or an MLP alone is one half."""
    counts = [0.0] * plan.n_layers
    for step in plan.steps:
        counts[step.layer] += step.depth
    return counts


def _ranges(changes: Sequence[Change]) -> list[str]:
    """Return a phrase for each number of times that ranges of layers, or parts of them, run."""
    groups: dict[tuple[int, str], list[Change]] = defaultdict(list)
    for change in changes:
        if change.times > 1:
            groups[change.times, change.part].append(change)
    if len(groups) > _MOST_GROUPS:
        return [_many(layer for change in changes for layer in range(*change[:2]) if change.times)]
    found = []
    for (times, part), members in groups.items():
        layers = [layer for change in members for layer in range(*change[:2])]
        if len(layers) == len(members):
            named = _each(layers)
        else:
            runs = [_runs(range(*change[:2])) for change in members]
            named = f"layers {_listed(runs)}"
        found.append(f"{_PARTS.get(part, '')}{named} {_times(times)}")
    return found


def _repeats(plan: Plan) -> list[str]:
    """Return a phrase for each number of times that layers, or parts of them, run, in a plan that
    does more than to run ranges of them again."""
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
        f"{_PARTS.get(part, '')}"
        f"{_each(layers) if _in_place(plan, layers, part) else _layers(layers)} {_times(times)}"
        f"{' before its MLP' if part == 'attn' and _before_mlp(plan, layers) else ''}"
        for (times, part), layers in groups.items()
        if layers
    ]
    if len(found) > _MOST_GROUPS:
        return [_many(layer for layers in groups.values() for layer in layers)]
    return found


def _many(layers: Iterable[int]) -> str:
    return f"{len(set(layers))} layers twice or more"


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


def _order(plan: Plan) -> str:
    """Return a phrase for the order of layers that each run once."""
    start, stop, steps = plan.edit
    layers, whole = [step.layer for step in steps], list(range(start, stop))
    if layers == whole:
        return "each layer once"
    if any(step.part != "block" for step in steps) or sorted(layers) != whole:
        return f"{len(plan.steps)} steps in another order"
    first = stop - layers[0]
    if layers == whole[-first:] + whole[:-first]:
        runs = [_runs(range(start, stop - first)), _runs(range(stop - first, stop))]
        return f"layers {_listed(runs)} swapped"
    if layers == whole[::-1]:
        return f"{_layers(whole)} in reverse order"
    return f"{_layers(whole)} in another order"


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
    return order == sorted(order)


def _before_mlp(plan: Plan, layers: Sequence[int]) -> bool:
    """Tell whether each layer's attention has run as often as it does before its MLP runs."""
    order = [(step.layer, part) for step in plan.steps for part in step.parts]
    return all(
        (layer, "mlp") in order and (layer, "attn") not in order[order.index((layer, "mlp")) :]
        for layer in layers
    )


def _each(layers: Sequence[int]) -> str:
    return f"{'each of ' if len(layers) > 1 else ''}{_layers(layers)}"


def _layers(layers: Iterable[int]) -> str:
    """Return "layer 4", "layers 4–7" or "layers 2, 4–7 and 9"."""
    numbers = list(layers)
    return f"layer{'s' * (len(numbers) > 1)} {_runs(numbers)}"


def _runs(layers: Iterable[int]) -> str:
    """Return "4", "4–7" or "2, 4–7 and 9"."""
    runs = []
    for _, group in groupby(enumerate(layers), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}")
    return _listed(runs)


def _listed(words: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _times(count: int) -> str:
    if count in _TIMES:
        return _TIMES[count]
    return f"{_NUMBERS[count - 3] if count - 3 < len(_NUMBERS) else f'{count:,}'} times"
