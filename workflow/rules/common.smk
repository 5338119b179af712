from functools import cache
from pathlib import Path

from frankenlab import __version__
from frankenlab.config import experiment as configuration
from frankenlab.config.command_line import with_types
from frankenlab.config.stages import Stage
from frankenlab.estimate.resources import resources as resources_of
from frankenlab.estimate.jobs import job_of
from frankenlab.io import fingerprints
from frankenlab.io.errors import UserError
from frankenlab.plans import plan as plans
from frankenlab.report import answer as answers
from frankenlab.report.figures import catalogue
from frankenlab.report.results import CAPTIONS, NOTEBOOKS
from frankenlab.runtime.modules import workflow_run
from frankenlab.runtime.processes import memory_mb
from frankenlab.runtime.stamps import local_data

# A module may have been given a part of the config, or another one.
WHOLE = config is workflow.modifier_stack[0].globals["config"]

try:
    # Snakemake's own reader keeps the last of two equal keys without a word.
    for _path in workflow.configfiles if workflow.is_main_process and WHOLE else []:
        configuration.read(_path)
    # "answer" is ours: `use rule ... with` reads a module's files once more.
    _read = {key: value for key, value in config.items() if key != "answer"}
    EXPERIMENT = configuration.check(with_types(_read, workflow.config_settings.config))
    RUN = workflow_run(workflow, EXPERIMENT, rules)
except UserError as error:
    raise SystemExit(str(error)) from None

# `use rule ... with` would know no checkpoint but its own.
checkpoints = RUN.checkpoints
SETTINGS = EXPERIMENT.settings
IMAGE_TAG = __version__ + ("-cuda" if SETTINGS.device == "cuda" else "")
# The captions of Snakemake's report read the config, defaults included.
config.update(SETTINGS.plain())
# Its first page opens with the answer, once there is one.
if RUN.reporting:
    config["answer"] = answers.sentences(f"{RUN.results}/report/answer.json")
# Where a module has a `prefix:`, Snakemake puts it before the paths of rules, and `placed` before
# those that only scripts read. What is shared by all experiments (`local`) stays where it is.
RESULTS = f"results/{EXPERIMENT.name}"
LOGS = f"{RESULTS}/logs"
STORE = RUN.placed("results/store")
LEDGER = RUN.placed("results/ledger.jsonl")
EXL2 = "resources/exl2/{folder}/{key}"

# Of this machine. On a cluster there is no such number, and the profile's set-threads decides: what
# the login node has says nothing about the nodes.
CORES = workflow.resource_settings.cores or 1

# Jobs that run models on a CPU take half of the cores each: two side by side lose nothing, and one
# reads files and imports while the other computes. One that scores takes all while it is alone.
HALF = max(1, CORES // 2) if SETTINGS.device == "cpu" else CORES

# As long as both fit in this machine's memory. On a cluster the scheduler sees to that.
if workflow.resource_settings.cores and "mem_mb" not in workflow.global_resources:
    workflow.register_resource("mem_mb", memory_mb())


# The priority of short jobs that many others wait for: above any number of seconds.
SOON = 10**7


MODELS = list(EXPERIMENT.models.values())
FOLDERS = [*(model.folder for model in MODELS), *EXPERIMENT.downloads]
KEYS = [EXPERIMENT.quantized_folder(m.name).name for m in MODELS if m.to_quantize]


wildcard_constraints:
    model="|".join(map(re.escape, EXPERIMENT.models)),
    quantization="|".join(map(re.escape, EXPERIMENT.quantizations)),
    # No others, as another module of the workflow may have these.
    folder="|".join(map(re.escape, FOLDERS)),
    key="|".join(KEYS) or "none",
    stage=r"search|search-\d+|select|confirm",
    round=r"\d+",
    shard=r"\d+",


onstart:
    RUN.start()


onerror:
    RUN.fail()


def downloads_here(rule):
    """Tell whether a download runs where the workflow was started, for nodes of a cluster often
    have no network; unless the profile gives it a partition that has one."""
    name = workflow.modifier.modify_rulename(rule)
    asked = workflow.resource_settings.overwrite_resources.get(name, {})
    return "slurm_partition" not in asked


def by_attempt(amount):
    """Return an amount that grows when a job is tried again, as it may have died of too little."""
    return lambda wildcards, attempt: amount * attempt


def predicted(rule, resource):
    """Return what a job that runs a model asks for, which grows with its work and each attempt."""

    def ask(wildcards, attempt):
        job = job_of(EXPERIMENT, rule, wildcards)
        return getattr(resources_of(RUN.prediction, job, attempt, RUN.limits), resource)

    return ask


def gpus_of_model(wildcards):
    """Return how many GPUs a job takes that runs a model; it is split over several."""
    return EXPERIMENT.gpus(wildcards.model, wildcards.quantization)


def longest_first(rule):
    """Return the priority of a job that runs a model: the seconds that it is predicted to take.

    Of a few jobs on a few cores, a long one that starts last leaves all cores but its own idle.
    """

    def seconds(wildcards):
        return round(RUN.prediction.seconds(job_of(EXPERIMENT, rule, wildcards)) or 0)

    return seconds


def script_stamp(name, whole=False, **settings):
    """Return a small file that changes with what a script does, and with its settings; with what
    surrounds its job too, where the whole of it counts."""
    return lambda w: RUN.script_stamp(name, settings, whole, w.get("key", ""))


def cell_stamp(name, settings=lambda model, quantization: {}):
    """Return the same for a script that runs a model at a quantization, with the one engine that
    runs these weights."""
    return lambda w: RUN.cell_stamp(
        name,
        w.model,
        w.quantization,
        settings(w.model, w.quantization),
    )


def stage_tasks(stage):
    return [task.name for task in RUN.workload.tasks(Stage.parse(stage))]


def job_tasks(wildcards):
    """Return what a scoring job scores: the tasks of its stage, other prompts of them included."""
    stage = Stage.parse(wildcards.stage)
    found = RUN.workload.scored(wildcards.model, wildcards.quantization, stage)
    return [task.name for task in found]


def race_file(model, number):
    """Return the file that says which plans go on after a round of a search, new ones too."""
    return f"{RESULTS}/races/{model}.{number}.json"


def race_files(model):
    """Return these files of all rounds but the last, which drops and grows nothing; none where
    the search has one round."""
    rounds = EXPERIMENT.rounds("search")
    return [race_file(model, stage.round) for stage in rounds[:-1]]


def earlier_race(wildcards):
    """Return the file of the round before this one; nothing before the first round."""
    number = wildcards.get("round")
    stage = Stage("search", int(number)) if number else Stage.parse(wildcards.stage)
    return race_file(wildcards.model, stage.before.round) if stage.before else []


# What a probe writes: numbers of each layer, of each pair of states, and which documents it saw.
PROBED = ["layers", "similarity", "documents"]


def probed(name):
    """Return one of these files of every model, at its reference; nothing without a probe."""
    return [
        f"{RESULTS}/probe/{model.name}/{model.reference}/{name}.parquet"
        for model in EXPERIMENT.models.values()
        if SETTINGS.probe.documents
    ]


def model_manifest(model):
    return local(f"{EXPERIMENT.weights_folder(model)}/manifest.json")


def weights_manifest(model, quantization):
    """Return the manifest of a model as distributed ("none") or quantized."""
    return local(f"{EXPERIMENT.weights_folder(model, quantization)}/manifest.json")


def model_in(folder):
    return next(m.name for m in EXPERIMENT.models.values() if m.folder == folder)


def data_manifest(name):
    folder = configuration.data_folder(name, EXPERIMENT.data[name])
    return local(f"resources/data/{folder}/manifest.json")


def data_input(given):
    """Return what holds data that a config names: a package's manifest or a local file."""
    if given is None:
        return []
    return data_manifest(given.source) if given.source else local(given.file)


def task_data(task):
    """Return what holds a task's data: the manifest of a package or of a data set of the hub, or
    local files."""
    given = EXPERIMENT.task_entry(task).data
    if given and given.source:
        return [data_manifest(given.source)]
    return [local(str(file)) for file in EXPERIMENT.task(task).files]


DATA_MANIFESTS = [
    local(f"resources/data/{folder}/manifest.json") for folder in EXPERIMENT.downloads
]

RUN.shared = [
    *map(model_manifest, EXPERIMENT.models),
    *DATA_MANIFESTS,
    *[weights_manifest(*cell) for cell in EXPERIMENT.cells],
    *[
        f"{EXPERIMENT.quantized_folder(model.name)}/measurement.json"
        for model in EXPERIMENT.models.values()
        if model.to_quantize
    ],
]


def downloads(wildcards):
    """Return the manifests of all models and data; those whose files were purged are made again."""
    return RUN.whole([*map(model_manifest, EXPERIMENT.models), *DATA_MANIFESTS])


# The quantizer's text, where anything is quantized.
CALIBRATION = EXPERIMENT.calibration and SETTINGS.exl2.calibration


def score_files(tasks):
    """Return the files of scores that a job writes, one for each task."""
    return [
        f"{RESULTS}/scores/{{stage}}/{{model}}/{{quantization}}/{task}.{{shard}}.parquet"
        for task in tasks
    ]


def scores(stages, model, quantization, task):
    """Return the scores of all shards of a task, in a stage or in its rounds."""
    return expand(
        f"{RESULTS}/scores/{{stage}}/{model}/{quantization}/{task}.{{shard}}.parquet",
        stage=stages,
        shard=RUN.workload.shards(model, stages[0]),
    )


def stage_scores(stage, model):
    return [
        path
        for quantization in EXPERIMENT.stage_quantizations(Stage(stage), model)
        for task in stage_tasks(stage)
        for path in scores(EXPERIMENT.rounds(stage), model, quantization, task)
    ]


def choice_scores(stages, model):
    """Return the scores by which the franken is chosen: search tasks, at the reference bitrate."""
    return [
        path
        for stage in stages
        for task in EXPERIMENT.search_tasks
        for path in scores(
            EXPERIMENT.rounds(stage), model, EXPERIMENT.models[model].reference, task
        )
    ]


def prompted_scores(model):
    """Return the scores of the confirmed plans under other prompts, which no verdict rests on."""
    reference = EXPERIMENT.models[model].reference
    return [
        path
        for name in EXPERIMENT.variants
        for path in scores([Stage("confirm")], model, reference, name)
    ]


def stage_frankens(stage, model):
    """Return the manifests of all plans of a stage but those that a search grows; a race begins
    with every plan of the grid."""
    first = EXPERIMENT.rounds(stage)[0]
    return expand(
        f"{RESULTS}/frankens/{model}/{EXPERIMENT.models[model].reference}/{first}.{{shard}}.json",
        shard=RUN.workload.shards(model, first),
    )


def reference_comparisons(stage, model):
    """Return the comparisons that the franken is chosen by, at the reference bitrate alone."""
    return f"{RESULTS}/comparisons/{stage}/{model}/{EXPERIMENT.models[model].reference}.parquet"


def plans_file(wildcards):
    """Return the file in which a stage's plans are written down."""
    if Stage.parse(wildcards.stage).searches:
        return RUN.shard_stamp(wildcards.model, int(wildcards.shard))
    folder = "shortlist" if wildcards.stage == "select" else "frozen"
    return f"{RESULTS}/{folder}/{wildcards.model}.json"


def chosen(wildcards):
    """Return nothing, once it is known which plans a stage runs.

    Whoever has this among its inputs is looked at again when a checkpoint has chosen the plans, so
    that it does not run where they are the same as before.
    """
    stage = wildcards.get("stage", "confirm")
    if stage == "select":
        checkpoints.shortlist.get(model=wildcards.model)
    elif stage == "confirm":
        others = EXPERIMENT.models if SETTINGS.stages.confirm.transfer else []
        for model in dict.fromkeys([wildcards.model, *others]):
            checkpoints.freeze.get(model=model)
    return []


def other_frozen(wildcards):
    """Return the frozen plans of the other models, where this one confirms them too."""
    if wildcards.stage != "confirm" or not SETTINGS.stages.confirm.transfer:
        return []
    return [
        f"{RESULTS}/frozen/{model}.json"
        for model in EXPERIMENT.models
        if model != wildcards.model
    ]


def frozen_file(wildcards):
    """Return what the plan of a checkpoint follows from: nothing, if the plan is written out."""
    if wildcards.plan == "frozen":
        return f"{RESULTS}/frozen/{wildcards.model}.json"
    try:
        plans.parse(wildcards.plan, EXPERIMENT.models[wildcards.model].n_layers)
    except UserError as error:
        raise SystemExit(str(error)) from None
    return []


def figures(names, folder):
    """Return the files of figures: of each an SVG, in Snakemake's report, a PNG and its spec."""
    return [
        flag
        for name in names
        for flag in (figure(name, folder), *more_of_figure(name, folder))
    ]


def more_of_figure(name, folder):
    return [
        str(Path(RESULTS, "figures", folder, f"{name}.{suffix}"))
        for suffix in ("json", "png")
    ]


def figure(name, folder):
    """Return a figure as SVG, under the question that it answers."""
    kind, _, task = name.partition(".")
    return report(
        str(Path(RESULTS, "figures", folder, f"{name}.svg")),
        caption=f"../report/figures/{kind}.rst",
        category=catalogue.entry_of(name).category,
        subcategory=", ".join(Path(folder).parts) or "all models",
        labels={"figure": kind.replace("_", " ")} | ({"task": task} if task else {}),
    )


def drawn(model, suffixes=("svg", "json")):
    """Return the figures of a model that its page shows."""
    cases = [(CONFIRM_FIGURES, q) for q in EXPERIMENT.models[model].quantizations]
    cases += [(SEARCH_FIGURES, EXPERIMENT.models[model].reference)]
    cases += [(["bits"], "")] if model in BITS_MODELS else []
    return [
        str(Path(RESULTS, "figures", model, quantization, f"{name}.{suffix}"))
        for names, quantization in cases
        for name in names
        for suffix in suffixes
    ]
