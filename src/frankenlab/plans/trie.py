"""The trie of the steps of many plans, and what its walk costs."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from frankenlab.plans.plan import Plan
from frankenlab.plans.steps import Step


@dataclass(slots=True)
class Node:
    """A prefix of steps.

    Attributes:
        plan: the plan that ends here, if one does.
        reach: how many of the last hidden states up to this one the steps below need: more than
            this one where a window that began earlier ends below.
    """

    children: dict[Step, "Node"] = field(default_factory=dict)
    plan: Plan | None = None
    reach: int = 1


def plan_trie(plans: Iterable[Plan]) -> Node:
    """Return the trie of the plans' steps; equal plans end at one node."""
    root = Node()
    for plan in plans:
        path = [root]
        for step in plan.steps:
            if step.span > 1:
                for reach, node in enumerate(path[-step.span :], start=1):
                    node.reach = max(node.reach, reach)
            path.append(path[-1].children.setdefault(step, Node()))
        path[-1].plan = plan
    return root


def layer_passes(node: Node) -> float:
    """Return how many layers a sweep over the trie runs; an `attn` or `mlp` step is half."""
    total, pending = 0.0, [node]
    while pending:
        current = pending.pop()
        pending += current.children.values()
        total += sum(step.depth for step in current.children)
    return total
