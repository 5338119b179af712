"""A task's settings -> lm-eval's task, with its data and its few-shot examples in place."""

import logging
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval import utils as harness_utils
from lm_eval.api.registry import metric_registry
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from frankenlab.io.errors import UserError, describe, one_line
from frankenlab.tasks.data_files import Splits
from frankenlab.tasks.documents import check_documents
from frankenlab.tasks.index import TaskSettings, check_output_type, task_file
from frankenlab.tasks.templates import TaskTemplates
from frankenlab.tasks.yaml_files import task_fingerprint

# The split that a file of worked examples is; no split of a data set has such a name.
EXAMPLES = "worked examples"

# Every template of a task is rendered here: `apply_template` looks this name up.
harness_utils.env = TaskTemplates()


def load_task(settings: TaskSettings, tasks_folder: Path) -> Task:
    """Return lm-eval's task as its YAML and the settings describe it.

    Raises:
        UserError: the YAML or the data are unreadable or not there, lm-eval cannot build the task
            from them or has no such setting, the output type is not scored by log-likelihood, or
            the few-shot examples are in a split that the data do not have.
    """
    settings.check_there()
    config = _configuration(settings, tasks_folder)
    # lm-eval warns of defaults in its own YAMLs, and of documents that are refused here.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        (task,) = TaskManager(include_defaults=False).load([config])["tasks"].values()
    except UserError:
        raise
    except (ConnectionError, FileNotFoundError) as error:
        raise UserError(
            f'task "{settings.name}": its data set cannot be reached ({one_line(error)}); '
            "without a network, give it a local file (in a config `data`, by hand --data), or in a "
            "config the data of a package"
        ) from error
    except Exception as error:  # of any kind: it runs the YAML's templates and functions
        what = f'task "{settings.name}": lm-evaluation-harness cannot build it from this data and '
        what += "these settings"
        unfinished = _unfinished(error)
        if unfinished is not None:
            check_documents(unfinished, list(unfinished.task_docs)[:1], what)
        raise UserError(f"{what} ({describe(error)})") from error
    check_output_type({"output_type": task.OUTPUT_TYPE}, f'task "{settings.name}"')
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f'task "{settings.name}": it needs images or sound, and models read text')
    return task


def _configuration(settings: TaskSettings, tasks_folder: Path) -> dict[str, Any]:
    """Return the task's keys: those of its YAML, the overrides, and what `data` replaces."""
    where = f'task "{settings.name}"'
    path = task_file(settings.task, tasks_folder)
    try:
        task_fingerprint(path)
        config = load_yaml(path)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except Exception as error:  # of any kind: it imports the functions that the YAML names
        raise UserError(f"{where}: {path}: it cannot be loaded ({describe(error)})") from error
    config |= settings.overrides
    fewshot = config.get("fewshot_config")
    if not isinstance(fewshot, Mapping | None):
        raise UserError(f"{where}: fewshot_config: a mapping of keys is expected, not {fewshot!r}")
    if "class" not in config:
        check_output_type(config, where)
    _check_metrics(config, settings, where)
    shots = _shots(config, settings, where)
    config["num_fewshot"] = shots
    if settings.data_file is not None:
        config |= _with_data(config, settings, shots, where)
    elif settings.data_folder is not None:
        splits = Splits.in_folder(settings.data_folder)
        config |= {"custom_dataset": lambda **_: splits, "dataset_kwargs": None}
    return config


def _shots(config: Mapping[str, Any], settings: TaskSettings, where: str) -> int | None:
    """Return the number of few-shot examples: the config's, else the YAML's."""
    own, asked = config.get("num_fewshot"), settings.num_fewshot
    if own == 0 and asked:
        raise UserError(
            f"{where}: num_fewshot: its YAML says 0, which lm-evaluation-harness keeps whatever is "
            f"asked for; take num_fewshot: {asked} off, or write it under overrides"
        )
    shots = own if asked is None else asked
    if shots is not None and (type(shots) is not int or shots < 0):
        raise UserError(f"{where}: num_fewshot: a number from 0 on is expected, not {shots!r}")
    return shots


def _with_data(
    config: Mapping[str, Any], settings: TaskSettings, shots: int | None, where: str
) -> dict[str, Any]:
    """Return the keys that put the data file in the place of the split that lm-eval evaluates."""
    assert settings.data_file is not None
    split = settings.split
    examples = {EXAMPLES: settings.fewshot_file} if settings.fewshot_file and shots else {}
    splits = Splits({**examples, split: settings.data_file})
    tests, validates = config.get("test_split"), config.get("validation_split")
    place = "test_split" if tests and (tests == split or validates != split) else "validation_split"
    changed: dict[str, Any] = {
        "custom_dataset": lambda **_: splits,
        "dataset_kwargs": None,
        "training_split": None,
        "validation_split": None,
        "test_split": None,
        place: split,
        "fewshot_split": EXAMPLES if examples else _fewshot_split(config, settings, shots, where),
    }
    fewshot = config.get("fewshot_config")
    if isinstance(fewshot, Mapping) and "split" in fewshot:
        changed["fewshot_config"] = {**fewshot, "split": changed["fewshot_split"]}
    return changed


def _fewshot_split(
    config: Mapping[str, Any], settings: TaskSettings, shots: int | None, where: str
) -> str | None:
    """Return the split of the few-shot examples, as lm-eval chooses it, where a file is the only
    split.

    None leaves the choice to lm-eval: the YAML's own examples, or else the file.
    """
    fewshot = config.get("fewshot_config") or {}
    named = fewshot["split"] if "split" in fewshot else config.get("fewshot_split")
    if named is None and fewshot.get("samples") is not None:
        return None
    splits = ("training_split", "validation_split", "test_split")
    chosen = named or next((config[key] for key in splits if config.get(key)), settings.split)
    if chosen == settings.split:
        return named
    if not shots:
        return None
    if {"fewshot_config", "fewshot_split"} & set(settings.overrides):
        return settings.split
    raise UserError(
        f'{where}: its few-shot examples are in split "{chosen}", and its `data` are split '
        f'"{settings.split}" alone; in a config, name a file of examples (data.fewshot), or set '
        f"overrides: {{fewshot_config: {{sampler: first_n}}}} to keep the first {shots} documents "
        "for the prompt; or take num_fewshot: 0"
    )


def _check_metrics(config: Mapping[str, Any], settings: TaskSettings, where: str) -> None:
    """Refuse a config's metrics that lm-eval would take from a library that runs their code."""
    metrics = settings.overrides.get("metric_list") or []
    if not isinstance(metrics, list) or not all(isinstance(m, Mapping) for m in metrics):
        raise UserError(f"{where}: overrides.metric_list: a list of mappings is expected")
    for entry in metrics:
        name = str(entry.get("metric"))
        own = config.get("process_results") is not None or name in metric_registry
        if entry.get("hf_evaluate") or not own:
            raise UserError(
                f"{where}: overrides.metric_list: {name!r} is no metric of lm-evaluation-harness, "
                "which would look for it in a library that runs downloaded code; it has "
                f"{', '.join(sorted(metric_registry))}"
            )


def _unfinished(error: Exception) -> ConfigurableTask | None:
    """Return the task that lm-eval was building when it failed on a document."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        task = frame.f_locals.get("self")
        if isinstance(task, ConfigurableTask) and hasattr(task, "multiple_target"):
            return task
    return None
