"""Freezes one franken of a model, with its controls."""

from frankenlab.analyse.comparisons import concatenated
from frankenlab.analyse.selection import Shortlist, freeze, select_plans
from frankenlab.io.files import write_json
from frankenlab.io.parquet import read_parquet
from frankenlab.io.records import read_record
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    model = experiment.models[snakemake.wildcards.model]
    shortlist = read_record(snakemake.input.shortlist, Shortlist)
    plans = [plan for plan, _ in select_plans(shortlist)]
    scores = map(read_parquet, snakemake.input.scores)
    frozen = freeze(
        # A search scores many more plans; a shard that a race emptied has no columns.
        concatenated(rows[rows["plan"].isin(plans)] for rows in scores if len(rows)),
        experiment.tasks,
        shortlist["plans"],
        model.name,
        model.n_layers,
        model.reference,
        experiment.settings.stages.confirm.controls,
        experiment.settings.statistics.seed,
        experiment.settings.stages.confirm.finalists,
        shortlist["best_of"],
    )
    write_json(snakemake.output[0], frozen)
