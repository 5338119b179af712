"""Compares every plan of a stage with the base."""

from frankenlab.analyse.comparisons import concatenated, stage_comparisons
from frankenlab.analyse.race_rounds import Round, all_grown, dropped
from frankenlab.analyse.shrinkage import with_shrunken
from frankenlab.io.parquet import read_parquet, write_parquet
from frankenlab.io.records import read_record
from frankenlab.models.franken import GROWN, Manifest
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    groups = {
        item["plan"]: item["group"]
        for path in snakemake.input.frankens
        for item in read_record(path, Manifest)["frankens"]
    }
    races = [read_record(path, Round) for path in snakemake.input.races]
    grown = {item["plan"] for item in all_grown(races)}
    groups |= dict.fromkeys(grown, GROWN)
    scores = concatenated(map(read_parquet, snakemake.input.scores))
    table = stage_comparisons(
        scores,
        experiment.tasks,
        groups,
        dropped(races),
        {name: model.n_layers for name, model in experiment.models.items()},
        experiment.settings.statistics,
    )
    if snakemake.wildcards.stage == "search":
        table = with_shrunken(table, scores, experiment.tasks, grown)
    write_parquet(table, snakemake.output[0])
