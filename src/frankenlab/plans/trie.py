"""The trie of the steps of many plans, and what its walk costs."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from frankenlab.plans.plan import Plan
from frankenlab.plans.steps import Step


@dataclass(slots=True)
class Node:
    """A prefix of steps: `plan` is set where a plan ends."""

    children: dict[Step, "Node"] = field(default_factory=dict)
    plan: Plan | None = None


def plan_trie(plans: Iterable[Plan]) -> Node:
    """Return the trie of the plans' steps; equal plans end at one node."""
    root = Node()
    for plan in plans:
        node = root
        for step in plan.steps:
            node = node.children.setdefault(step, Node())
        node.plan = plan
    return root


def layer_passes(node: Node) -> float:
    """Return how many layers a sweep over the trie runs; an `attn` or `mlp` step is half."""
    total, pending = 0.0, [node]
    while pending:
        current = pending.pop()
        pending += current.children.values()
        total += sum(step.depth for step in current.children)
    return total
