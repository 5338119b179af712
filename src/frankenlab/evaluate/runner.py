"""Which rows are missing -> sweep -> store -> a table with lm-eval's metrics.

`evaluate_tasks` loads the documents of tasks and does for each what `evaluate` does for one: it
asks the store for rows, groups the documents that lack the same plans, and has one batch of them
after the other scored by `sweep.score_documents`. Rows are stored as they come, while a GPU
computes the next ones; the table is made of the store's rows.

torch is imported by the functions that score: it takes seconds, and where nothing is missing the
store and the documents are enough.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from frankenlab.config.experiment import TASKS_FOLDER
from frankenlab.engines.token_tree import TokenTree
from frankenlab.evaluate.data import verify_data
from frankenlab.evaluate.missing import Asked, Prepared, Work, prepared_in_turn
from frankenlab.evaluate.model_spec import DEFAULT_TOKEN_BUDGET, ModelSpec, scoring_fingerprint
from frankenlab.evaluate.store import Store
from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash
from frankenlab.io.progress import Progress
from frankenlab.io.signals import Stopped, interruptible, shielded
from frankenlab.plans.plan import Plan
from frankenlab.quantize.calibration import check_disjoint
from frankenlab.tasks.draws import DrawnTask
from frankenlab.tasks.encoding import Encoder, encoder_of
from frankenlab.tasks.index import TaskSettings
from frankenlab.tasks.task import Document, EvaluationTask

if TYPE_CHECKING:
    from frankenlab.engines.protocol import Engine
    from frankenlab.evaluate.sweep import Pending, Row

# Rows are made durable at least this often, so a kill costs less than a minute.
FLUSH_SECONDS = 20.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskPlans:
    """Plans to score on at most `limit` of a task's documents."""

    settings: TaskSettings
    plans: Sequence[Plan]
    limit: int | None


def evaluate_task(
    model: ModelSpec,
    plans: Sequence[Plan],
    settings: TaskSettings,
    stage: str | None,
    limit: int | None,
    store_root: str | Path,
    seed: int = 0,
    draw: int = 0,
    calibration: Sequence[str] = (),
) -> pd.DataFrame:
    """Score plans on one task's documents; see `evaluate_tasks`."""
    work = [TaskPlans(settings, plans, limit)]
    (table,) = evaluate_tasks(model, work, stage, store_root, seed, draw, calibration)
    return table


def evaluate_tasks(
    model: ModelSpec,
    work: Sequence[TaskPlans],
    stage: str | None,
    store_root: str | Path,
    seed: int = 0,
    draw: int = 0,
    calibration: Sequence[str] = (),
    before_plan: Callable[[], None] = lambda: None,
) -> Iterator[pd.DataFrame]:
    """Score plans on the documents of tasks; yield `evaluate`'s table of each with what made each
    row.

    The documents of all tasks are loaded and checked first. The model is loaded once, for the first
    task that lacks a row. Without plans, as in a shard that a race has emptied, a table is empty.
    Its column `available` has the documents that the stage has of the task before any limit.

    Args:
        stage: "search", "select" or "confirm"; None takes all documents in lm-eval's order.
        seed: the experiment's, which the tables state; scoring draws nothing at random.
        draw: seed of the documents' division into stages.
        calibration: texts that the weights were quantized with.
        before_plan: called before a plan runs on a batch of documents.

    Raises:
        UserError: as `EvaluationTask` and `evaluate`; or the stage has none of a task's documents,
            or one with a calibration text in it.
    """
    loaded = [_load(each, stage, draw, calibration) for each in work]
    make_engine = cache(lambda: model.load_engine())
    make_encoder = cache(lambda: encoder_of(model.directory))
    asked = [
        Asked(
            each.plans,
            task,
            documents,
            Store(store_root, model.identity(each.settings.name)),
            make_encoder,
        )
        for each, (task, _, documents) in zip(work, loaded, strict=True)
    ]
    with closing(prepared_in_turn(asked, ahead=model.device_kind != "cpu")) as prepared:
        for one, (_, available, _) in zip(prepared, loaded, strict=True):
            scores = _scored(
                one, make_engine, model.token_budget, model.check_unchanged, before_plan
            )
            for column, value in reversed(_made_with(model, one, stage, seed).items()):
                scores.insert(0, column, pd.Categorical([value] * len(scores)))
            yield scores.assign(available=available)


def _made_with(
    model: ModelSpec, prepared: Prepared, stage: str | None, seed: int
) -> dict[str, object]:
    """Return the columns that are the same in all rows of a task: what made them."""
    return {
        "model": model.name,
        "quantization": model.quantization,
        "task": prepared.asked.task.settings.name,
        "stage": stage or "all",
        "engine": model.engine,
        "precision": model.precision,
        "device": model.device_kind,
        "weights": model.weights,
        "data": content_hash(sorted({document.key for document in prepared.asked.documents})),
        "seed": seed,
        "code": scoring_fingerprint(model.engine),
    }


def _load(
    work: TaskPlans, stage: str | None, draw: int, calibration: Sequence[str]
) -> tuple[EvaluationTask, int, list[Document]]:
    """Return a task, how many documents a stage has of it, and those within the limit."""
    settings = work.settings
    verify_data(settings)
    task = DrawnTask(settings, TASKS_FOLDER, draw)
    available = task.indices(stage)
    documents = task.documents(available[: work.limit])
    if not documents:
        raise UserError(
            f'task "{settings.name}": it has no documents in the {stage} stage; '
            "a guard task is only confirmed"
        )
    check_disjoint(calibration, [d.requests for d in documents], f'task "{settings.name}"')
    return task, len(available), documents


def evaluate(
    make_engine: Callable[[], "Engine"],
    make_encoder: Callable[[], Encoder],
    plans: Sequence[Plan],
    task: EvaluationTask,
    documents: Sequence[Document],
    store: Store,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    before_storing: Callable[[], None] = lambda: None,
    before_plan: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """Score every plan on every document, computing only what the store lacks.

    Args:
        make_engine: loads the model; called only if something is missing, as is make_encoder.
        before_storing: called before rows are written; raises where they must not be.
        before_plan: see `evaluate_tasks`.

    Returns:
        A row per (plan, document): hardware, plan, document, key, cluster, loglikelihoods,
        is_greedy, target, and each metric of the task.

    Raises:
        UserError: a request that lm-eval could not score (see `Encoder.encode`), NaN scores,
            memory too small for one document, a full disk.
    """
    prepared = Asked(plans, task, documents, store, make_encoder).prepared()
    return _scored(prepared, make_engine, token_budget, before_storing, before_plan)


def _scored(
    prepared: Prepared,
    make_engine: Callable[[], "Engine"],
    token_budget: int,
    before_storing: Callable[[], None],
    before_plan: Callable[[], None],
) -> pd.DataFrame:
    """Score what is missing; return the table of all; see `evaluate`."""
    asked, stored = prepared.asked, prepared.stored
    if prepared.missing:
        engine = make_engine()
        # The model may have been replaced while it was loaded.
        before_storing()
        _score_missing(
            engine,
            prepared.missing,
            prepared.trees,
            _Buffer(asked.store, before_storing),
            token_budget,
            asked.task.settings.name,
            before_plan,
        )
        stored = asked.store.load(prepared.texts)
    return _table(stored, list(prepared.texts), asked.task, asked.documents, prepared.names)


def _score_missing(
    engine: "Engine",
    missing: list[Work],
    trees: Mapping[str, TokenTree],
    buffer: "_Buffer",
    token_budget: int,
    title: str,
    before_plan: Callable[[], None],
) -> None:
    """Score what is missing and store the rows as they come."""
    from frankenlab.evaluate import sweep

    total = sum(len(work.documents) * len(work.plans) for work in missing)
    progress = Progress(total, title, "plan-documents")
    begun = _begin(engine, missing, trees, buffer, token_budget, before_plan)
    try:
        with shielded():
            try:
                for where, rows in interruptible(sweep.arrived(begun)):
                    buffer.add(rows)
                    progress.advance(len(rows), where)
                    before_plan()
            finally:
                # Also after any error: the rows that are complete are kept.
                buffer.flush()
    except Stopped as stop:
        stop.kept = f"{progress.done} of {total} rows kept"
        raise
    progress.close()


def _begin(
    engine: "Engine",
    missing: list[Work],
    trees: Mapping[str, TokenTree],
    buffer: "_Buffer",
    token_budget: int,
    before_plan: Callable[[], None],
) -> "Iterator[tuple[str, Pending[list[Row]]]]":
    """Begin one batch after the other, halved where memory is too small for it.

    Yields:
        Where the work stands, and rows that may be on their way; a batch begins while those of the
        batch before it still are.
    """
    from frankenlab.evaluate import sweep

    for group in missing:
        own = {name: trees[name] for name in group.documents}
        batches = sweep.batches(engine, own, token_budget)
        queue = deque(Work(batch, group.plans) for batch in batches)
        first = 1
        while queue:
            work = queue.popleft()
            last = first + len(work.documents) - 1
            before_plan()
            done: set[Plan] = set()
            texts = {name: own[name] for name in work.documents}
            try:
                for plan, rows in sweep.score_documents(engine, work.plans, texts):
                    done.add(plan)
                    where = f"documents {first}-{last}/{len(own)}"
                    yield f"plan {len(done)}/{len(work.plans)} on {where}", rows
                first = last + 1
            except (MemoryError, RuntimeError) as error:
                queue.extendleft(_halves(work, done, error))
            with shielded():
                buffer.flush()


class _Buffer:
    """Rows on their way to the store, written every `FLUSH_SECONDS`."""

    def __init__(self, store: Store, before_storing: Callable[[], None]) -> None:
        self.store = store
        self.before_storing = before_storing
        self.rows: list[Row] = []
        self.flushed = time.monotonic()

    def add(self, rows: "list[Row]") -> None:
        self.rows += rows
        if time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.before_storing()
            self.store.append(self.rows)
            self.rows = []
        self.flushed = time.monotonic()


def _halves(work: Work, done: set[Plan], error: Exception) -> list[Work]:
    """Return the two halves of work that did not fit in memory, without the plans that are done."""
    if not _out_of_memory(error):
        raise error
    if len(work.documents) == 1:
        raise UserError(
            "out of memory on a single document: a smaller precision or a larger device is needed"
        ) from error
    import torch

    middle = len(work.documents) // 2
    logger.warning("out of memory: %d documents at a time instead of %d", middle, 2 * middle)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    plans = [plan for plan in work.plans if plan not in done]
    return [Work(work.documents[middle:], plans), Work(work.documents[:middle], plans)]


def _out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out: torch has a type for it on CUDA; the CPU's allocator, and Triton
    and CUDA's libraries, which take memory beside torch, have only a text."""
    import torch

    texts = ("allocate memory", "out of memory", "ALLOC_FAILED")
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(text in str(error) for text in texts)


def _table(
    stored: pd.DataFrame,
    plans: Sequence[str],
    task: EvaluationTask,
    documents: Sequence[Document],
    names: Sequence[str],
) -> pd.DataFrame:
    """Return a row per (plan, document) with the task's metrics; see `evaluate`."""
    scores = {
        (plan, requests): (values, greedy, hardware)
        for plan, requests, values, greedy, hardware in stored.itertuples(index=False, name=None)
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
