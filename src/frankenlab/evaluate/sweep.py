"""Many plans over one batch: every common prefix of steps is computed once.

Plans form a trie of steps. The walk is depth first, so the memory is one hidden state a level. A
plan's last step runs where a target is scored, and only there.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from frankenlab.engines import Engine
from frankenlab.engines.batches import Batch
from frankenlab.io.errors import UserError
from frankenlab.plans.plan import Plan, Step
from frankenlab.plans.trie import Node


@dataclass(frozen=True, slots=True)
class RequestScore:
    """Sum of the continuation's log-probabilities, and whether greedy decoding gives it."""

    loglikelihood: float
    is_greedy: bool


def sweep(
    engine: Engine, trie: Node, batch: Batch
) -> Iterator[tuple[Plan, list[list[RequestScore]]]]:
    """Scores every plan of the trie on the batch, in the order of the walk.

    Yields:
        The plan, and for each document of the batch the score of each of its requests.

    Raises:
        UserError: a logit is NaN or infinite; names the plan and the step that made it.
    """
    with torch.inference_mode():
        placed = engine.place(batch)
        # (node, hidden state on entering it); children are pushed with their parent's state and
        # run when popped, so a state dies with its last child.
        pending: list[tuple[Node, Step | None, torch.Tensor]] = [(trie, None, engine.embed(placed))]
        while pending:
            node, step, hidden = pending.pop()
            if node.plan is not None:
                assert step is not None, "a plan has a step"
                # Also where other plans go on from here: a score must not depend on which.
                last = engine.finish(step, hidden, placed)
                logprobs, greedy = engine.score(last, placed)
                if not bool(torch.isfinite(logprobs).all()):
                    raise _not_finite(engine, node.plan, placed)
                yield node.plan, _request_scores(batch, logprobs, greedy)
            if node.children and step is not None:
                hidden = engine.run(step, hidden, placed)
            pending += [(child, s, hidden) for s, child in reversed(node.children.items())]
            del hidden


def _request_scores(
    batch: Batch, logprobs: torch.Tensor, greedy: torch.Tensor
) -> list[list[RequestScore]]:
    values, flags = logprobs.tolist(), greedy.tolist()
    return [
        [
            RequestScore(math.fsum(values[i] for i in indices), all(flags[i] for i in indices))
            for indices in document
        ]
        for document in batch.requests
    ]


def _not_finite(engine: Engine, plan: Plan, placed: Any) -> UserError:
    """Walks the plan again to name the first step whose output is not finite."""
    hidden = engine.embed(placed)
    where = "the head"
    for number, step in enumerate(plan.steps):
        hidden = engine.run(step, hidden, placed)
        if not bool(torch.isfinite(hidden).all()):
            where = f"step {number + 1} of {len(plan.steps)}, layer {step.layer} ({step.part})"
            break
    return UserError(
        f'plan "{plan}": NaN or infinite values after {where}; '
        "no score is recorded (float32 has a wider range than float16)"
    )
