"""Freezes one franken of a model, with its controls."""

from frankenlab.analysis import freeze
from frankenlab.files import write_json
from frankenlab.job import job
from frankenlab.parquet import read_parquet

with job(snakemake) as experiment:
    model = experiment.models[snakemake.wildcards.model]
    frozen = freeze(
        read_parquet(snakemake.input[0]),
        model.name,
        model.n_layers,
        model.reference,
        experiment.raw["stages"]["confirm"]["controls"],
        experiment.raw["statistics"]["seed"],
    )
    write_json(snakemake.output[0], frozen)
