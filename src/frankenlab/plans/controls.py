"""Random plans of the same cost as a plan: what its cost buys without a search."""

import random
from collections import Counter
from dataclasses import replace

from frankenlab.plans.plan import BASE, Change, Plan, base, from_steps


def equal_cost_controls(plan: Plan, count: int, seed: int) -> list[Plan]:
    """Return up to `count` random plans that run as many layers as `plan` does.

    They make the plan's own change at other places: a block that repeats gives blocks of the same
    length and repetition, layers left out as many left out elsewhere, a swap other swaps. A plan
    that changes more than one range and has too few other places gets single blocks that run
    twice, or a part of them, with as many extra layers; or where it runs fewer layers than its
    base, single blocks that are left out. One that runs as many, in an order that has no other
    place, has none: its base costs the same.
    """
    if plan.text == BASE:
        return []
    start, stop, steps = plan.edit
    layers = [step.layer for step in steps]
    first, last = min([start, *layers]), max([stop, *(layer + 1 for layer in layers)])
    shifts = [by for by in range(-first, plan.n_layers - last + 1) if by]
    draw = random.Random(seed)
    length, part, scale = _added(plan)
    times = 2
    if length < 0:
        length, part, times = *_left_out(plan), 0
    one = plan.change or plan.window
    # Without all layers, nothing would run.
    most = plan.n_layers - (times == 0)
    if len(shifts) < count and not one and 1 <= length <= most:
        starts = range(plan.n_layers - length + 1)
        return [
            Change(first, first + length, times, part, scale).plan(plan.n_layers)
            for first in draw.sample(starts, min(count, len(starts)))
        ]
    return [_shifted(plan, by) for by in draw.sample(shifts, min(count, len(shifts)))]


def _added(plan: Plan) -> tuple[int, str, float]:
    """Return how many steps a plan adds to its base, their part and scale; or the whole layers that
    it is deeper, where it adds several kinds, damps windows or leaves something out."""
    own, whole = Counter(plan.steps), Counter(base(plan.n_layers).steps)
    added = own - whole
    kinds = {(step.part, step.scale) for step in added}
    windows = any(step.span > 1 for step in added)
    if len(kinds) == 1 and not windows and not whole - own:
        return (added.total(), *kinds.pop())
    return round(plan.depth) - plan.n_layers, "block", 1.0


def _left_out(plan: Plan) -> tuple[int, str]:
    """Return of how many layers a plan that is less deep than its base leaves out a part, and which
    part; 0 where no number of layers, or of one part of them, costs as much."""
    whole = base(plan.n_layers)
    lacking = Counter(part for step in whole.steps for part in step.parts)
    lacking.subtract(Counter(part for step in plan.steps for part in step.parts))
    attention, mlp = lacking["attn"], lacking["mlp"]
    if attention == mlp:
        return attention, "block"
    return (attention, "attn") if not mlp else (0 if attention else mlp, "mlp")


def _shifted(plan: Plan, by: int) -> Plan:
    """Return the plan whose change to the base is made `by` layers further back."""
    whole = base(plan.n_layers).steps
    start, stop, steps = plan.edit
    moved = [replace(step, layer=step.layer + by) for step in steps]
    return from_steps([*whole[: start + by], *moved, *whole[stop + by :]], plan.n_layers)
