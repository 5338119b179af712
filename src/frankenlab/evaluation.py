"""Which scores are missing -> sweep -> store -> a table with lm-eval's metrics."""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

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
from frankenlab.calibration import check_disjoint
from frankenlab.config import TASKS_FOLDER
from frankenlab.encoding import Encoder
from frankenlab.engines import Engine
from frankenlab.errors import UserError
from frankenlab.files import atomic_path, content_hash
from frankenlab.models import load_tokenizer, model_info
from frankenlab.plans import Plan
from frankenlab.progress import Progress
from frankenlab.scorer import DEFAULT_TOKEN_BUDGET, Scorer, scoring_fingerprint
from frankenlab.stopping import Stopped, interruptible, shielded
from frankenlab.store import Row, Store
from frankenlab.sweep import RequestScore, sweep
from frankenlab.task_index import TaskSettings
from frankenlab.tasks import Document, EvaluationTask
from frankenlab.trie import plan_trie

# Rows are made durable at least this often, so a kill costs less than a minute.
FLUSH_SECONDS = 20.0

logger = logging.getLogger(__name__)


def evaluate_task(
    scorer: Scorer,
    plans: Sequence[Plan],
    settings: TaskSettings,
    stage: str | None,
    limit: int | None,
    store_root: str | Path,
    seed: int = 0,
    calibration: Sequence[str] = (),
) -> pd.DataFrame:
    """Scores of plans on a task's documents, stamped with what made them: see `evaluate`.

    Without plans, as in a shard that a race has emptied, the table has no rows.

    Args:
        stage: "search", "select" or "confirm"; None takes all documents in lm-eval's order.
        limit: most documents.
        seed: of the experiment, for the stamp; scoring draws nothing at random.
        calibration: texts that the weights were quantized with.

    Raises:
        UserError: as `EvaluationTask` and `evaluate`; the stage has none of the task's documents,
            or one with a calibration text in it.
    """
    task = EvaluationTask(settings, TASKS_FOLDER)
    documents = task.documents(task.indices(stage, limit))
    if not documents:
        raise UserError(
            f'task "{settings.name}": it has no documents in the {stage} stage; '
            "a guard task is only confirmed"
        )
    check_disjoint(calibration, [d.requests for d in documents], f'task "{settings.name}"')
    encoder = Encoder(
        load_tokenizer(scorer.directory), model_info(scorer.directory).max_position_embeddings
    )
    store = Store(store_root, scorer.identity(settings.name))
    scores = evaluate(
        scorer.load_engine, encoder, plans, task, documents, store, scorer.token_budget
    )
    return _stamped(scores, scorer, settings, documents, stage or "all", seed)


@dataclass(frozen=True)
class _Work:
    """Documents (numbers into the list of trees) that lack the same plans."""

    documents: list[int]
    plans: list[Plan]


def evaluate(
    make_engine: Callable[[], Engine],
    encoder: Encoder,
    plans: Sequence[Plan],
    task: EvaluationTask,
    documents: Sequence[Document],
    store: Store,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> pd.DataFrame:
    """Scores of every plan on every document; computes only what the store lacks.

    Args:
        make_engine: loads the model; called only if something is missing.

    Returns:
        A row per (plan, document): plan, document, key, unit, loglikelihoods, is_greedy,
        target, and each metric of the task.

    Raises:
        UserError: a request longer than the context, NaN scores, memory too small for one
            document, a full disk.
    """
    names = [content_hash(document.requests) for document in documents]
    unique = {name: document for name, document in zip(names, documents, strict=True)}
    texts = {plan.text: plan for plan in plans}
    known = store.load(texts)
    missing = _missing(known, texts, unique)
    if missing:
        trees = {name: _tree(encoder, task, unique[name]) for w in missing for name in w[0]}
        _score_missing(make_engine(), missing, trees, store, token_budget, task.settings.name)
        known = store.load(texts)
    return _assemble(known, list(texts), task, documents, names)


def _missing(
    known: pd.DataFrame, plans: Mapping[str, Plan], documents: Mapping[str, Document]
) -> list[tuple[list[str], list[Plan]]]:
    """Documents grouped by the plans that they lack, each group with those plans."""
    have: dict[str, set[str]] = defaultdict(set)
    for plan, requests in zip(known["plan"], known["requests"], strict=True):
        have[requests].add(plan)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in documents:
        lacking = tuple(text for text in plans if text not in have[name])
        if lacking:
            groups[lacking].append(name)
    return [(names, [plans[text] for text in lacking]) for lacking, names in groups.items()]


def _tree(encoder: Encoder, task: EvaluationTask, document: Document) -> TokenTree:
    """One tree for the document; a text in windows has all its windows under one request."""
    requests = encoder.encode(document, task.rolling)
    tree = token_tree(part for request in requests for part in request)
    parts = iter(tree.requests)
    tree.requests = [[i for _ in request for i in next(parts)] for request in requests]
    return tree


def _score_missing(
    engine: Engine,
    missing: list[tuple[list[str], list[Plan]]],
    trees: Mapping[str, TokenTree],
    store: Store,
    token_budget: int,
    title: str,
) -> None:
    total = sum(len(names) * len(plans) for names, plans in missing)
    progress = Progress(total, title, "plan-documents")
    try:
        for names, plans in missing:
            lengths = _lengths([trees[name] for name in names], engine.token_trees)
            group = group_to_pack if engine.token_trees else group_by_length
            queue = deque(_Work(g, plans) for g in group(lengths, token_budget))
            done_documents = 0
            while queue:
                work = queue.popleft()
                last = done_documents + len(work.documents)
                where = f"documents {done_documents + 1}-{last}/{len(names)}"
                halves = _score_work(engine, work, names, trees, store, progress, where)
                queue.extendleft(halves)
                done_documents += 0 if halves else len(work.documents)
    except Stopped as stop:
        stop.kept = f"{progress.done} of {total} rows kept"
        raise
    progress.close()


def _score_work(
    engine: Engine,
    work: _Work,
    names: Sequence[str],
    trees: Mapping[str, TokenTree],
    store: Store,
    progress: Progress,
    where: str,
) -> list[_Work]:
    """Scores the work and stores its rows; gives what is left of it if memory was too small."""
    done = _Buffer(store)
    with shielded():
        try:
            scored = interruptible(_score(engine, work, names, trees))
            for i, (plan, rows) in enumerate(scored):
                done.add(plan, rows)
                progress.advance(len(rows), f"plan {i + 1}/{len(work.plans)} on {where}")
        except (MemoryError, RuntimeError) as error:
            return _halves(work, done.plans, error)
        finally:
            # Also on an error elsewhere: what is complete is kept.
            done.flush()
    return []


def _lengths(trees: Sequence[TokenTree], token_trees: bool) -> list[int]:
    """Tokens that each document adds to a batch."""
    if not token_trees:
        return [causal_length(tree) for tree in trees]
    shared = shared_prefix(trees)
    return [len(tree) - shared for tree in trees]


def _score(
    engine: Engine, work: _Work, names: Sequence[str], trees: Mapping[str, TokenTree]
) -> Iterator[tuple[Plan, list[Row]]]:
    batch_names = [names[i] for i in work.documents]
    make = make_batch if engine.token_trees else make_causal_batch
    batch = make([trees[name] for name in batch_names], work.documents)
    for plan, scores in sweep(engine, plan_trie(work.plans), batch):
        yield plan, [_row(plan, n, s) for n, s in zip(batch_names, scores, strict=True)]


def _row(plan: Plan, requests: str, scores: Sequence[RequestScore]) -> Row:
    return Row(
        plan.text,
        requests,
        tuple(score.loglikelihood for score in scores),
        tuple(score.is_greedy for score in scores),
    )


class _Buffer:
    """Rows on their way to the store, written every `FLUSH_SECONDS`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.rows: list[Row] = []
        self.plans: set[Plan] = set()
        self.flushed = time.monotonic()

    def add(self, plan: Plan, rows: list[Row]) -> None:
        self.rows += rows
        self.plans.add(plan)
        if time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.store.append(self.rows)
            self.rows = []
        self.flushed = time.monotonic()


def _halves(work: _Work, done: set[Plan], error: Exception) -> list[_Work]:
    """The two halves of work that did not fit in memory, less the plans already scored."""
    if not _out_of_memory(error):
        raise error
    if len(work.documents) == 1:
        raise UserError(
            "out of memory on a single document: a smaller precision or a larger device is needed"
        ) from error
    middle = len(work.documents) // 2
    logger.warning("out of memory: %d documents at a time instead of %d", middle, 2 * middle)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    plans = [plan for plan in work.plans if plan not in done]
    return [_Work(work.documents[middle:], plans), _Work(work.documents[:middle], plans)]


def _out_of_memory(error: Exception) -> bool:
    """CUDA has a type for it; the CPU's allocator only a text."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "allocate memory" in str(error)


def _assemble(
    known: pd.DataFrame,
    plans: Sequence[str],
    task: EvaluationTask,
    documents: Sequence[Document],
    names: Sequence[str],
) -> pd.DataFrame:
    scores = {
        (plan, requests): (values, greedy)
        for plan, requests, values, greedy in known.itertuples(index=False, name=None)
    }
    targets = [task.target(document) for document in documents]
    rows = []
    for plan in plans:
        for document, requests, target in zip(documents, names, targets, strict=True):
            loglikelihoods, is_greedy = (x.tolist() for x in scores[plan, requests])
            rows.append(
                {
                    "plan": plan,
                    "document": document.index,
                    "key": document.key,
                    "unit": document.unit,
                    "loglikelihoods": loglikelihoods,
                    "is_greedy": is_greedy,
                    "target": target,
                    **task.metrics(document, loglikelihoods, is_greedy),
                }
            )
    return pd.DataFrame(rows)


def _stamped(
    scores: pd.DataFrame,
    scorer: Scorer,
    settings: TaskSettings,
    documents: Sequence[Document],
    stage: str,
    seed: int,
) -> pd.DataFrame:
    """The table with the columns that say what made each row."""
    stamps = {
        "model": scorer.model,
        "quantization": scorer.quantization,
        "task": settings.name,
        "stage": stage,
        "engine": scorer.engine,
        "precision": scorer.precision,
        "weights": scorer.weights,
        "data": content_hash(sorted({document.key for document in documents})),
        "seed": seed,
        "code": scoring_fingerprint(scorer.engine),
    }
    for name in reversed(stamps):
        scores.insert(0, name, pd.Categorical([stamps[name]] * len(scores)))
    return scores


def write_scores(scores: pd.DataFrame, path: str | Path) -> None:
    """Parquet, whole or not at all."""
    with atomic_path(path) as temporary:
        scores.to_parquet(temporary, compression="zstd", index=False)
