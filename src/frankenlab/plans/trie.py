"""The trie of the steps of many plans, and what its walk costs; imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from frankenlab.plans.plan import Plan, Step


@dataclass(slots=True)
class Node:
    """A prefix of steps: `plan` is set where a plan ends."""

    children: dict[Step, "Node"] = field(default_factory=dict)
    plan: Plan | None = None


def plan_trie(plans: Iterable[Plan]) -> Node:
    """The trie of the plans' steps; equal plans end at one node."""
    root = Node()
    for plan in plans:
        node = root
        for step in plan.steps:
            node = node.children.setdefault(step, Node())
        node.plan = plan
    return root


def layer_passes(node: Node) -> float:
    """Layer passes of a sweep with sharing, in whole layers (an `attn` or `mlp` step is half)."""
    total, pending = 0.0, [node]
    while pending:
        current = pending.pop()
        pending += current.children.values()
        total += sum(1.0 if step.part == "block" else 0.5 for step in current.children)
    return total
