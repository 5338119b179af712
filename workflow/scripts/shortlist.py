"""Picks the plans that go from search to select."""

import pandas as pd

from frankenlab.analysis import shortlist
from frankenlab.files import write_json
from frankenlab.job import job

with job(snakemake) as experiment:
    table = pd.read_parquet(snakemake.input[0])
    plans = shortlist(table, experiment.raw["stages"]["select"]["shortlist"])
    write_json(snakemake.output[0], {"model": snakemake.wildcards.model, "plans": plans})
