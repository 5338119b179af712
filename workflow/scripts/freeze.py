"""Freezes one franken of a model, with its controls."""

import pandas as pd

from frankenlab.analysis import freeze
from frankenlab.files import write_json
from frankenlab.job import job

with job(snakemake) as experiment:
    model = experiment.models[snakemake.wildcards.model]
    frozen = freeze(
        pd.read_parquet(snakemake.input[0]),
        model.name,
        model.n_layers,
        model.reference,
        experiment.raw["stages"]["confirm"]["controls"],
        experiment.raw["statistics"]["seed"],
    )
    write_json(snakemake.output[0], frozen)
