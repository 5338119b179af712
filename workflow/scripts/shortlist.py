"""Picks the plans that go from search to select."""

from frankenlab.analysis import shortlist
from frankenlab.files import write_json
from frankenlab.job import job
from frankenlab.parquet import read_parquet

with job(snakemake) as experiment:
    table = read_parquet(snakemake.input[0])
    plans = shortlist(table, experiment.raw["stages"]["select"]["shortlist"])
    write_json(snakemake.output[0], {"model": snakemake.wildcards.model, "plans": plans})
