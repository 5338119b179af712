"""Scores the frankens of a shard on the tasks of a stage."""

# ruff: noqa: E402

from frankenlab.runtime.meanwhile import import_torch_meanwhile

# Before the other imports, which take as long.
import_torch_meanwhile()

from frankenlab.analyse import ledger
from frankenlab.config.stages import CONFIRM, Stage
from frankenlab.estimate.work import Workload
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.evaluate.runner import TaskPlans, evaluate_tasks
from frankenlab.io.parquet import write_parquet
from frankenlab.io.records import read_record
from frankenlab.models.franken import CONTROL, Manifest, plans_of
from frankenlab.quantize.calibration import evaluation_excludes
from frankenlab.runtime.job import job
from frankenlab.runtime.processes import spare_cores

with job(snakemake) as experiment:
    cell = snakemake.wildcards.model, snakemake.wildcards.quantization
    stage = Stage.parse(snakemake.wildcards.stage)
    frankens = read_record(snakemake.input.frankens, Manifest)
    names = [task.name for task in Workload(experiment).scored(*cell, stage)]
    work = [
        TaskPlans(
            experiment.task(name),
            plans_of(frankens, without=[] if experiment.runs_controls(*cell, name) else [CONTROL]),
            experiment.limit(stage, name),
        )
        for name in names
    ]
    tables = evaluate_tasks(
        ModelSpec.for_stage(experiment, *cell, stage),
        work,
        stage.name,
        snakemake.params.store,
        seed=experiment.settings.statistics.seed,
        draw=experiment.settings.stages.seed,
        calibration=evaluation_excludes(experiment, cell[1]),
        before_plan=spare_cores(snakemake.threads),
    )
    for name, path, scores in zip(names, snakemake.output, tables, strict=True):
        write_parquet(scores, path)
        # Another prompt is no further look: the task's own was looked at on the same documents.
        if stage.name == CONFIRM and name in experiment.tasks:
            look = {
                "experiment": experiment.name,
                "model": cell[0],
                "quantization": cell[1],
                "task": name,
                "plan": frankens["frankens"][1]["plan"],
            }
            ledger.record(snakemake.params.ledger, look, sorted(scores["key"].unique()))
