"""Many plans over batches of documents -> rows, in which no step and no token is computed twice.

The trees of the documents, by name, are grouped into batches (`batches`). One batch is run by all
plans at once (`score_documents`): plans form a trie of steps, and the walk over it (`sweep`) is
depth first, so that memory is one hidden state a level. A plan's last step and the head run only
where a target is scored. The result is a row for each plan and document.

A GPU works through what it is asked for while the host goes on: it asks for the next plans, makes
the next batch, sums and stores rows. So results are handed out as `Pending`, and `arrived` yields
them when they are there. On a CPU they are at once.

Everything that decides which log-probabilities a row is the sum of is here or imported here: the
store's identity has the fingerprint of it. When something is scored, and where its rows are kept,
is decided in `runner`, which knows documents by their names.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

import torch

from frankenlab.engines.batches import MAKERS, Batch
from frankenlab.engines.devices import hardware_name
from frankenlab.engines.packing import group_evenly, group_to_pack
from frankenlab.engines.protocol import Engine, walk
from frankenlab.engines.token_tree import TokenTree, shared_prefix
from frankenlab.engines.transfers import Arrival
from frankenlab.io.errors import UserError
from frankenlab.plans.plan import Plan
from frankenlab.plans.steps import Step
from frankenlab.plans.trie import Node, plan_trie

# Results that are on their way from a GPU at a time, at most.
MOST_PENDING = 32

K = TypeVar("K")
T = TypeVar("T")
U = TypeVar("U")


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


@dataclass(frozen=True)
class Pending(Generic[T]):
    """A result that may still be on its way from the device.

    Attributes:
        collect: makes the result of what has arrived; it must have.
        arrival: what is on its way; None for a result that needs nothing of a device.
    """

    collect: Callable[[], T]
    arrival: Arrival | None = None

    def then(self, make: Callable[[T], U]) -> "Pending[U]":
        """Return what `make` makes of the result, when it is there."""
        return Pending(lambda: make(self.collect()), self.arrival)

    def is_here(self) -> bool:
        """Tell whether `collect` can be called, without waiting."""
        return self.arrival is None or self.arrival.is_here()

    def wait(self) -> None:
        """Wait until `collect` can be called."""
        if self.arrival is not None:
            self.arrival.wait()


def arrived(results: Iterable[tuple[K, Pending[T]]]) -> Iterator[tuple[K, T]]:
    """Yield the results in their order, each when it is there, while the next are on their way.

    If making a result fails, those before it are yielded first, and after a signal those of them
    that are there.

    Raises:
        UserError: a result cannot be collected; nothing after it is yielded.
    """
    waiting: deque[tuple[K, Pending[T]]] = deque()
    try:
        for result in results:
            waiting.append(result)
            while waiting and (waiting[0][1].is_here() or len(waiting) > MOST_PENDING):
                yield _oldest(waiting)
        while waiting:
            yield _oldest(waiting)
    except GeneratorExit:
        raise
    except BaseException as error:
        while waiting and (isinstance(error, Exception) or waiting[0][1].is_here()):
            yield _oldest(waiting)
        raise


def _oldest(waiting: deque[tuple[K, Pending[T]]]) -> tuple[K, T]:
    """Take the first result from the queue, which is emptied if the result is an error."""
    # A signal may end the waiting; then the result is still in the queue.
    waiting[0][1].wait()
    key, pending = waiting.popleft()
    try:
        return key, pending.collect()
    except UserError:
        waiting.clear()
        raise


def batches(
    engine: Engine, trees: Mapping[str, TokenTree], token_budget: int
) -> Iterator[list[str]]:
    """Yield the names of the documents of one batch after the other."""
    names = list(trees)
    shared = shared_prefix(list(trees.values()))
    lengths = [len(tree) - shared for tree in trees.values()]
    group = group_to_pack if engine.layout == "rows" else group_evenly
    for indices in group(lengths, token_budget):
        yield [names[i] for i in indices]


def score_documents(
    engine: Engine, plans: Sequence[Plan], trees: Mapping[str, TokenTree]
) -> Iterator[tuple[Plan, Pending[list[Row]]]]:
    """Score one batch of documents, given by their trees.

    Yields:
        A plan and its rows, plan after plan. Collecting them raises as `sweep` says.
    """
    hardware = hardware_name(engine.device)
    # A text without any token has nothing to run: its sum is empty, as in lm-eval.
    empty = {n: [RequestScore(0.0, True) for _ in t.requests] for n, t in trees.items() if not t}
    names = [name for name in trees if name not in empty]

    def rows(plan: Plan, scores: list[list[RequestScore]]) -> list[Row]:
        found = empty | dict(zip(names, scores, strict=True))
        return [_row(plan, name, found[name], hardware) for name in trees]

    if not names:
        yield from ((plan, Pending(partial(rows, plan, []))) for plan in plans)
        return
    batch = MAKERS[engine.layout]([trees[name] for name in names], range(len(names)))
    for plan, scores in sweep(engine, plan_trie(plans), batch):
        yield plan, scores.then(partial(rows, plan))


@torch.inference_mode()
def sweep(
    engine: Engine, trie: Node, batch: Batch
) -> Iterator[tuple[Plan, Pending[list[list[RequestScore]]]]]:
    """Score every plan of the trie on the batch, in the order of the walk.

    Yields:
        The plan, and for each document of the batch the score of each of its requests. Collecting
        them raises a UserError that names the plan and the step if a logit is NaN or infinite.
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
            arrival = Arrival(*engine.score(last, device_batch))
            scores = partial(_request_scores, engine, node.plan, batch, device_batch, arrival)
            yield node.plan, Pending(scores, arrival)
        if node.children and step is not None:
            hidden = engine.run(step, states[-1], device_batch, states[-step.span])
            states = (*states, hidden)[-node.reach :]
            del hidden
        pending += [(child, s, states) for s, child in reversed(node.children.items())]
        del states


def _request_scores(
    engine: Engine, plan: Plan, batch: Batch, device_batch: Any, arrival: Arrival
) -> list[list[RequestScore]]:
    logprobs, greedy = arrival.tensors
    if not bool(torch.isfinite(logprobs).all()):
        raise _not_finite(engine, plan, device_batch)
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


@torch.inference_mode()
def _not_finite(engine: Engine, plan: Plan, device_batch: Any) -> UserError:
    """Walk the plan again, to name the first step whose output is not finite."""
    where = "the head"
    states = islice(walk(engine, plan.steps, device_batch), 1, None)
    try:
        for number, (step, hidden) in enumerate(zip(plan.steps, states, strict=True)):
            if not bool(torch.isfinite(hidden).all()):
                where = f"step {number + 1} of {len(plan.steps)}, layer {step.layer} ({step.part})"
                break
    except torch.OutOfMemoryError:
        # The sweep has its own states in memory, too.
        where = "a step that there is no memory to look for"
    return UserError(
        f'plan "{plan}": NaN or infinite values after {where}; '
        "no score is recorded (float32 has a wider range than float16)"
    )
