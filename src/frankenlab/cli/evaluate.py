"""The command `evaluate`, which scores plans of a model on tasks beside the base."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frankenlab.cli.options import (
    add_command,
    add_config,
    config_name,
    experiment_of,
    notice,
    notice_omissions,
    path,
    positive,
    whole,
)
from frankenlab.io.errors import UserError, excerpt
from frankenlab.io.files import no_file

if TYPE_CHECKING:
    from frankenlab.config.experiment import Experiment
    from frankenlab.evaluate.model_spec import ModelSpec
    from frankenlab.plans.plan import Plan
    from frankenlab.tasks.index import TaskSettings

# Number formats by their names in torch, and by the short ones that people write.
DTYPES = {name: name for name in ("float32", "float16", "bfloat16")}
DTYPES |= {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

STORE = Path("results/store")


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "evaluate",
        "score plans on tasks: a table of each plan's scores and of its change against the base",
        _run,
        'smollm2-135m-instruct --plan "0:24,23:30" --task arc_easy --limit 100',
        "MODEL_DIR --plans plans.txt --task arc_easy --task piqa --output scores.parquet",
        'owner/name --plan "0:20,10:30" --task sciq --dtype bf16 --output results.json',
        'MODEL_DIR --plan "0:20,10:30" --task arc_challenge --data questions.jsonl',
    )
    add = parser.add_argument
    model_help = (
        "a Hugging Face or EXL2 directory, a model of the config, or owner/name of the Hugging "
        "Face hub (owner/name@commit for another version than the latest); what is not here yet is "
        "downloaded to resources/"
    )
    add("model", metavar="MODEL", help=model_help)
    plan_help = (
        'a plan, such as "0:20,10:30"; may be given several times. The base is always scored too'
    )
    add("--plan", action="append", default=[], help=plan_help)
    plans_help = "a file with one plan in each line; what follows a # is a comment"
    add("--plans", type=path, metavar="FILE", help=plans_help)
    task_help = (
        "a task of the config, of config/tasks/ or of lm-evaluation-harness (`frankenlab tasks` "
        "lists them); may be given several times"
    )
    add("--task", action="append", required=True, help=task_help)
    data_help = (
        "a file of documents (.jsonl, .json, .csv, .tsv, .parquet or .arrow) that replaces the "
        "task's data set; where there are several tasks, TASK= names the one"
    )
    add("--data", action="append", default=[], metavar="[TASK=]FILE", help=data_help)
    metric_help = "the primary metric of all tasks (default: the config's, else the task's first)"
    add("--metric", help=metric_help)
    shots_help = "number of few-shot examples (default: the task's)"
    add("--num-fewshot", type=whole, metavar="N", help=shots_help)
    stages = ("search", "select", "confirm")
    add("--stage", choices=stages, help="score the documents of this stage only (default: all)")
    add("--limit", type=positive, metavar="N", help="most documents to score of each task")
    engine_help = "what runs the model; exllamav2 needs EXL2 weights and cuda (default: torch)"
    add("--engine", choices=("torch", "exllamav2"), default="torch", help=engine_help)
    dtype_help = "number format that the model computes in (default: bfloat16; exllamav2: float16)"
    add("--dtype", choices=DTYPES, help=dtype_help)
    device_help = "where the model runs; auto takes cuda where there is a GPU (default: auto)"
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help=device_help)
    gpus_help = "how many GPUs the model is split over, by layers (default: 1)"
    add("--gpus", type=positive, default=1, metavar="N", help=gpus_help)
    budget_help = "most tokens in a batch (default: 4096)"
    add("--token-budget", type=positive, metavar="N", help=budget_help)
    store_help = f"the folder that keeps scored rows for later runs (default: {STORE})"
    add("--store", type=path, default=STORE, metavar="FOLDER", help=store_help)
    output_help = (
        "a file to write: .parquet or .csv get a row for each plan and document, .json gets the "
        "results as lm-evaluation-harness writes them (the base under the task's name, a plan "
        "under 'task [plan]')"
    )
    add("--output", type=path, metavar="FILE", help=output_help)
    add("--force", action="store_true", help="replace an output that exists")
    add_config(parser)


def _run(options: argparse.Namespace) -> None:
    from frankenlab.cli import scores as results
    from frankenlab.evaluate import runner

    if options.output:
        results.check_output(options.output, options.force)
    results.check_folder(options.store.absolute(), f"--store {options.store}")
    experiment = experiment_of(options)
    tasks = _tasks(options, experiment)
    texts = _plan_texts(options)
    directory = _model_directory(options, experiment)
    plans = _plans(texts, directory)
    model = _model(options, directory)
    scores, tables = [], []
    for task in tasks:
        found = runner.evaluate_task(
            model, plans, task, options.stage, options.limit, options.store
        )
        scores.append(found)
        tables.append(results.compared(found, task, experiment.settings.statistics))
        print(results.printed(tables[-1]), flush=True)
    if len(plans) > 1:
        print(results.EXPLANATION)
    if len(plans) > 2:
        print(results.EXPLANATION_OF_Q)
    if options.output:
        about = {task.name: _version_and_shots(task) for task in tasks}
        run = {
            "config": {
                "model": model.name,
                "dtype": model.precision,
                "device": model.device,
                "limit": options.limit,
            },
            "versions": {name: version for name, (version, _) in about.items()},
            "n-shot": {name: shots for name, (_, shots) in about.items()},
        }
        results.write_scores(options.output, scores, tables, run)
        print(options.output)


def _tasks(options: argparse.Namespace, experiment: "Experiment") -> "list[TaskSettings]":
    """Return the tasks that are named, of the config or else of a YAML file, with their data."""
    names = list(dict.fromkeys(options.task))
    data: dict[str, Path] = {}
    for text in options.data:
        task, _, file = text.rpartition("=")
        if not task and len(names) > 1:
            raise UserError(f"--data {text}: for which of the tasks? Write --data TASK=FILE")
        if (task or names[0]) not in names:
            known = ", ".join(names)
            raise UserError(f'--data {text}: "{task}" is not given as --task, only {known}')
        if fault := no_file(file):
            raise UserError(f"--data: {excerpt(file)} {fault}")
        data[task or names[0]] = Path(file)
    return [_task(name, data.get(name), options, experiment) for name in names]


def _task(
    name: str, file: Path | None, options: argparse.Namespace, experiment: "Experiment"
) -> "TaskSettings":
    settings = experiment.tasks.get(name) or _other_task(name, options, experiment)
    if file is not None:
        settings = replace(settings, data_file=file, fewshot_file=None, data_folder=None)
    else:
        _fetch_data(experiment, settings)
    if options.metric:
        settings = replace(settings, metric=options.metric)
    if options.num_fewshot is not None:
        settings = replace(settings, num_fewshot=options.num_fewshot)
    return settings


def _other_task(name: str, options: argparse.Namespace, experiment: "Experiment") -> "TaskSettings":
    """Return a task that is not in the config, as its YAML says."""
    from frankenlab.config.experiment import TASKS_FOLDER
    from frankenlab.models.data_sets import data_set_of, local_files
    from frankenlab.tasks.index import TaskSettings, check_output_type, task_file
    from frankenlab.tasks.listing import usual_metric
    from frankenlab.tasks.yaml_files import task_keys

    try:
        keys = task_keys(task_file(name, TASKS_FOLDER))
        if "class" not in keys:
            check_output_type(keys, f'task "{name}"')
        if not options.data:
            local_files(keys)
    except UserError as error:
        known = excerpt(", ".join(experiment.tasks))
        raise UserError(f"{error} ({config_name(options)} has {known})") from None
    if not options.data and (data_set := data_set_of(keys, None)):
        print(f'task "{name}": its data are those of {data_set.text}', file=sys.stderr)
    return TaskSettings(name=name, task=name, role="search", metric=usual_metric(keys))


def _fetch_data(experiment: "Experiment", task: "TaskSettings") -> None:
    """Download the data of a task of the config, if they are not here yet."""
    from frankenlab.config.experiment import RESOURCES
    from frankenlab.models.fetch import fetch_data

    missing = [file for file in task.files if not file.exists()]
    for folder, source in experiment.downloads.items():
        target = RESOURCES / "data" / folder
        if any(target in file.parents for file in missing):
            fetch_data(source, target)


def _version_and_shots(task: "TaskSettings") -> tuple[Any, int]:
    """Return the version that a task's YAML says, and the number of few-shot examples."""
    from frankenlab.config.experiment import TASKS_FOLDER
    from frankenlab.tasks.index import task_file
    from frankenlab.tasks.yaml_files import task_keys

    keys = {**task_keys(task_file(task.task, TASKS_FOLDER)), **task.overrides}
    about = keys.get("metadata")
    version = about.get("version") if isinstance(about, dict) else None
    asked = task.num_fewshot
    return version, (keys.get("num_fewshot") or 0) if asked is None else asked


def _plan_texts(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return the plans as they are written, each with the line of the file that it stands in or "",
    those of the file last.

    Raises:
        UserError: the file cannot be read, or has no plan.
    """
    texts: list[tuple[str, str]] = [("", text) for text in options.plan]
    if options.plans:
        if fault := no_file(options.plans):
            raise UserError(f"--plans: {excerpt(options.plans)} {fault}")
        try:
            lines = options.plans.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            reason = f"is not UTF-8 text (byte {error.start})"
            raise UserError(f"--plans: {excerpt(options.plans)} {reason}") from None
        found = [
            (f"--plans: {excerpt(options.plans)}, line {number}: ", plan)
            for number, line in enumerate(lines, 1)
            if (plan := line.partition("#")[0].strip())
        ]
        if not found:
            raise UserError(
                f"--plans: {excerpt(options.plans)} has no plan; one a line is expected"
            )
        texts += found
    return texts


def _plans(texts: Sequence[tuple[str, str]], directory: Path) -> "list[Plan]":
    """Return the distinct plans of texts, each of which follows the place where it stands; the base
    is among them."""
    from frankenlab.models.directory import model_shape
    from frankenlab.plans.plan import base, parse

    n_layers = model_shape(directory).n_layers
    plans = []
    for where, text in texts:
        try:
            plans.append(parse(text, n_layers))
        except UserError as error:
            raise UserError(f"{where}{error}") from None
    unique = list(dict.fromkeys(plans))
    if len(unique) < len(plans):
        twice = ", ".join(excerpt(plan.text) for plan in unique if plans.count(plan) > 1)
        notice(f"listed more than once, folded: {twice}")
    notice_omissions(unique)
    whole_model = base(n_layers)
    return unique if whole_model in unique else [whole_model, *unique]


def _model_directory(options: argparse.Namespace, experiment: "Experiment") -> Path:
    """Return where the model is, after its download where it is not here.

    Raises:
        UserError: it is none that is known, or cannot be downloaded.
    """
    from frankenlab.config.experiment import RESOURCES
    from frankenlab.models.fetch import fetch_model, model_of_hub
    from frankenlab.models.sources import source_key

    text: str = options.model
    if Path(text).is_dir():
        return Path(text)
    if model := experiment.models.get(text):
        target = RESOURCES / "models" / model.folder
        fetch_model(model.source, target, model.n_layers, model.description, model.sizes)
        return target
    named = re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?", text)
    if named is None:
        raise UserError(
            f'model "{excerpt(text)}": there is no such directory here, and it is neither a model '
            f"of {config_name(options)} ({excerpt(', '.join(experiment.models))}) nor owner/name "
            "of the Hugging Face hub"
        )
    try:
        source = model_of_hub(named[1], named[2] or "main")
    except UserError as error:
        raise UserError(f'{error} (there is no directory "{excerpt(text)}" here)') from None
    target = RESOURCES / "models" / f"{named[1].rpartition('/')[2]}-{source_key(source)}"
    fetch_model(source, target, None, source.text)
    return target


def _model(options: argparse.Namespace, directory: Path) -> "ModelSpec":
    from frankenlab.evaluate.model_spec import ModelSpec

    device = options.device
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.gpus > 1 and device == "cpu":
        raise UserError(f"--gpus {options.gpus}: needs --device cuda, the device is cpu")
    precision = DTYPES[options.dtype] if options.dtype else None
    model = ModelSpec.for_directory(directory, precision, device, options.engine)
    model = replace(model, gpus=options.gpus)
    budget = options.token_budget
    return replace(model, token_budget=budget) if budget else model
