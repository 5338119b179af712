"""Documents -> rows: everything that decides which log-probabilities a stored row is the sum of.

The store's identity has the fingerprint of this module with all that it reaches. What only decides
when something is scored, and where it is kept, is in `evaluation`, which knows documents by names.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from frankenlab.batches import (
    TokenTree,
    causal_length,
    group_by_length,
    group_to_pack,
    make_batch,
    make_causal_batch,
    shared_prefix,
    token_tree,
)
from frankenlab.encoding import Encoder
from frankenlab.engines import Engine
from frankenlab.engines.devices import hardware_name
from frankenlab.files import content_hash
from frankenlab.models import load_tokenizer, model_info
from frankenlab.plans import Plan
from frankenlab.rows import Row
from frankenlab.sweep import RequestScore, sweep
from frankenlab.tasks import Document
from frankenlab.trie import plan_trie


def encoder_of(directory: str | Path) -> Encoder:
    """Return what tokenizes documents for the model in a directory.

    Raises:
        UserError: as `load_tokenizer` and `model_info`.
    """
    return Encoder(load_tokenizer(directory), model_info(directory).max_position_embeddings)


def requests_name(document: Document) -> str:
    """Return the name of a document's requests, equal for documents with equal requests."""
    return content_hash(document.requests)


def document_trees(
    encoder: Encoder, documents: Iterable[Document], rolling: bool
) -> dict[str, TokenTree]:
    """Return the token tree of each document's requests, by their name.

    A text in windows has all its windows under one request.

    Raises:
        UserError: as `Encoder.encode`.
    """
    return {requests_name(d): _tree(encoder.encode(d, rolling)) for d in documents}


def _tree(requests: Sequence[Sequence]) -> TokenTree:
    tree = token_tree(part for request in requests for part in request)
    parts = iter(tree.requests)
    tree.requests = [[i for _ in request for i in next(parts)] for request in requests]
    return tree


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
    make = make_batch if engine.token_trees else make_causal_batch
    batch = make(list(trees.values()), range(len(trees)))
    for plan, scores in sweep(engine, plan_trie(plans), batch):
        yield plan, [_row(plan, n, s, hardware) for n, s in zip(trees, scores, strict=True)]


def _row(plan: Plan, requests: str, scores: Sequence[RequestScore], hardware: str) -> Row:
    return Row(
        plan.text,
        requests,
        tuple(score.loglikelihood for score in scores),
        tuple(score.is_greedy for score in scores),
        hardware,
    )
