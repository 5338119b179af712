"""Scores the frankens of a shard on a task in a stage."""

import json
from pathlib import Path

from frankenlab import ledger
from frankenlab.directories import read_manifest
from frankenlab.evaluation import Scorer, evaluate_task, write_scores
from frankenlab.frankens import plans_of
from frankenlab.job import job
from frankenlab.models import weights_hash

with job(snakemake) as experiment:
    where = snakemake.wildcards
    directory = Path(snakemake.input.model).parent
    frankens = json.loads(Path(snakemake.input.frankens).read_text())
    scorer = Scorer(
        directory=directory,
        model=where.model,
        weights=weights_hash(read_manifest(directory)),
        quantization=where.quantization,
        engine=experiment.engine(where.model, where.quantization),
        precision=experiment.precision(where.stage, where.model, where.quantization),
        device=experiment.raw["device"],
        token_budget=experiment.raw["token_budget"],
    )
    scores = evaluate_task(
        scorer,
        plans_of(frankens),
        experiment.tasks[where.task],
        stage=where.stage,
        limit=experiment.limit(where.stage, where.task),
        store_root=snakemake.params.store,
        seed=experiment.raw["statistics"]["seed"],
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
