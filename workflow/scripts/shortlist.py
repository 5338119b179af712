"""Picks the plans that go from search to select."""

from frankenlab.analyse.selection import best_of, shortlist
from frankenlab.io.files import write_json
from frankenlab.io.parquet import read_parquet
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    table = read_parquet(snakemake.input[0])
    model = experiment.models[snakemake.wildcards.model]
    stages = experiment.settings.stages
    plans = shortlist(table, stages.select.shortlist)
    best = best_of(table, stages.confirm.best_of, model.n_layers)
    write_json(snakemake.output[0], {"model": model.name, "plans": plans, "best_of": best})
