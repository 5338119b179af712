"""What the jobs of an experiment have to compute: plans, layer passes, documents and tokens."""

import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import NonNegativeInt

from frankenlab.config.experiment import RESOURCES, TASKS_FOLDER, Experiment, ModelSettings
from frankenlab.config.stages import CONFIRM, SEARCH, SELECT, Stage
from frankenlab.estimate.grid_work import GridWork, PlanWork
from frankenlab.io.errors import UserError
from frankenlab.io.files import cache_folder, content_hash, write_json
from frankenlab.io.fingerprints import code_fingerprint
from frankenlab.io.records import read_record
from frankenlab.tasks.index import TaskSettings, task_file
from frankenlab.tasks.yaml_files import task_fingerprint

if TYPE_CHECKING:
    from frankenlab.engines.token_tree import TokenTree

STAGES = (Stage(SEARCH), Stage(SELECT), Stage(CONFIRM))

# Metrics of tasks that score whole texts, in windows as long as the model's context.
TEXT_METRICS = ("word_perplexity", "byte_perplexity", "bits_per_byte")

# Tokens of a document before its data is there to be counted.
ASSUMED_TOKENS = 60

# Scored positions of such a document: four answers of a few tokens.
ASSUMED_SCORED = 15

# Tokens of a text that is scored whole: between a paragraph and an article.
ASSUMED_TEXT_TOKENS = 1000

# Documents of a task in a stage without a limit, before its data is there.
ASSUMED_DOCUMENTS = 1000

# What is cached of a task in a stage: documents, tokens, scored positions, common prefix.
Counts = tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt]

# What a count depends on.
COUNTING_MODULES = (
    "frankenlab.engines.token_tree",
    "frankenlab.tasks.encoding",
    "frankenlab.tasks.draws",
)


@dataclass(frozen=True)
class Documents:
    """A task's documents in a stage.

    `tokens` counts each document once, its requests merged; `scored` the positions of them whose
    next token is scored; `prefix` is what all of them begin with (few-shot examples), in tokens;
    `assumed`: not counted, because model and data are not there yet.
    """

    count: int
    tokens: int
    scored: int
    prefix: int
    assumed: bool

    def computed(self, token_budget: int) -> int:
        """Return the tokens in batches of token trees, which hold the prefix once each."""
        own = self.tokens - self.prefix * self.count
        return own + self.prefix * math.ceil(own / token_budget)

    def first(self, count: int | None) -> "Documents":
        """Return at most so many of them, None for all; their order is random, so that these are
        of average length."""
        if count is None or count >= self.count:
            return self
        tokens, scored = (round(x * count / self.count) for x in (self.tokens, self.scored))
        return replace(self, count=count, tokens=tokens, scored=scored)

    def without(self, seen: "Documents") -> "Documents":
        """Return those that are not among the first ones, `seen`."""
        return replace(
            self,
            count=self.count - seen.count,
            tokens=self.tokens - seen.tokens,
            scored=self.scored - seen.scored,
        )


@dataclass
class Workload:
    """What the jobs of an experiment have to compute.

    Attributes:
        counting: whether to count tokens once model and data are there, which imports lm-eval the
            first time; else what was counted before and assumptions must do.
        grids: (key of a model's generators in the config, its depth) -> its plans; filled when
            they are asked for.
    """

    experiment: Experiment
    counting: bool = False
    grids: dict[tuple[str, int], GridWork] = field(default_factory=dict)
    _documents: dict[tuple[str, str, Stage], Documents] = field(default_factory=dict, init=False)

    def model(self, name: str) -> ModelSettings:
        return self.experiment.models[name]

    def grid(self, model: str) -> GridWork:
        key = (self.experiment.generators(model)[1], self.model(model).n_layers)
        if key not in self.grids:
            search = self.experiment.settings.stages.search
            self.grids[key] = GridWork(self.experiment.grid(model), search.shards, search.beam)
        return self.grids[key]

    def shards(self, model: str, stage: Stage) -> Collection[int]:
        """Return the numbers of a stage's shards that have a plan; only the search is divided."""
        return self.grid(model).shards.keys() if stage.searches else [0]

    def tasks(self, stage: Stage) -> list[TaskSettings]:
        """Return the tasks of a stage: guard tasks are for the confirmation alone."""
        tasks = self.experiment.tasks.values()
        return [task for task in tasks if stage.name == CONFIRM or task.role == SEARCH]

    def variants(self, stage: Stage) -> list[TaskSettings]:
        """Return the tasks under their other prompts, which run in confirm alone, at the reference
        quantizations."""
        found = self.experiment.variants.values() if stage.name == CONFIRM else ()
        return [variant.settings for variant in found]

    def scored(self, model: str, quantization: str, stage: Stage) -> list[TaskSettings]:
        """Return what one job scores: the tasks of a stage, other prompts of them included."""
        at_reference = quantization == self.model(model).reference
        return [*self.tasks(stage), *(self.variants(stage) if at_reference else ())]

    @property
    def transferred(self) -> int:
        """Return how many frozen plans of other models a model confirms at most."""
        return self.experiment.settings.stages.confirm.transfer * (len(self.experiment.models) - 1)

    def plans(
        self,
        model: str,
        stage: Stage,
        shard: int = 0,
        with_controls: bool = True,
        with_finalists: bool = True,
    ) -> PlanWork:
        """Return what a job runs at most: which plans a race drops is not known yet, nor how many
        the beam grows. After the search these are as many as allowed, of the grid's mean depth and
        with half of it shared."""
        grid = self.grid(model)
        if stage.searches:
            found = grid.shards[shard]
            grown = grid.grown(shard, self.experiment.steps_before(stage))
            return PlanWork(
                len(found.items) + grown.count,
                found.passes + grown.passes,
                found.unshared + grown.unshared,
            )
        stages, n = self.experiment.settings.stages, self.model(model).n_layers
        controls = stages.confirm.controls if with_controls else 0
        others = min(stages.confirm.finalists, stages.select.shortlist - 1)
        others += len(stages.confirm.best_of) + self.transferred
        confirmed = 1 + controls + (others if with_finalists else 0)
        extra = stages.select.shortlist if stage.name == SELECT else confirmed
        mean = grid.whole.unshared / grid.whole.count
        return PlanWork(1 + extra, n + extra * mean / 2, n + extra * mean)

    def new_plans(self, model: str, stage: Stage, shard: int) -> PlanWork:
        """Return the plans that a round of the search is the first to run, but for its first round:
        what the beam grew after the round before, at most. They begin with the documents that the
        others have seen."""
        steps = self.experiment.steps_before
        made = steps(stage) - steps(stage.before) if stage.before else 0
        return self.grid(model).grown(shard, made)

    def documents(self, model: str, task: str, stage: Stage) -> Documents:
        """Return a task's documents in a stage; in a round of a race all that its plans have seen
        after it."""
        key = (model, task, stage)
        if key not in self._documents:
            settings = _with_local_data(self.experiment, self.experiment.task(task))
            limit = self.experiment.limit(Stage(stage.name), task)
            draw = self.experiment.settings.stages.seed
            whole = document_tokens(
                self.model(model), settings, stage.name, limit, self.counting, draw
            )
            self._documents[key] = whole.first(self.experiment.limit(stage, task))
        return self._documents[key]

    def unseen(self, model: str, task: str, stage: Stage) -> Documents:
        """Return what a run from nothing has to score in a stage or a round: the rows of the
        rounds before are in the store."""
        found = self.documents(model, task, stage)
        return found.without(self.documents(model, task, stage.before)) if stage.before else found


def local_directory(model: ModelSettings) -> Path | None:
    """Return the local directory that a model is taken from; None for other sources."""
    if model.source.kind != "path" or model.source.file:
        return None
    return Path(model.source.location).expanduser()


def _with_local_data(experiment: Experiment, task: TaskSettings) -> TaskSettings:
    """Return a task with its data where they are on this machine, if they are not fetched yet."""
    entry = experiment.task_entry(task.name).data
    if entry is None or not entry.source or all(file.is_file() for file in task.files):
        return task
    source = experiment.data[entry.source]
    folder = Path(source.location).expanduser()
    local = replace(
        task,
        data_file=folder / entry.file,
        fewshot_file=folder / entry.fewshot if entry.fewshot else None,
    )
    there = source.kind == "path" and all(file.is_file() for file in local.files)
    return local if there else task


def document_tokens(
    model: ModelSettings,
    task: TaskSettings,
    stage: str,
    limit: int | None,
    counting: bool = True,
    draw: int = 0,
) -> Documents:
    """Return the documents, tokens and scored positions of a task in a stage.

    If `counting`, they are counted once model and data are there, and cached; before that they are
    as many documents as the limit allows, with as many tokens each as the assumptions above say.
    """
    # Not in the project: a dry run or `frankenlab plans` counts, and changes nothing there.
    cache = cache_folder() / "counts" / f"{_count_key(model, task, stage, limit, draw)}.json"
    counts = _cached(cache)
    if counts is None:
        directory = _model_there(model)
        data = bool(task.files) and all(file.is_file() for file in task.files)
        if directory is None or not (counting and data):
            count = limit or ASSUMED_DOCUMENTS
            if task.metric in TEXT_METRICS:
                tokens = count * ASSUMED_TEXT_TOKENS
                return Documents(count, tokens, tokens, 0, True)
            return Documents(count, count * ASSUMED_TOKENS, count * ASSUMED_SCORED, 0, True)
        counts = _count(directory, task, stage, limit, draw)
        with suppress(OSError, UserError):  # a home that cannot be written to
            write_json(cache, counts)
    count, tokens, scored, prefix = counts
    return Documents(count, tokens, scored, prefix, False)


def _cached(path: Path) -> Sequence[int] | None:
    """Return the counts that were written down; None where there are none, or damaged ones."""
    try:
        found: Sequence[int] = read_record(path, Counts)
    except UserError:
        return None
    return found


def _count_key(
    model: ModelSettings, task: TaskSettings, stage: str, limit: int | None, draw: int
) -> str:
    """Return a hash of everything that a count depends on: also the states of the data's
    files and the code."""
    states = [file.stat() for file in task.files if file.is_file()]
    return content_hash(
        [
            *(str(Path.cwd()), model.folder, str(task), stage, limit, draw),
            [[state.st_size, state.st_mtime_ns] for state in states],
            task_fingerprint(task_file(task.task, TASKS_FOLDER)),
            code_fingerprint(*COUNTING_MODULES),
            [field.name for field in fields(Documents)],
        ]
    )


def _model_there(model: ModelSettings) -> Path | None:
    """Return where a model with its tokenizer is; None before its download."""
    fetched, local = RESOURCES / "models" / model.folder, local_directory(model)
    if (fetched / "manifest.json").is_file():
        return fetched
    return local if local is not None and (local / "config.json").is_file() else None


def _count(
    directory: Path, task: TaskSettings, stage: str, limit: int | None, draw: int
) -> Sequence[int]:
    # Imported here: lm-eval and transformers take seconds, and a count is made only once.
    from frankenlab.tasks.draws import DrawnTask
    from frankenlab.tasks.encoding import document_trees, encoder_of, requests_name

    loaded = DrawnTask(task, TASKS_FOLDER, draw)
    documents = loaded.documents(loaded.indices(stage, limit))
    found = document_trees(encoder_of(directory), documents, loaded.rolling, task.name)
    counted = documents_of([found[requests_name(document)] for document in documents])
    return [counted.count, counted.tokens, counted.scored, counted.prefix]


def documents_of(trees: "Sequence[TokenTree]") -> Documents:
    """Return what documents with these token trees are to compute."""
    from frankenlab.engines.token_tree import shared_prefix

    scored = sum(len({node for node, _ in tree.scored}) for tree in trees)
    return Documents(len(trees), sum(map(len, trees)), scored, shared_prefix(trees), False)
