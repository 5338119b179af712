"""Fetches a package or folder of data sets."""

from pathlib import Path

from frankenlab.job import job
from frankenlab.sources import fetch_data

with job(snakemake) as experiment:
    fetch_data(experiment.data[snakemake.params.name], Path(snakemake.output.manifest).parent)
