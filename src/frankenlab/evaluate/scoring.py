"""Documents -> rows: everything that decides which log-probabilities a stored row is the sum of.

The store's identity has the fingerprint of this module with all that it reaches. What only decides
when something is scored, and where it is kept, is in `evaluation`, which knows documents by names.
"""

from collections.abc import Iterator, Mapping, Sequence

from frankenlab.engines import Engine
from frankenlab.engines.batches import (
    TokenTree,
    causal_length,
    group_by_length,
    group_to_pack,
    make_batch,
    make_causal_batch,
    shared_prefix,
)
from frankenlab.engines.devices import hardware_name
from frankenlab.evaluate.rows import Row
from frankenlab.evaluate.sweep import RequestScore, sweep
from frankenlab.plans.plan import Plan
from frankenlab.plans.trie import plan_trie


def batches(
    engine: Engine, trees: Mapping[str, TokenTree], token_budget: int
) -> Iterator[list[str]]:
    """Yields the names of the documents of one batch after the other."""
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
    """Scores one batch of documents, given by their trees.

    Yields:
        A plan and its rows, plan after plan.

    Raises:
        UserError: as `sweep`.
    """
    hardware = hardware_name(engine.device)
    # A text without any token has nothing to run: its sum is empty, as in lm-eval.
    without = {n: [RequestScore(0.0, True) for _ in t.requests] for n, t in trees.items() if not t}
    names = [name for name in trees if name not in without]
    for plan, scores in _swept(engine, plans, [trees[name] for name in names]):
        found = without | dict(zip(names, scores, strict=True))
        yield plan, [_row(plan, name, found[name], hardware) for name in trees]


def _swept(
    engine: Engine, plans: Sequence[Plan], trees: Sequence[TokenTree]
) -> Iterator[tuple[Plan, list[list[RequestScore]]]]:
    """Yields every plan's scores of the requests of each tree, from one batch of them."""
    if not trees:
        yield from ((plan, []) for plan in plans)
        return
    make = make_batch if engine.token_trees else make_causal_batch
    yield from sweep(engine, plan_trie(plans), make(trees, range(len(trees))))


def _row(plan: Plan, requests: str, scores: Sequence[RequestScore], hardware: str) -> Row:
    return Row(
        plan.text,
        requests,
        tuple(score.loglikelihood for score in scores),
        tuple(score.is_greedy for score in scores),
        hardware,
    )
