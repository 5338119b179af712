"""Many plans over batches of documents -> rows, in which no step and no token is computed twice.

The trees of the documents, by name, are grouped into batches (`batches`). One batch is run by all
plans at once (`score_documents`): plans form a trie of steps, and the walk over it (`sweep`) is
depth first, so that memory is one hidden state a level. A plan's last step and the head run only
where a target is scored. The result is a row for each plan and document.

Everything that decides which log-probabilities a row is the sum of is here or imported here: the
store's identity has the fingerprint of it. When something is scored, and where its rows are kept,
is decided in `runner`, which knows documents by their names.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from frankenlab.engines.batches import Batch, make_batch, make_causal_batch
from frankenlab.engines.devices import hardware_name
from frankenlab.engines.packing import group_by_length, group_to_pack
from frankenlab.engines.protocol import Engine, walk
from frankenlab.engines.token_tree import TokenTree, causal_length, shared_prefix
from frankenlab.io.errors import UserError
from frankenlab.plans.plan import Plan
from frankenlab.plans.steps import Step
from frankenlab.plans.trie import Node, plan_trie


@dataclass(frozen=True, slots=True)
class RequestScore:
    """Sum of the continuation's log-probabilities, and whether greedy decoding gives it."""

    loglikelihood: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class Row:
    """Scores of one plan on one document's requests: what is computed and stored as one.

    Attributes:
        plan: the plan's canonical text.
        requests: hash of the document's requests.
        loglikelihoods: one for each request.
        is_greedy: for each request, whether greedy decoding gives the continuation.
        hardware: name of the processor or GPU that computed the row.
    """

    plan: str
    requests: str
    loglikelihoods: tuple[float, ...]
    is_greedy: tuple[bool, ...]
    hardware: str


def batches(
    engine: Engine, trees: Mapping[str, TokenTree], token_budget: int
) -> Iterator[list[str]]:
    """Yield the names of the documents of one batch after the other."""
    names = list(trees)
    if engine.token_trees:
        shared = shared_prefix(list(trees.values()))
        lengths = [len(tree) - shared for tree in trees.values()]
        groups = group_to_pack(lengths, token_budget)
    else:
        lengths = [causal_length(tree) for tree in trees.values()]
        groups = group_by_length(lengths, token_budget)
    for group in groups:
        yield [names[i] for i in group]


def score_documents(
    engine: Engine, plans: Sequence[Plan], trees: Mapping[str, TokenTree]
) -> Iterator[tuple[Plan, list[Row]]]:
    """Score one batch of documents, given by their trees.

    Yields:
        A plan and its rows, plan after plan.

    Raises:
        UserError: as `sweep`.
    """
    hardware = hardware_name(engine.device)
    # A text without any token has nothing to run: its sum is empty, as in lm-eval.
    empty = {n: [RequestScore(0.0, True) for _ in t.requests] for n, t in trees.items() if not t}
    names = [name for name in trees if name not in empty]
    swept: Iterable[tuple[Plan, list[list[RequestScore]]]] = ((plan, []) for plan in plans)
    if names:
        make = make_batch if engine.token_trees else make_causal_batch
        batch = make([trees[name] for name in names], range(len(names)))
        swept = sweep(engine, plan_trie(plans), batch)
    for plan, scores in swept:
        found = empty | dict(zip(names, scores, strict=True))
        yield plan, [_row(plan, name, found[name], hardware) for name in trees]


@torch.inference_mode()
def sweep(
    engine: Engine, trie: Node, batch: Batch
) -> Iterator[tuple[Plan, list[list[RequestScore]]]]:
    """Score every plan of the trie on the batch, in the order of the walk.

    Yields:
        The plan, and for each document of the batch the score of each of its requests.

    Raises:
        UserError: a logit is NaN or infinite; names the plan and the step that made it.
    """
    device_batch = engine.place(batch)
    # (node, its step, the last hidden states before it). Children are pushed with their parent's
    # states and run when popped, so a state dies with the last child that needs it.
    pending: list[tuple[Node, Step | None, tuple[torch.Tensor, ...]]] = [
        (trie, None, (engine.embed(device_batch),))
    ]
    while pending:
        node, step, states = pending.pop()
        if node.plan is not None:
            assert step is not None, "a plan has a step"
            # Also where other plans go on from here: a score must not depend on which.
            last = engine.finish(step, states[-1], device_batch, states[-step.span])
            logprobs, greedy = engine.score(last, device_batch)
            if not bool(torch.isfinite(logprobs).all()):
                raise _not_finite(engine, node.plan, device_batch)
            yield node.plan, _request_scores(batch, logprobs, greedy)
        if node.children and step is not None:
            hidden = engine.run(step, states[-1], device_batch, states[-step.span])
            states = (*states, hidden)[-node.reach :]
            del hidden
        pending += [(child, s, states) for s, child in reversed(node.children.items())]
        del states


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


def _row(plan: Plan, requests: str, scores: Sequence[RequestScore], hardware: str) -> Row:
    return Row(
        plan.text,
        requests,
        tuple(score.loglikelihood for score in scores),
        tuple(score.is_greedy for score in scores),
        hardware,
    )


def _not_finite(engine: Engine, plan: Plan, device_batch: Any) -> UserError:
    """Walk the plan again, to name the first step whose output is not finite."""
    where = "the head"
    states = islice(walk(engine, plan.steps, device_batch), 1, None)
    for number, (step, hidden) in enumerate(zip(plan.steps, states, strict=True)):
        if not bool(torch.isfinite(hidden).all()):
            where = f"step {number + 1} of {len(plan.steps)}, layer {step.layer} ({step.part})"
            break
    return UserError(
        f'plan "{plan}": NaN or infinite values after {where}; '
        "no score is recorded (float32 has a wider range than float16)"
    )
