"""Fetches a package or folder of data sets."""

from pathlib import Path

from frankenlab.models.fetch import fetch_data
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    fetch_data(experiment.data[snakemake.params.name], Path(snakemake.output.manifest).parent)
