"""lm-evaluation-harness tasks -> documents, requests and stages; answers -> metrics.

Prompts, targets and metrics are lm-eval's own. What is added: the data may come from a file,
a document has an identity that does not depend on its place, and search, select and confirm
are disjoint sets of documents.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
from lm_eval import utils as harness_utils
from lm_eval.api import metrics as harness_metrics
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from frankenlab.errors import UserError
from frankenlab.files import content_hash
from frankenlab.task_index import TaskSettings, task_file

STAGES = ("search", "select", "confirm")

# Per cent of a search task's documents: search, select, the rest confirms.
SEARCH_SHARE, SELECT_SHARE = 25, 15

# With fewer documents in a stage no test could reach 5 %: exact McNemar needs six flips one way.
MIN_STAGE_DOCUMENTS = 10

# Fields that number a document instead of describing it.
ID_FIELDS = frozenset({"id", "idx", "ind", "index", "doc_id", "native_id"})

FEWSHOT_SEED = 1234  # lm-eval's default

OUTPUT_TYPES = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")

_AGGREGATIONS: dict[Callable, str] = {
    harness_metrics.mean: "mean",
    harness_metrics.perplexity: "perplexity",
    harness_metrics.weighted_perplexity: "perplexity",
    harness_metrics.bits_per_byte: "bits",
}

# lm-eval compiles its templates anew for every document and metric, which would take a tenth of
# an evaluation's time; the same text always gives the same template.
harness_utils.env.from_string = lru_cache(maxsize=1024)(harness_utils.env.from_string)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Document:
    """One document of a task.

    Attributes:
        index: its number in lm-eval's order (doc_id).
        key: hash of its content, the same for every model, prompt and order.
        unit: hash of its resampling unit; equals `key` where a document is its own unit.
        requests: arguments of lm-eval's requests: (context, continuation) or (text,).
    """

    index: int
    key: str
    unit: str
    requests: tuple[tuple[str, ...], ...]


class EvaluationTask:
    """A loaded lm-eval task with its documents.

    Raises:
        UserError: unknown task, unreadable data, an output type that is not scored by
            log-likelihood, an unknown primary metric, few-shot examples that would be evaluated.
    """

    def __init__(self, settings: TaskSettings, tasks_folder: Path) -> None:
        self.settings = settings
        self.task = _load(settings, tasks_folder)
        self.rolling = self.task.OUTPUT_TYPE == "loglikelihood_rolling"
        self.kinds = _metric_kinds(self.task)
        if settings.metric not in self.kinds:
            raise UserError(
                f'task "{settings.name}": metric "{settings.metric}" is not one of its '
                f"metrics that can be compared document by document: {', '.join(self.kinds)}"
            )
        self._docs: Sequence[dict] = list(self.task.eval_docs)
        self._keys = [content_key(doc) for doc in self._docs]
        self._units = [
            content_hash(doc[settings.unit]) if settings.unit else key
            for doc, key in zip(self._docs, self._keys, strict=True)
        ]
        self._shots = self._fewshot_keys()

    @property
    def kind(self) -> str:
        """How the primary metric is aggregated: "mean", "perplexity" or "bits"."""
        return self.kinds[self.settings.metric]

    def indices(self, stage: str | None, limit: int | None = None) -> list[int]:
        """Document numbers of a stage; of all documents in lm-eval's order where it is None.

        Within a stage they are ordered by their hash, so that a limit takes a random sample
        and a higher limit only adds to it.

        Raises:
            UserError: a search task whose documents do not fill three stages.
        """
        allowed = [i for i, key in enumerate(self._keys) if key not in self._shots]
        if stage is None:
            return allowed[:limit]
        if self.settings.role == "guard":
            chosen = allowed if stage == "confirm" else []
        else:
            by_stage = {s: [i for i in allowed if stage_of(self._units[i]) == s] for s in STAGES}
            if min(map(len, by_stage.values())) < MIN_STAGE_DOCUMENTS:
                sizes = ", ".join(f"{len(by_stage[s])} to {s}" for s in STAGES)
                raise UserError(
                    f'task "{self.settings.name}": {len(allowed)} documents are too few for '
                    f"three stages ({sizes}); each needs at least {MIN_STAGE_DOCUMENTS}, or make "
                    "it a guard task"
                )
            chosen = by_stage[stage]
        return sorted(chosen, key=lambda i: (self._units[i], self._keys[i], i))[:limit]

    def documents(self, indices: Sequence[int]) -> list[Document]:
        """The documents with lm-eval's requests, in the given order."""
        wanted = set(indices)
        shots = self.task.config.num_fewshot or 0
        # A random sampler's shots depend on the order of calls: build all contexts, in order,
        # so that a document's prompt is the same in every stage and whatever the limit.
        self.task.set_fewshot_seed(FEWSHOT_SEED)
        requests = {}
        for i, doc in enumerate(self._docs):
            if shots or i in wanted:
                context = self.task.fewshot_context(
                    doc, num_fewshot=shots, gen_prefix=self.task.doc_to_prefix(doc)
                )
                made = self.task.construct_requests(
                    doc=doc, ctx=context, metadata=(self.settings.name, i, 1)
                )
                requests[i] = tuple(r.args for r in (made if isinstance(made, list) else [made]))
        return [Document(i, self._keys[i], self._units[i], requests[i]) for i in indices]

    def target(self, document: Document) -> str:
        """The gold answer as text (the choice's number for multiple choice)."""
        return str(self.task.doc_to_target(self._docs[document.index]))

    def metrics(
        self, document: Document, loglikelihoods: Sequence[float], is_greedy: Sequence[bool]
    ) -> dict[str, float]:
        """Every metric of a document, from lm-eval's `process_results`.

        A perplexity becomes the document's own, with the words or bytes it is averaged over
        in `<metric>_weight`: exp(sum(weight * log(value)) / sum(weight)) is the corpus value, where
        in the numerator a weight of 0 (an empty text has no bytes) is 1.
        """
        pairs = list(zip(loglikelihoods, is_greedy, strict=True))
        responses = list(loglikelihoods) if self.rolling else pairs
        results = self.task.process_results(self._docs[document.index], responses)
        row: dict[str, float] = {}
        for name, kind in self.kinds.items():
            if name not in results:
                continue
            if kind == "mean":
                row[name] = float(results[name])
                continue
            value = results[name]
            total, weight = value if isinstance(value, tuple) else (value, 1)
            # An empty text has no bytes, but the tokens that begin and end a text may be scored: in
            # lm-eval's ratio of sums these count, and no bytes do.
            rate = -total / (weight or 1)
            row[name] = rate / math.log(2) if kind == "bits" else math.exp(min(rate, 700.0))
            row[f"{name}_weight"] = float(weight)
        return row

    def _fewshot_keys(self) -> frozenset[str]:
        """Content of the documents that may stand in a prompt."""
        shots = self.task.config.num_fewshot or 0
        if not shots:
            return frozenset()
        docs = self.task.sampler.df or []
        sampler = self.task.fewshot_cfg.sampler if self.task.config.fewshot_config else "default"
        candidates = {content_key(doc) for doc in (docs[:shots] if sampler == "first_n" else docs)}
        if candidates.issuperset(self._keys):
            raise UserError(
                f'task "{self.settings.name}": few-shot examples are drawn from the documents '
                "that are evaluated; set overrides: {fewshot_config: {sampler: first_n}} to keep "
                f"the first {shots} for the prompt, or name another fewshot_split"
            )
        return frozenset(candidates)


def stage_of(unit: str) -> str:
    """The stage of a search task's document, by the hash of its unit alone: it never moves."""
    share = int(unit[:8], 16) % 100
    if share < SEARCH_SHARE:
        return "search"
    return "select" if share < SEARCH_SHARE + SELECT_SHARE else "confirm"


def content_key(doc: Mapping[str, Any]) -> str:
    """Hash of a document without the fields that only number it."""
    content = {name: value for name, value in doc.items() if name not in ID_FIELDS}
    return content_hash(json.loads(json.dumps(content, default=str)))


def read_data(path: Path) -> datasets.Dataset:
    """A data file (Arrow, Parquet, JSON lines, gzipped or not) as a data set.

    Raises:
        UserError: missing, truncated, or of another kind.
    """
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".arrow"):
            return datasets.Dataset.from_file(str(path))
        if name.endswith(".parquet"):
            return datasets.Dataset(pyarrow.parquet.read_table(path))
        if name.endswith((".jsonl", ".json")):
            with pyarrow.input_stream(str(path)) as stream:
                # Not splitlines(): a JSON string may hold one of Unicode's line separators.
                lines = stream.read().decode().split("\n")
            rows = [json.loads(line) for line in lines if line.strip()]
            if not rows:
                raise ValueError("it is empty")
            return datasets.Dataset.from_list(rows)
    except (OSError, EOFError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable data file ({error})") from error
    raise UserError(f"{path}: unknown kind of data, one of .arrow .parquet .jsonl[.gz] is expected")


def _load(settings: TaskSettings, tasks_folder: Path) -> Task:
    config = load_yaml(task_file(settings.task, tasks_folder))
    if settings.data_file is not None:
        table = read_data(settings.data_file)
        config |= {
            "custom_dataset": lambda **_: {settings.split: table},
            "dataset_kwargs": None,
            "training_split": None,
            "validation_split": settings.split,
            "test_split": None,
            "fewshot_split": settings.split if settings.num_fewshot else None,
        }
    config |= dict(settings.overrides)
    if settings.num_fewshot is not None:
        config["num_fewshot"] = settings.num_fewshot
    # Its warnings are about defaults of lm-eval's own YAMLs.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        (task,) = TaskManager(include_defaults=False).load([config])["tasks"].values()
    except (ConnectionError, FileNotFoundError) as error:
        raise UserError(
            f'task "{settings.name}": its data set cannot be reached ({error}); '
            "without a network, give it `data` from a package or a local file"
        ) from error
    except Exception as error:  # of any kind: it runs the YAML's templates and functions
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f'task "{settings.name}": lm-evaluation-harness cannot build it from this data and '
            f"these settings ({reason})"
        ) from error
    if task.OUTPUT_TYPE not in OUTPUT_TYPES:
        raise UserError(
            f'task "{settings.name}": output type "{task.OUTPUT_TYPE}" is not scored by '
            f"log-likelihood; allowed: {', '.join(OUTPUT_TYPES)}"
        )
    if settings.unit and settings.unit not in task.eval_docs.features:
        raise UserError(
            f'task "{settings.name}": unit "{settings.unit}" is not a field of its documents: '
            f"{', '.join(task.eval_docs.features)}"
        )
    return task


def _metric_kinds(task: Task) -> dict[str, str]:
    """Metrics that are a mean or a perplexity over documents, with their kind."""
    aggregations = task.aggregation()
    kinds = {name: _AGGREGATIONS.get(function) for name, function in aggregations.items()}
    return {name: kind for name, kind in kinds.items() if kind}
