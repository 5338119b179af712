"""Scores the frankens of a shard on a task in a stage."""

from frankenlab.analyse import ledger
from frankenlab.config.stages import Stage
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.evaluate.runner import evaluate_task
from frankenlab.io.parquet import write_parquet
from frankenlab.io.records import read_record
from frankenlab.models.franken import CONTROL, Manifest, plans_of
from frankenlab.quantize.calibration import evaluation_excludes
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    where = snakemake.wildcards
    frankens = read_record(snakemake.input.frankens, Manifest)
    stage = Stage.parse(where.stage)
    model = ModelSpec.for_stage(experiment, where.model, where.quantization, stage)
    controls = experiment.runs_controls(where.model, where.quantization, where.task)
    scores = evaluate_task(
        model,
        plans_of(frankens, without=[] if controls else [CONTROL]),
        experiment.task(where.task),
        stage=stage.name,
        limit=experiment.limit(stage, where.task),
        store_root=snakemake.params.store,
        seed=experiment.settings.statistics.seed,
        draw=experiment.settings.stages.seed,
        calibration=evaluation_excludes(experiment, where.quantization),
    )
    write_parquet(scores, snakemake.output[0])
    # Another prompt is no further look: the task's own was looked at on the same documents.
    if stage.name == "confirm" and where.task in experiment.tasks:
        look = {
            "experiment": experiment.name,
            "model": where.model,
            "quantization": where.quantization,
            "task": where.task,
            "plan": frankens["frankens"][1]["plan"],
        }
        ledger.record(snakemake.params.ledger, look, sorted(scores["key"].unique()))
