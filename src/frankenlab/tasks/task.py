"""lm-evaluation-harness tasks -> documents, requests and stages; answers -> metrics.

Prompts, targets and metrics are lm-eval's own. Here the data may also come from a file, a document
has an identity that does not depend on its place, and search, select and confirm are disjoint sets
of documents.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api import metrics as harness_metrics

from frankenlab.io.errors import UserError, describe
from frankenlab.io.files import content_hash
from frankenlab.tasks.documents import check_documents, check_example
from frankenlab.tasks.index import STAGES, TaskSettings
from frankenlab.tasks.loading import load_task

# Per cent of a search task's documents that search and select get; the rest is for confirm.
SEARCH_SHARE, SELECT_SHARE = 25, 15

# With fewer documents no test could reach 5 %: McNemar's exact test needs six flips.
MIN_STAGE_DOCUMENTS = 10

# Fields that number a document instead of describing it.
ID_FIELDS = frozenset({"id", "idx", "ind", "index", "doc_id", "native_id"})

FEWSHOT_SEED = 1234  # lm-eval's default

_AGGREGATIONS: dict[Callable, str] = {
    harness_metrics.mean: "mean",
    harness_metrics.perplexity: "perplexity",
    harness_metrics.weighted_perplexity: "perplexity",
    harness_metrics.bits_per_byte: "bits",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Document:
    """One document of a task.

    Attributes:
        index: its number in lm-eval's order (doc_id).
        key: a hash of its content, the same for every model, prompt and order.
        cluster: a hash of what is resampled as one; equals `key` where a document stands alone.
        requests: the arguments of lm-eval's requests: (context, continuation) or (text,).
    """

    index: int
    key: str
    cluster: str
    requests: tuple[tuple[str, ...], ...]


class EvaluationTask:
    """A loaded lm-eval task with its documents.

    Raises:
        UserError: the task cannot be loaded (see `load_task`), the primary metric is unknown or
            does not say whether higher is better, lm-eval would score nonsense for a document, or
            few-shot examples would be evaluated.
    """

    def __init__(self, settings: TaskSettings, tasks_folder: Path) -> None:
        self.settings = settings
        self.where = f'task "{settings.name}"'
        self.task = load_task(settings, tasks_folder)
        self.rolling = self.task.OUTPUT_TYPE == "loglikelihood_rolling"
        self._docs: Sequence[dict] = list(self.task.eval_docs)
        check_documents(self.task, self._docs, self.where)
        self._scorer = _rendering_once(self.task)
        self.kinds = self._metric_kinds()
        self._keys = [content_key(doc) for doc in self._docs]
        self._units = self._resampling_units()
        self._shots = self._fewshot_keys()
        self._check_examples()

    @property
    def kind(self) -> str:
        """Return how the primary metric is aggregated: "mean", "perplexity" or "bits"."""
        return self.kinds[self.settings.metric]

    def indices(self, stage: str | None, limit: int | None = None) -> list[int]:
        """Return the document numbers of a stage; None stands for all, in lm-eval's order.

        Within a stage they are ordered by their hash, so that a limit takes a random sample and a
        higher limit only adds to it.

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
        """Return the documents with lm-eval's requests, in the given order."""
        wanted = set(indices)
        shots = self.task.config.num_fewshot or 0
        # A random sampler's shots depend on the order of calls: build all contexts, in order,
        # so that a document's prompt is the same in every stage and whatever the limit.
        self.task.set_fewshot_seed(FEWSHOT_SEED)
        requests = {}
        for i, doc in enumerate(self._docs):
            if shots or i in wanted:
                with self._one_line(i, "lm-evaluation-harness cannot make its prompt"):
                    context = self.task.fewshot_context(
                        doc, num_fewshot=shots, gen_prefix=self.task.doc_to_prefix(doc)
                    )
                    requests[i] = self._requests(i, context)
        return [Document(i, self._keys[i], self._units[i], requests[i]) for i in indices]

    def _requests(self, index: int, context: str | list[str]) -> tuple[tuple[str, ...], ...]:
        made = self.task.construct_requests(
            doc=self._docs[index], ctx=context, metadata=(self.settings.name, index, 1)
        )
        return tuple(r.args for r in (made if isinstance(made, list) else [made]))

    def target(self, document: Document) -> str:
        """Return the right answer as text (the choice's number for multiple choice)."""
        return str(self.task.doc_to_target(self._docs[document.index]))

    def metrics(
        self, document: Document, loglikelihoods: Sequence[float], is_greedy: Sequence[bool]
    ) -> dict[str, float]:
        """Return every metric of a document, from lm-eval's `process_results`.

        A perplexity becomes the document's own, and `<metric>_weight` is the number of words or
        bytes that it is averaged over. The corpus has exp(sum(weight * log(value)) / sum(weight)),
        where in the numerator a weight of 0 (an empty text has no bytes) is 1. A mean of which
        lower is better comes with `<metric>_sign` = -1.

        Raises:
            UserError: the primary metric is missing, or no number.
        """
        results = self._results(document.index, loglikelihoods, is_greedy)
        with self._one_line(document.index, f"no number for {', '.join(self.kinds)}"):
            row = {
                column: value
                for name, kind in self.kinds.items()
                if name in results
                for column, value in _columns(name, kind, results[name]).items()
            }
        self._check_primary(row, document.index)
        for name in self._lower_is_better & row.keys():
            row[f"{name}_sign"] = -1.0
        return row

    def _check_primary(self, row: Mapping[str, float], index: int) -> None:
        metric = self.settings.metric
        value = row.get(metric, math.nan)
        where = f'{self.where}: document {index}: metric "{metric}"'
        if not math.isfinite(value):
            raise UserError(f"{where}: lm-evaluation-harness gives no number for it")
        if self.kind == "mean" and not 0 <= value <= 1:
            raise UserError(
                f"{where}: it is {value:g}; means are compared in percentage points and need "
                "values from 0 to 1: take another metric"
            )

    def _results(
        self, index: int, loglikelihoods: Sequence[float], is_greedy: Sequence[bool]
    ) -> dict[str, Any]:
        """Return lm-eval's results from the scores of a document's requests."""
        pairs = list(zip(loglikelihoods, is_greedy, strict=True))
        responses = list(loglikelihoods) if self.rolling else pairs
        with self._one_line(index, "lm-evaluation-harness cannot score it"):
            return self._scorer.process_results(self._docs[index], responses)

    def _metric_kinds(self) -> dict[str, str]:
        """Return the metrics that are a mean or a perplexity over documents, with their kind.

        Those that the task names and never returns are left out, with a warning.
        """
        aggregations = self.task.aggregation().items()
        kinds = {name: _AGGREGATIONS[f] for name, f in aggregations if f in _AGGREGATIONS}
        missing = set(kinds)
        for index, doc in enumerate(self._docs):
            with self._one_line(index, "lm-evaluation-harness cannot make its requests"):
                many = self.task.OUTPUT_TYPE == "multiple_choice" and self.task.multiple_input
                requests = self._requests(index, self.task.doc_to_choice(doc) if many else "")
            values = [-1.0 - i for i in range(len(requests))]
            missing -= self._results(index, values, [False] * len(values)).keys()
            if not missing:
                break
        kinds = {name: kind for name, kind in kinds.items() if name not in missing}
        metric = self.settings.metric
        if metric not in kinds:
            known = ", ".join(kinds) or "none"
            fault = "it never returns" if metric in missing else "it does not have"
            raise UserError(
                f'{self.where}: metric "{metric}" is one that {fault}; of its metrics, these can '
                f"be compared document by document: {known}"
            )
        if missing:
            names = ", ".join(sorted(missing))
            logger.warning("%s: it never returns its metrics %s", self.where, names)
        self._lower_is_better = self._directions(kinds)
        return kinds

    def _directions(self, kinds: Mapping[str, str]) -> frozenset[str]:
        """Return the means of which lower is better."""
        higher = self.task.higher_is_better()
        metric = self.settings.metric
        allowed = (True, False) if kinds[metric] == "mean" else (False, None)
        if not any(higher.get(metric) is value for value in allowed):
            raise UserError(
                f'{self.where}: metric "{metric}" has higher_is_better: {higher.get(metric)!r}, '
                f"and as a {kinds[metric]} it needs {'true or false' if allowed[0] else 'false'}; "
                "write metric_list with it under overrides"
            )
        return frozenset(
            n for n, kind in kinds.items() if kind == "mean" and higher.get(n) is False
        )

    def _resampling_units(self) -> list[str]:
        field = self.settings.cluster
        if not field:
            return list(self._keys)
        for index, doc in enumerate(self._docs):
            if field not in doc:
                raise UserError(
                    f'{self.where}: cluster "{field}" is not a field of its documents: '
                    f"{', '.join(doc)}"
                )
            if doc[field] is None:
                raise UserError(f'{self.where}: document {index}: its cluster "{field}" is null')
        return [_hash(doc[field]) for doc in self._docs]

    def _check_examples(self) -> None:
        """Have each few-shot example checked when it is first shown."""
        shots = self.task.config.num_fewshot or 0
        if not shots:
            return
        sampler, checked = self.task.sampler, set()
        if len(sampler.df or []) < shots:
            raise UserError(
                f"{self.where}: num_fewshot: {shots}, and it has {len(sampler.df or [])} examples"
            )
        sample = sampler.sample

        def checking(*args: Any, **kwargs: Any) -> Sequence[dict]:
            found = sample(*args, **kwargs)
            for doc in found:
                if id(doc) not in checked:
                    check_example(self.task, doc, self.where)
                    checked.add(id(doc))
            return found

        sampler.sample = checking

    @contextmanager
    def _one_line(self, index: int, what: str) -> Iterator[None]:
        """Turn any error of the task's own templates and functions into one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self.where}: document {index}: {what} ({describe(error)})"
            ) from error

    def _fewshot_keys(self) -> frozenset[str]:
        """Return the content keys of the documents that may stand in a prompt."""
        shots = self.task.config.num_fewshot or 0
        if not shots:
            return frozenset()
        docs = self.task.sampler.df or []
        sampler = self.task.fewshot_cfg.sampler if self.task.config.fewshot_config else "default"
        candidates = {content_key(doc) for doc in (docs[:shots] if sampler == "first_n" else docs)}
        if candidates.issuperset(self._keys):
            raise UserError(
                f"{self.where}: few-shot examples are drawn from the documents "
                "that are evaluated; set overrides: {fewshot_config: {sampler: first_n}} to keep "
                f"the first {shots} for the prompt, or name another fewshot_split"
            )
        return frozenset(candidates)


def _rendering_once(task: Any) -> Any:
    """Return the task, for `process_results` of documents that are kept, by every plan.

    lm-eval renders a document's choices and its answer anew for each of its results, which takes
    many times as long as the rest.
    """

    def once(render: Callable[[dict], Any]) -> Callable[[dict], Any]:
        rendered: dict[int, Any] = {}

        def known(doc: dict) -> Any:
            if id(doc) not in rendered:
                rendered[id(doc)] = render(doc)
            return rendered[id(doc)]

        return known

    scorer = copy(task)
    for name in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        setattr(scorer, name, once(getattr(task, name)))
    return scorer


def stage_of(cluster: str) -> str:
    """Return the stage of a search task's document.

    It depends on the hash of its cluster alone, so that a document never moves.
    """
    share = int(cluster[:8], 16) % 100
    if share < SEARCH_SHARE:
        return "search"
    return "select" if share < SEARCH_SHARE + SELECT_SHARE else "confirm"


def content_key(doc: Mapping[str, Any]) -> str:
    """Return a hash of a document without the fields that only number it."""
    content = {name: value for name, value in doc.items() if name not in ID_FIELDS}
    return _hash(content)


def _hash(content: Any) -> str:
    """Return a hash of content that may hold what JSON does not have, such as dates."""
    return content_hash(json.loads(json.dumps(content, default=str)))


def _columns(name: str, kind: str, value: Any) -> dict[str, float]:
    """Return a document's value of a metric, and its weight in a perplexity."""
    if kind == "mean":
        return {name: float(value)}
    total, weight = value if isinstance(value, tuple) else (value, 1)
    # An empty text has no bytes, but the tokens that begin and end a text may be scored. In
    # lm-eval's ratio of sums they count in the numerator, and nothing counts in the denominator.
    rate = -total / (weight or 1)
    own = rate / math.log(2) if kind == "bits" else math.exp(min(rate, 700.0))
    return {name: own, f"{name}_weight": float(weight)}
