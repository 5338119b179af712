"""New plans that are grown from good ones: variants with one part, and plans with one more block.

Both rest on `Plan.changes`, the ranges of layers that run more or less often than in the base. A
plan that is anything else (a window, a swap, layers in reverse order) has no children.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import chain, zip_longest
from typing import NamedTuple

from frankenlab.io.errors import UserError
from frankenlab.plans.plan import Change, Plan, changed, from_steps


class Child(NamedTuple):
    """A grown plan.

    Attributes:
        parent: the plan that it was grown from.
        other: the plan whose change it has besides, or None where it has a part of its parent's.
    """

    plan: Plan
    parent: Plan
    other: Plan | None = None


def grow(ranked: Sequence[Plan], known: Collection[Plan], width: int, most: int) -> list[Child]:
    """Return at most `most` new plans that are grown from the best `width` plans that can grow.

    The parents take turns, the best first. Each begins with its variants, in which one of its
    repeated blocks is repeated in its attention alone or in its MLP alone. Then it is joined with
    the single changes of other plans, the best first, as far as their layers do not overlap.

    Args:
        ranked: best first, without the base.
        known: plans that were looked at before, which are not made again.
    """
    singles = [plan for plan in ranked if len(_changes(plan)) == 1]
    turns = []
    for parent in [plan for plan in ranked if _changes(plan)][:width]:
        turns.append(chain(_variants(parent), _joined(parent, singles)))
    seen = set(known)
    found: list[Child] = []
    for turn in zip_longest(*turns):
        for child in filter(None, turn):
            if len(found) < most and child.plan not in seen:
                seen.add(child.plan)
                found.append(child)
    return found


def _changes(plan: Plan) -> tuple[Change, ...]:
    """Return the changes that make a plan from its base; none where it is more than these."""
    return (plan.change,) if plan.change else plan.changes or ()


def _variants(parent: Plan) -> Iterator[Child]:
    changes = _changes(parent)
    for place, change in enumerate(changes):
        for part in ("attn", "mlp") if change.part == "block" else ():
            one = change._replace(part=part)
            yield from _children([*changes[:place], one, *changes[place + 1 :]], parent)


def _joined(parent: Plan, singles: Sequence[Plan]) -> Iterator[Child]:
    own = _changes(parent)
    for other in singles:
        (more,) = _changes(other)
        if all(more.stop <= one.start or one.stop <= more.start for one in own):
            yield from _children([*own, more], parent, other)


def _children(
    changes: Sequence[Change], parent: Plan, other: Plan | None = None
) -> Iterator[Child]:
    # A sequence that runs too many layers, or none, is not a plan.
    with suppress(UserError):
        plan = from_steps(changed(changes, parent.n_layers).steps, parent.n_layers)
        yield Child(plan, parent, other)
