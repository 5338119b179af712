"""Finds which of the rows asked for the store lacks, and tokenizes the documents of them."""

from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pandas as pd

from frankenlab.engines.token_tree import TokenTree
from frankenlab.evaluate.store import Store
from frankenlab.plans.plan import Plan
from frankenlab.tasks.encoding import Encoder, document_trees, requests_name
from frankenlab.tasks.task import Document, EvaluationTask


@dataclass(frozen=True)
class Work:
    """Documents, by the names of their requests, that lack the same plans."""

    documents: list[str]
    plans: list[Plan]


@dataclass(frozen=True)
class Asked:
    """Plans to score on documents of a task, and where the rows are."""

    plans: Sequence[Plan]
    task: EvaluationTask
    documents: Sequence[Document]
    store: Store
    make_encoder: Callable[[], Encoder]

    def prepared(self) -> "Prepared":
        """Find out what the store lacks, and tokenize the documents of that."""
        names = [requests_name(document) for document in self.documents]
        unique = dict(zip(names, self.documents, strict=True))
        texts = {plan.text: plan for plan in self.plans}
        stored = self.store.load(texts)
        missing = missing_work(stored, texts, unique)
        lacking = [unique[name] for work in missing for name in work.documents]
        trees: dict[str, TokenTree] = {}
        if lacking:
            task = self.task
            trees = document_trees(self.make_encoder(), lacking, task.rolling, task.settings.name)
        return Prepared(self, names, texts, stored, missing, trees)


@dataclass(frozen=True)
class Prepared:
    """This holds the rows asked for that the store has, and what it takes to score the rest.

    Attributes:
        names: the name of each document's requests.
        texts: the plans by their texts.
        stored: the rows of the store.
        missing: what the store lacks.
        trees: the token tree of each document that lacks a row.
    """

    asked: Asked
    names: list[str]
    texts: dict[str, Plan]
    stored: pd.DataFrame
    missing: list[Work]
    trees: dict[str, TokenTree]


def prepared_in_turn(asked: Sequence[Asked], ahead: bool) -> Generator[Prepared, None, None]:
    """Yield what is prepared of one after the other.

    Args:
        ahead: a second thread prepares while the caller works: a GPU need not wait for tokens. On a
            CPU it would only take cores from the arithmetic.
    """
    if not ahead:
        yield from (each.prepared() for each in asked)
        return
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        yield from pool.map(lambda each: each.prepared(), asked)
    finally:
        # After an error or a signal nothing more of it is needed: the end does not wait for it.
        pool.shutdown(wait=False, cancel_futures=True)


def missing_work(
    stored: pd.DataFrame, plans: Mapping[str, Plan], documents: Mapping[str, Document]
) -> list[Work]:
    """Group the documents by the plans that they lack."""
    have: dict[str, set[str]] = defaultdict(set)
    for plan, requests in zip(stored["plan"], stored["requests"], strict=True):
        have[requests].add(plan)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in documents:
        lacking = tuple(text for text in plans if text not in have[name])
        if lacking:
            groups[lacking].append(name)
    return [Work(names, [plans[text] for text in lacking]) for lacking, names in groups.items()]
