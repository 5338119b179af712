"""Tell what kind of plan a plan is, for comparing kinds at their costs."""

from collections import Counter
from typing import Literal, get_args

from frankenlab.plans.plan import Plan
from frankenlab.plans.repeats import RandomBlocks, Spread

Kind = Literal["repeated", "damped", "random", "spread", "skipped", "reordered"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Kinds by how their layers were chosen, which the steps of a plan do not say.
_CHOSEN: dict[str, Kind] = {
    RandomBlocks.model_fields["generator"].default: "random",
    Spread.model_fields["generator"].default: "spread",
}


def kind_of(plan: Plan, group: str) -> Kind:
    """Return the kind of a plan other than the base.

    - "random" and "spread": what these generators made.
    - "damped": some updates, or windows of them, are scaled down.
    - "skipped": it runs fewer layers than the base.
    - "repeated": it runs layers, or parts of them, more than once, and none of the above.
    - "reordered": it runs each layer once, in another order.

    Args:
        group: the generator that made it.
    """
    if group in _CHOSEN:
        return _CHOSEN[group]
    if any(abs(step.scale) < 1 for step in plan.steps):
        return "damped"
    if plan.depth < plan.n_layers:
        return "skipped"
    runs = Counter((step.layer, part) for step in plan.steps for part in step.parts)
    return "repeated" if max(runs.values()) > 1 else "reordered"
