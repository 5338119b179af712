import atexit
import fcntl
import json
import sys
from pathlib import Path

from frankenlab import config as configuration
from frankenlab import capacity, fingerprints, grid, planning, rounds, shards
from frankenlab import task_index
from frankenlab.errors import UserError
from frankenlab.files import remove_truncated, write_if_changed

try:
    EXPERIMENT = configuration.check(config)
    GRIDS = {
        model.name: grid.expand(EXPERIMENT.raw["plans"], model.n_layers)
        for model in EXPERIMENT.models.values()
    }
except UserError as error:
    raise SystemExit(str(error)) from None

SETTINGS = EXPERIMENT.raw
RESULTS = f"results/{EXPERIMENT.name}"
LOGS = f"{RESULTS}/logs"
STORE = "results/store"
LEDGER = "results/ledger.jsonl"
SCRIPTS = Path(workflow.basedir) / "workflow" / "scripts"
EXL2 = "resources/exl2/{folder}/{key}"
SHARDS = range(SETTINGS["stages"]["search"]["shards"])


wildcard_constraints:
    model="|".join(map(re.escape, EXPERIMENT.models)),
    quantization="|".join(map(re.escape, EXPERIMENT.quantizations)),
    key="[0-9a-f]+",
    task="|".join(map(re.escape, EXPERIMENT.tasks)),
    stage=r"search|search-\d+|select|confirm",
    round=r"\d+",
    shard=r"\d+",


def stage_tasks(stage):
    return list(EXPERIMENT.tasks) if stage == "confirm" else EXPERIMENT.search_tasks


def stage_shards(stage):
    return SHARDS if rounds.split(stage)[0] == "search" else [0]


def race_file(model, number):
    """Which plans go on after a round of a search."""
    return f"{RESULTS}/races/{model}.{number}.json"


def race_files(model):
    """Of every round but the last, which drops nothing; none where the search is no race."""
    last = len(EXPERIMENT.evaluations("search"))
    return [race_file(model, number) for number in range(1, last)]


def earlier_race(wildcards):
    """What the round before this one decided; nothing before the first."""
    number = int(
        wildcards.get("round", 0) or rounds.split(wildcards.get("stage", ""))[1] or 1
    )
    return race_file(wildcards.model, number - 1) if number > 1 else []


def model_manifest(model):
    return f"{EXPERIMENT.weights_folder(model)}/manifest.json"


def weights_manifest(model, quantization):
    """Of a model as distributed ("none") or quantized."""
    return f"{EXPERIMENT.weights_folder(model, quantization)}/manifest.json"


def model_in(folder):
    return next(m.name for m in EXPERIMENT.models.values() if m.folder == folder)


def calibration_data():
    """What holds the quantizer's text: a package's manifest or a local file."""
    if EXPERIMENT.calibration is None:
        return []
    given = SETTINGS["exl2"]["calibration"]
    return data_manifest(given["source"]) if "source" in given else given["file"]


def data_manifest(name):
    return f"resources/data/{configuration.data_folder(name, EXPERIMENT.data[name])}/manifest.json"


def task_data(task):
    """What holds a task's documents: a package's manifest, a local file, or nothing (the hub)."""
    given = SETTINGS["tasks"][task].get("data")
    if given is None:
        return []
    return data_manifest(given["source"]) if "source" in given else given["file"]


def stamp(name, content):
    """A small file that changes when, and only when, `content` does.

    As an input it makes a job stale exactly then: a comment or a fresh checkout changes nothing,
    and results that were copied without Snakemake's own metadata still carry it.
    """
    path = f"{RESULTS}/stamps/{name}.json"
    write_if_changed(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
    return path


def script_stamp(name, **settings):
    """Stamp of a script with all of the package that it reaches, and the settings it reads."""
    code = fingerprints.code_fingerprint(SCRIPTS / f"{name}.py")
    return stamp(f"scripts/{name}", {"code": code, "settings": settings})


def task_stamp(stage, task, model, quantization):
    """What a task is in a stage: prompt, data, documents; and the arithmetic of these weights."""
    settings = EXPERIMENT.tasks[task]
    return stamp(
        f"tasks/{stage}.{task}.{model}.{quantization}",
        {
            "config": SETTINGS["tasks"][task],
            "yaml": task_index.task_fingerprint(
                task_index.task_file(settings.task, configuration.TASKS_FOLDER)
            ),
            "limit": EXPERIMENT.limit(stage, task),
            "precision": EXPERIMENT.precision(stage, model, quantization),
            "engine": EXPERIMENT.engine(model, quantization),
            "libraries": fingerprints.library_versions(),
        },
    )


def shard_stamp(model, shard):
    """The plans of one shard of a model's grid."""
    members = shards.members(GRIDS[model].plans, len(SHARDS), int(shard))
    plans = [[item.plan.text, item.group] for item in members]
    return stamp(f"shards/{model}.{shard}", plans)


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
        shard=stage_shards(stage),
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
        shard=stage_shards(stage),
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


def print_summary():
    """Only now is it known whether this was a dry run."""
    if workflow.dryrun:
        print(planning.summary(EXPERIMENT))


if workflow.is_main_process:
    atexit.register(print_summary)
    for _path in remove_truncated(RESULTS):
        print(
            f"warning: {_path} is truncated: removed, to be made again", file=sys.stderr
        )
    for _line in capacity.too_large(EXPERIMENT):
        print(f"warning: {_line}; it will be refused", file=sys.stderr)
    for _model, _grid in GRIDS.items():
        for _text, _group in _grid.folded:
            print(
                f"notice: {_model}: plan {_text} ({_group}) is there already",
                file=sys.stderr,
            )


# Open files whose locks last as long as this process.
HELD = []


onstart:
    # Snakemake's own lock outlives a kill; this one ends with the process.
    Path("results").mkdir(exist_ok=True)
    HELD.append(open("results/.lock", "w"))
    try:
        fcntl.flock(HELD[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SystemExit(
            "another workflow is running on this results folder; wait for it or stop it"
        )
