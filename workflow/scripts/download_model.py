"""Fetches a model as a Hugging Face directory."""

from pathlib import Path

from frankenlab.runtime.job import job

with job(snakemake, network=True) as experiment:
    from frankenlab.models.fetch import fetch_model

    model = experiment.models[snakemake.params.model]
    folder = Path(snakemake.output.manifest).parent
    fetch_model(model.source, folder, model.n_layers, model.description, model.sizes)
