"""An experiment: what its config says, checked, and what follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from frankenlab.config.messages import message
from frankenlab.config.model_settings import ModelSettings, all_models, source
from frankenlab.config.prompts import Variant, own_task, variants
from frankenlab.config.settings import (
    Beam,
    CalibrationSettings,
    Search,
    Settings,
    TaskEntry,
)
from frankenlab.config.stages import CONFIRM, SEARCH, Stage
from frankenlab.config.task_settings import RESOURCES, all_tasks, data_folder, file_of
from frankenlab.io.errors import UserError, excerpt
from frankenlab.io.files import content_hash
from frankenlab.io.yaml_file import check_plain, merged, read_yaml
from frankenlab.models.data_sets import DataSet
from frankenlab.models.quantization import NONE, Quantization
from frankenlab.models.sources import Source
from frankenlab.plans.generators import Generator
from frankenlab.plans.grid import Grid, expand
from frankenlab.plans.kinds import KINDS
from frankenlab.tasks.index import TaskSettings, task_file

DEFAULT = Path("config/config.yaml")
# Of the checkout; a package that was built (setup.py) has a copy.
_CHECKOUT = Path(__file__).resolve().parents[3] / "config"
_SHIPPED = Path(__file__).resolve().parent / "shipped"
TASKS_FOLDER = (_SHIPPED if _SHIPPED.is_dir() else _CHECKOUT) / "tasks"

# These names are taken in results/ in any spelling: an experiment of that name would write there.
RESERVED = ("store", "ledger.jsonl", "readme.md")

LONGEST_LINE = 1000
# What a plan alone is timed on: tokens that it reads, and those that it then decodes.
PROMPT_TOKENS = 256
DECODED_TOKENS = 8
# Positions of a prompt at which a probe compares distributions of the next token.
PROBED_POSITIONS = 8


@dataclass(frozen=True)
class Experiment:
    """A validated config.

    Attributes:
        settings: what the config says, defaults filled in.
        data: name -> source of the packages that carry data sets.
        data_sets: task -> the data set of the hub that it has for its own, where it has one.
        calibration: the text's place on this machine and its use; None where nothing is quantized.
        variants: `task@prompt` -> a task under another prompt; none of them is in `tasks`.
    """

    settings: Settings
    models: Mapping[str, ModelSettings]
    data: Mapping[str, Source]
    data_sets: Mapping[str, DataSet]
    tasks: Mapping[str, TaskSettings]
    calibration: CalibrationSettings | None
    variants: Mapping[str, Variant] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the experiment's folder in results/."""
        return self.settings.experiment

    @property
    def downloads(self) -> dict[str, Source | DataSet]:
        """What is fetched besides the models, by its folder below resources/data; tasks that share
        a data set share its folder."""
        packages = {data_folder(name, source): source for name, source in self.data.items()}
        return {**packages, **{each.folder: each for each in self.data_sets.values()}}

    @property
    def search_tasks(self) -> list[str]:
        """Names of the tasks that are searched on."""
        return [name for name, task in self.tasks.items() if task.role == SEARCH]

    @property
    def quantizations(self) -> list[str]:
        """Every quantization of any model, in the order of the config."""
        return list(dict.fromkeys(q for m in self.models.values() for q in m.quantizations))

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Every (model, quantization) that is evaluated."""
        return [(m.name, q) for m in self.models.values() for q in m.quantizations]

    def task(self, name: str) -> TaskSettings:
        """Return a task, or a variant of one."""
        return self.variants[name].settings if name in self.variants else self.tasks[name]

    def task_entry(self, name: str) -> TaskEntry:
        """Return what the config says of a task, or of the task that this is a variant of."""
        return self.settings.tasks[own_task(name)]

    def grid(self, model: str) -> Grid:
        """Return the plans of a model.

        Raises:
            UserError: a layer that it does not have, or no plan but the base; or no model has a
                plan of a kind whose best is to be confirmed.
        """
        grid = self._grid(model)
        for kind in self.settings.stages.confirm.best_of:
            grids = [grid, *map(self._grid, self.models)]
            if all(kind not in each.kinds for each in grids):
                known = ", ".join(k for k in KINDS if any(k in each.kinds for each in grids))
                raise UserError(
                    f"config: stages.confirm.best_of: no plan of the grid is {kind}; allowed are "
                    f"{known}"
                )
        return grid

    def _grid(self, model: str) -> Grid:
        generators, where = self.generators(model)
        return expand(generators, self.models[model].n_layers, where)

    def generators(self, model: str) -> tuple[tuple[Generator, ...], str]:
        """Return the generators of a model's plans, its own or the shared ones, and their key."""
        own = self.settings.models[model].plans
        if own is None:
            return tuple(self.settings.plans), "plans"
        return tuple(own), f"models.{model}.plans"

    @property
    def raced(self) -> bool:
        """Tell whether the search drops plans on its way."""
        return self.settings.stages.search.racing is not None

    @property
    def beam(self) -> Beam | None:
        """How the search grows new plans; None where it has the grid's alone."""
        return self.settings.stages.search.beam

    def rounds(self, name: str) -> list[Stage]:
        """Return what a stage is evaluated as: itself, or the rounds of a search that drops plans
        or grows new ones on its way."""
        sizes = self._sizes
        if name != SEARCH or len(sizes) == 1:
            return [Stage(name)]
        return [Stage(SEARCH, number) for number in range(1, len(sizes) + 1)]

    @property
    def _sizes(self) -> list[int | None]:
        """Documents of each task that plans have seen after each round of the search, at most.

        A step of the beam is one more round on the documents of the round before it: the last one
        that drops plans, or all of them without a race.
        """
        search = self.settings.stages.search
        sizes: list[int | None] = [*search.racing.rounds] if search.racing else [search.limit]
        grown = [sizes[-1]] * (search.beam.steps if search.beam else 0)
        return [*sizes, *grown, *([search.limit] if search.racing else [])]

    def steps_before(self, stage: Stage) -> int:
        """Return how many steps the beam has made before a round of the search, or before the end
        of the search where no round is named."""
        search = self.settings.stages.search
        if search.beam is None or stage.name != SEARCH:
            return 0
        if stage.round is None:
            return search.beam.steps
        first = len(search.racing.rounds) if search.racing else 1
        return min(max(stage.round - first, 0), search.beam.steps)

    def stage_quantizations(self, stage: Stage, model: str) -> tuple[str, ...]:
        """Return where a stage runs: every quantization in confirm, the reference before it."""
        settings = self.models[model]
        return settings.quantizations if stage.name == CONFIRM else (settings.reference,)

    def runs_controls(self, model: str, quantization: str, task: str | None = None) -> bool:
        """Tell whether the controls are confirmed with these weights, and on this task.

        They show whether the choice of the layers matters, which was made at the reference on the
        search tasks.
        """
        at_reference = quantization == self.models[model].reference
        return at_reference and (task is None or self.task(task).role == SEARCH)

    def limit(self, stage: Stage, task: str) -> int | None:
        """Return how many documents of a task a stage, or a round of it, has at most."""
        own = self.task_entry(task).limit
        if stage.name == CONFIRM and own:
            return own
        if stage.searches and stage.round is not None:
            return self._sizes[stage.round - 1]
        return self.settings.stages[stage.name].limit

    def precision(self, stage: Stage, model: str, quantization: str) -> str:
        """Return the number format of a stage's arithmetic; exllamav2 has float16 only."""
        if self.engine(model, quantization) == "exllamav2":
            return "float16"
        return self.settings.stages[stage.name].precision

    def engine(self, model: str, quantization: str) -> str:
        """Return "torch" or "exllamav2": what `auto` means for these weights."""
        if self.models[model].weights_at(quantization) == NONE:
            return "torch"
        if self.settings.engine == "auto":
            return "exllamav2" if self.settings.device == "cuda" else "torch"
        return self.settings.engine

    def gpus(self, model: str, quantization: str) -> int:
        """Return how many GPUs a job takes that runs these weights; 0 on a CPU."""
        on_gpu = self.settings.device == "cuda"
        return self.models[model].gpus_at(quantization) if on_gpu else 0

    @property
    def quantizer(self) -> str:
        """ "exllamav2" or "reference": what `auto` means on this device."""
        chosen = self.settings.exl2.quantizer
        if chosen == "auto":
            return "exllamav2" if self.settings.device == "cuda" else "reference"
        return chosen

    def weights_folder(self, model: str, quantization: str = NONE.text) -> Path:
        """Return where a model's weights are, as distributed or quantized, for all experiments."""
        if Quantization.parse(quantization) == NONE:
            return RESOURCES / "models" / self.models[model].folder
        return self.quantized_folder(model) / quantization

    def quantized_folder(self, model: str) -> Path:
        """Return where a model's measurement and bitrates are; each way to make them has its own
        folder."""
        text = self.calibration
        # The names are written out, for folders outlive the names in the code.
        calibration = text and {
            "file": str(text.file),
            "field": text.field,
            "texts": text.texts,
            "rows": text.rows,
            "length": text.length,
        }
        made = [self.quantizer, self.settings.exl2.head_bits, calibration]
        # It computes on either device, with other rounding; exllamav2's runs on CUDA only.
        if self.quantizer == "reference" and self.settings.device == "cuda":
            made.append(self.settings.device)
        return RESOURCES / "exl2" / self.models[model].folder / content_hash(made)


def default_file() -> Path:
    """Return the config of the folder that one works in, or else the default experiment."""
    return DEFAULT if DEFAULT.is_file() else TASKS_FOLDER.parent / DEFAULT.name


def load(*paths: str | Path) -> Experiment:
    """Return the experiment of a config file; raises as `read` and `check` do.

    Of several files later ones change earlier ones key by key, as with Snakemake's --configfile.
    """
    raw = read(paths[0])
    for path in paths[1:]:
        raw = merged(raw, read(path))
    return check(raw)


def read(path: str | Path) -> Any:
    """Return what a config file says, unchecked but for its form.

    Raises:
        UserError: it cannot be read, or says something twice.
    """
    try:
        return read_yaml(path)
    except UserError as error:
        raise UserError(f"config {excerpt(path)}: cannot be read ({error})") from None


def check(raw: Mapping[str, Any]) -> Experiment:
    """Return the experiment that a config describes, defaults filled in.

    Raises:
        UserError: one line with the key, what is wrong and what is allowed.
    """
    try:
        check_plain(raw, "config")
        return _experiment(Settings.model_validate(raw))
    except ValidationError as failure:
        raise UserError(excerpt(f"config: {message(failure)}", LONGEST_LINE)) from None
    except UserError as error:  # which may quote what the config says, ends of lines too
        raise UserError(excerpt(error, LONGEST_LINE)) from None


def _experiment(settings: Settings) -> Experiment:
    if settings.experiment.lower() in RESERVED:
        taken = f"{settings.experiment} is something else in results/"
        raise UserError(f"config: experiment: {taken}; taken are {', '.join(RESERVED)}")
    _check_rounds(settings.stages.search)
    models = all_models(settings)
    if settings.stages.confirm.transfer and len(models) == 1:
        raise UserError(
            "config: stages.confirm.transfer: there is one model only; plans are transferred "
            "between two models or more"
        )
    _check_engine(settings, models)
    _check_gpus(settings, models)
    data = {
        name: source(entry, f"config: data.{name}", "data") for name, entry in settings.data.items()
    }
    data_sets, tasks = all_tasks(settings.tasks, data, TASKS_FOLDER)
    if all(task.role != SEARCH for task in tasks.values()):
        raise UserError("config: tasks: at least one needs role: search, to be searched on")
    quantized = next((m.name for m in models.values() if m.to_quantize), None)
    text = settings.exl2.calibration
    calibration = _calibration(text, data, quantized) if quantized else None
    prompted: dict[str, Variant] = {}
    for name, task in tasks.items():
        if entries := settings.tasks[name].prompts:
            prompted |= variants(task, entries, task_file(task.task, TASKS_FOLDER))
    return Experiment(settings, models, data, data_sets, tasks, calibration, prompted)


def _check_rounds(search: Search) -> None:
    """Check that each round adds documents to the one before."""
    if search.racing is None:
        return
    sizes = [*search.racing.rounds, *([search.limit] if search.limit else [])]
    for before, after in pairwise(sizes):
        if after <= before:
            raise UserError(
                f"config: stages.search.racing.rounds: {after} documents after {before}; each "
                "round needs more than the one before, and search.limit more than all of them"
            )


def _check_engine(settings: Settings, models: Mapping[str, ModelSettings]) -> None:
    if settings.engine != "exllamav2":
        return
    if settings.device != "cuda":
        on = f"runs on device: cuda only, device is {settings.device}; torch runs EXL2 anywhere"
        raise UserError(f"config: engine: exllamav2 {on}")
    for model in models.values():
        if model.stored == NONE and NONE.text in model.quantizations:
            raise UserError(
                f"config: engine: exllamav2 runs EXL2 weights only, and {model.name} is to be "
                "evaluated at none; take none off its quantizations, or write engine: auto"
            )


def _check_gpus(settings: Settings, models: Mapping[str, ModelSettings]) -> None:
    for model in models.values():
        most = max(map(model.gpus_at, model.quantizations))
        if most > 1 and settings.device != "cuda":
            raise UserError(
                f"config: models.{model.name}.gpus: {most} GPUs need device: cuda, device is "
                f"{settings.device}"
            )


def _calibration(
    given: CalibrationSettings, data: Mapping[str, Source], model: str
) -> CalibrationSettings:
    where, known = "config: exl2.calibration", ", ".join(data) or "none"
    unknown = (
        f'{where}: {model} is quantized on text of "{excerpt(given.source)}", which is not under '
        f"data: ({excerpt(known)}); add it, or name another source and file"
    )
    file = file_of(given.file, given.source, data, f"{where}.file", unknown)
    return given.changed(source=None, file=str(file))
