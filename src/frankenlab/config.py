"""The configuration of an experiment: checked against its schema, defaults filled in."""

import difflib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from frankenlab.errors import UserError
from frankenlab.sources import Source, source_from_config, source_key
from frankenlab.task_index import TaskSettings, task_file

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
DEFAULT = Path("config/config.yaml")
TASKS_FOLDER = ROOT / "config" / "tasks"
RESOURCES = Path("resources")
PRECISIONS = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class ModelSettings:
    """A model of the config; `folder` is the name of its directory below resources/models."""

    name: str
    source: Source
    n_layers: int
    description: str

    @property
    def folder(self) -> str:
        return f"{self.name}-{source_key(self.source)}"


@dataclass(frozen=True)
class Experiment:
    """A validated config.

    Attributes:
        raw: the config with all defaults, JSON-able.
        data: name -> source of the packages that carry data sets.
    """

    raw: Mapping[str, Any]
    models: Mapping[str, ModelSettings]
    data: Mapping[str, Source]
    tasks: Mapping[str, TaskSettings]

    @property
    def name(self) -> str:
        return self.raw["experiment"]

    @property
    def search_tasks(self) -> list[str]:
        """Names of the tasks that are searched on."""
        return [name for name, task in self.tasks.items() if task.role == "search"]

    @property
    def reference_quantization(self) -> str:
        """Where the franken is searched, selected and frozen: the first of the list."""
        return self.raw["quantizations"][0]

    def limit(self, stage: str, task: str) -> int | None:
        """Most documents of a task in a stage."""
        own = self.raw["tasks"][task].get("limit")
        return own if stage == "confirm" and own else self.raw["stages"][stage]["limit"]


def load(path: str | Path) -> Experiment:
    """Reads and checks a config file.

    Raises:
        UserError: one line with the key, what is wrong and what is allowed.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"config {path}: cannot be read ({text})") from error
    return check(raw)


def check(raw: Mapping[str, Any]) -> Experiment:
    """Checks a config and fills in defaults.

    Raises:
        UserError: as `load`.
    """
    filled = with_defaults(raw, _schema())
    _check_schema(filled)
    models = {
        name: ModelSettings(
            name,
            source_from_config(model["source"], f"config: models.{name}.source", "model"),
            model["n_layers"],
            model["description"],
        )
        for name, model in filled["models"].items()
    }
    data = {
        name: source_from_config(source, f"config: data.{name}", "data")
        for name, source in filled["data"].items()
    }
    tasks = {name: _task(name, task, data) for name, task in filled["tasks"].items()}
    if all(task.role != "search" for task in tasks.values()):
        raise UserError(
            "config: tasks: at least one needs role: search, or nothing can be searched"
        )
    return Experiment(filled, models, data, tasks)


def data_folder(name: str, source: Source) -> str:
    """Name of a data package's directory below resources/data."""
    return f"{name}-{source_key(source)}"


def _task(name: str, task: Mapping[str, Any], data: Mapping[str, Source]) -> TaskSettings:
    where = f"config: tasks.{name}"
    lm_eval_name = task.get("task", name)
    try:
        task_file(lm_eval_name, TASKS_FOLDER)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    file = None
    if given := task.get("data"):
        file = Path(given["file"])
        if source := given.get("source"):
            if source not in data:
                known = ", ".join(data) or "none"
                raise UserError(f'{where}.data.source: "{source}" is not under data: ({known})')
            file = RESOURCES / "data" / data_folder(source, data[source]) / given["file"]
        elif not file.is_file():
            raise UserError(f"{where}.data.file: {file} does not exist")
    return TaskSettings(
        name=name,
        task=lm_eval_name,
        role=task["role"],
        metric=task["metric"],
        data_file=file,
        split=given["split"] if given else "validation",
        num_fewshot=task.get("num_fewshot"),
        unit=task.get("unit"),
        overrides=task["overrides"],
    )


@cache
def _schema() -> dict[str, Any]:
    return yaml.safe_load(SCHEMA.read_text())


def with_defaults(value: Any, schema: Mapping[str, Any]) -> Any:
    """A copy of `value` with the schema's defaults where keys are missing."""
    schema = _resolved(schema)
    if not isinstance(value, Mapping):
        return deepcopy(value)
    properties = schema.get("properties", {})
    filled = {}
    for key, sub in properties.items():
        default = _resolved(sub).get("default")
        if key in value:
            filled[key] = with_defaults(value[key], sub)
        elif "default" in _resolved(sub):
            filled[key] = with_defaults(default, sub)
    others = schema.get("additionalProperties")
    for key in value:
        if key not in properties:
            known = isinstance(others, Mapping)
            filled[key] = with_defaults(value[key], others if known else {})
    return filled


def _resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return _schema()["$defs"][reference.rpartition("/")[2]] if reference else schema


def _check_schema(config: Mapping[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(_schema())
    error = jsonschema.exceptions.best_match(validator.iter_errors(config))
    if error is None:
        return
    where = ".".join(str(part) for part in error.absolute_path)
    raise UserError(f"config: {where + ': ' if where else ''}{_explain(error)}") from None


def _explain(error: jsonschema.ValidationError) -> str:
    """What is wrong and what is allowed, on one line."""
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = next(key for key in error.instance if key not in known)
        near = difflib.get_close_matches(unknown, known, 1)
        hint = f'did you mean "{near[0]}"?' if near else f"allowed: {', '.join(known)}"
        return f'unknown key "{unknown}"; {hint}'
    if error.validator == "enum":
        return f"{error.instance!r} is not one of {', '.join(map(str, error.validator_value))}"
    return error.message + (
        f" ({error.schema['description']})" if "description" in error.schema else ""
    )
