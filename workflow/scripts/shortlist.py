"""Picks the plans that go from search to select."""

from frankenlab.analyse.selection import shortlist
from frankenlab.io.files import write_json
from frankenlab.io.parquet import read_parquet
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    table = read_parquet(snakemake.input[0])
    plans = shortlist(table, experiment.settings.stages.select.shortlist)
    write_json(snakemake.output[0], {"model": snakemake.wildcards.model, "plans": plans})
