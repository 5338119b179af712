"""Which scores are missing -> sweep -> store -> a table with lm-eval's metrics."""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from frankenlab.config.experiment import TASKS_FOLDER
from frankenlab.engines import Engine
from frankenlab.engines.batches import TokenTree
from frankenlab.evaluate.model_spec import DEFAULT_TOKEN_BUDGET, ModelSpec, scoring_fingerprint
from frankenlab.evaluate.rows import Row
from frankenlab.evaluate.scoring import batches, score_documents
from frankenlab.evaluate.store import Store
from frankenlab.io.directories import verify_file
from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash
from frankenlab.io.parquet import write_parquet
from frankenlab.io.progress import Progress
from frankenlab.io.signals import Stopped, interruptible, shielded
from frankenlab.plans.plan import Plan
from frankenlab.quantize.calibration import check_disjoint
from frankenlab.tasks.encoding import Encoder, document_trees, encoder_of, requests_name
from frankenlab.tasks.index import TaskSettings
from frankenlab.tasks.task import Document, EvaluationTask

# Rows are made durable at least this often, so a kill costs less than a minute.
FLUSH_SECONDS = 20.0

logger = logging.getLogger(__name__)


def evaluate_task(
    scorer: ModelSpec,
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
    if settings.data_file is not None:
        verify_file(settings.data_file)
    task = EvaluationTask(settings, TASKS_FOLDER)
    documents = task.documents(task.indices(stage, limit))
    if not documents:
        raise UserError(
            f'task "{settings.name}": it has no documents in the {stage} stage; '
            "a guard task is only confirmed"
        )
    check_disjoint(calibration, [d.requests for d in documents], f'task "{settings.name}"')
    scores = evaluate(
        scorer.load_engine,
        encoder_of(scorer.directory),
        plans,
        task,
        documents,
        Store(store_root, scorer.identity(settings.name)),
        scorer.token_budget,
        scorer.check_unchanged,
    )
    return _stamped(scores, scorer, settings, documents, stage or "all", seed)


@dataclass(frozen=True)
class _Work:
    """Documents, by the names of their requests, that lack the same plans."""

    documents: list[str]
    plans: list[Plan]


def evaluate(
    make_engine: Callable[[], Engine],
    encoder: Encoder,
    plans: Sequence[Plan],
    task: EvaluationTask,
    documents: Sequence[Document],
    store: Store,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    before_storing: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """Scores of every plan on every document; computes only what the store lacks.

    Args:
        make_engine: loads the model; called only if something is missing.
        before_storing: called before rows are written; it raises where they must not be.

    Returns:
        A row per (plan, document): hardware, plan, document, key, cluster, loglikelihoods,
        is_greedy, target, and each metric of the task.

    Raises:
        UserError: a request that lm-eval could not score (see `Encoder.encode`), NaN scores,
            memory too small for one document, a full disk.
    """
    names = [requests_name(document) for document in documents]
    unique = {name: document for name, document in zip(names, documents, strict=True)}
    texts = {plan.text: plan for plan in plans}
    known = store.load(texts)
    missing = _missing(known, texts, unique)
    if missing:
        lacking = [unique[name] for names_of_group, _ in missing for name in names_of_group]
        trees = document_trees(encoder, lacking, task.rolling, task.settings.name)
        engine = make_engine()
        # The model may have been replaced while it was loaded.
        before_storing()
        buffer = _Buffer(store, before_storing)
        _score_missing(engine, missing, trees, buffer, token_budget, task.settings.name)
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


def _score_missing(
    engine: Engine,
    missing: list[tuple[list[str], list[Plan]]],
    trees: Mapping[str, TokenTree],
    buffer: "_Buffer",
    token_budget: int,
    title: str,
) -> None:
    total = sum(len(names) * len(plans) for names, plans in missing)
    progress = Progress(total, title, "plan-documents")
    try:
        for names, plans in missing:
            own = {name: trees[name] for name in names}
            queue = deque(_Work(batch, plans) for batch in batches(engine, own, token_budget))
            done_documents = 0
            while queue:
                work = queue.popleft()
                last = done_documents + len(work.documents)
                where = f"documents {done_documents + 1}-{last}/{len(names)}"
                halves = _score_work(engine, work, trees, buffer, progress, where)
                queue.extendleft(halves)
                done_documents += 0 if halves else len(work.documents)
    except Stopped as stop:
        stop.kept = f"{progress.done} of {total} rows kept"
        raise
    progress.close()


def _score_work(
    engine: Engine,
    work: _Work,
    trees: Mapping[str, TokenTree],
    buffer: "_Buffer",
    progress: Progress,
    where: str,
) -> list[_Work]:
    """Scores the work and stores its rows; gives what is left of it if memory was too small."""
    done: set[Plan] = set()
    own = {name: trees[name] for name in work.documents}
    with shielded():
        try:
            scored = interruptible(score_documents(engine, work.plans, own))
            for i, (plan, rows) in enumerate(scored):
                done.add(plan)
                buffer.add(rows)
                progress.advance(len(rows), f"plan {i + 1}/{len(work.plans)} on {where}")
        except (MemoryError, RuntimeError) as error:
            return _halves(work, done, error)
        finally:
            # Also on an error elsewhere: what is complete is kept.
            buffer.flush()
    return []


class _Buffer:
    """Rows on their way to the store, written every `FLUSH_SECONDS`."""

    def __init__(self, store: Store, before_storing: Callable[[], None]) -> None:
        self.store = store
        self.before_storing = before_storing
        self.rows: list[Row] = []
        self.flushed = time.monotonic()

    def add(self, rows: list[Row]) -> None:
        self.rows += rows
        if time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.before_storing()
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
        (plan, requests): (values, greedy, hardware)
        for plan, requests, values, greedy, hardware in known.itertuples(index=False, name=None)
    }
    targets = [task.target(document) for document in documents]
    rows = []
    for plan in plans:
        for document, requests, target in zip(documents, names, targets, strict=True):
            values, greedy, hardware = scores[plan, requests]
            loglikelihoods, is_greedy = values.tolist(), greedy.tolist()
            rows.append(
                {
                    "hardware": hardware,
                    "plan": plan,
                    "document": document.index,
                    "key": document.key,
                    "cluster": document.cluster,
                    "loglikelihoods": loglikelihoods,
                    "is_greedy": is_greedy,
                    "target": target,
                    **task.metrics(document, loglikelihoods, is_greedy),
                }
            )
    return pd.DataFrame(rows).astype({"hardware": "category"} if rows else {})


def _stamped(
    scores: pd.DataFrame,
    scorer: ModelSpec,
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
        "device": scorer.device_kind,
        "weights": scorer.weights,
        "data": content_hash(sorted({document.key for document in documents})),
        "seed": seed,
        "code": scoring_fingerprint(scorer.engine),
    }
    for name in reversed(stamps):
        scores.insert(0, name, pd.Categorical([stamps[name]] * len(scores)))
    return scores


def write_scores(scores: pd.DataFrame, path: str | Path) -> None:
    """Writes a table of scores as Parquet, whole or not at all."""
    write_parquet(scores, path)
