"""Scores the frankens of a shard on a task in a stage."""

from frankenlab import ledger
from frankenlab.evaluation import evaluate_task, write_scores
from frankenlab.frankens import plans_of
from frankenlab.job import job
from frankenlab.quantizing import evaluation_excludes
from frankenlab.records import FRANKENS, read_record
from frankenlab.rounds import split
from frankenlab.scorer import Scorer

with job(snakemake) as experiment:
    where = snakemake.wildcards
    frankens = read_record(snakemake.input.frankens, FRANKENS)
    scorer = Scorer.for_stage(experiment, where.model, where.quantization, where.stage)
    scores = evaluate_task(
        scorer,
        plans_of(frankens),
        experiment.tasks[where.task],
        stage=split(where.stage)[0],
        limit=experiment.limit(where.stage, where.task),
        store_root=snakemake.params.store,
        seed=experiment.raw["statistics"]["seed"],
        calibration=evaluation_excludes(experiment, where.quantization),
    )
    write_scores(scores, snakemake.output[0])
    if where.stage == "confirm":
        look = {
            "experiment": experiment.name,
            "model": where.model,
            "quantization": where.quantization,
            "task": where.task,
            "plan": frankens["frankens"][1]["plan"],
        }
        ledger.record(snakemake.params.ledger, look, sorted(scores["key"].unique()))
