"""A plan of one model on a model of another depth: the same places as shares of the depth.

Positions and lengths are rounded as the shares of a config are (see `numbers`): a range begins at
the layer that its share falls in, and has the nearest number of layers, at least one.
"""

from itertools import pairwise

from frankenlab.io.errors import UserError
from frankenlab.plans.numbers import lengths, positions
from frankenlab.plans.plan import Plan, base, changed


def transferred(plan: Plan, n_layers: int) -> Plan | None:
    """Return the plan of the same relative design on a model of `n_layers` layers.

    None where there is none: a plan that runs layers in another order than the base (reversed or
    swapped ones) has no ranges to be moved, and of many ranges two may fall on the same layers.
    """
    if n_layers == plan.n_layers:
        return plan
    if plan == base(plan.n_layers):
        return base(n_layers)
    try:
        return _moved(plan, n_layers)
    except UserError:  # it would run too many layers, or none
        return None


def _moved(plan: Plan, n_layers: int) -> Plan | None:
    if plan.window is not None:
        start, stop = _range(plan.window.start, plan.window.stop, plan.n_layers, n_layers)
        return plan.window._replace(start=start, stop=stop).plan(n_layers)
    changes = list(plan.changes or (() if plan.change is None else (plan.change,)))
    for place, change in enumerate(changes):
        start, stop = _range(change.start, change.stop, plan.n_layers, n_layers)
        changes[place] = change._replace(start=start, stop=stop)
    # Of ranges that touch, lengths that are rounded up may overlap by a layer.
    for place, (one, other) in enumerate(pairwise(changes)):
        changes[place] = one._replace(stop=min(one.stop, other.start))
    if not changes or any(change.start >= change.stop for change in changes):
        return None
    return changed(changes, n_layers)


def _range(start: int, stop: int, before: int, after: int) -> tuple[int, int]:
    """Return a range of layers at the same share of another depth."""
    first = positions(start / before, after)[0]
    length = lengths((stop - start) / before, after)[0]
    return first, min(first + length, after)
