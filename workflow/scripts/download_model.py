"""Fetches a model as a Hugging Face directory; `snakemake` is Snakemake's."""

from pathlib import Path

from frankenlab.job import job
from frankenlab.models import fetch_model

with job(snakemake) as experiment:
    model = experiment.models[snakemake.params.model]
    folder = Path(snakemake.output.manifest).parent
    fetch_model(model.source, folder, model.n_layers, model.description)
