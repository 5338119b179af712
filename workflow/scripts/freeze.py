"""Freezes one franken of a model, with its controls."""

from frankenlab.analyse.selection import freeze
from frankenlab.io.files import write_json
from frankenlab.io.parquet import read_parquet
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    model = experiment.models[snakemake.wildcards.model]
    frozen = freeze(
        read_parquet(snakemake.input[0]),
        model.name,
        model.n_layers,
        model.reference,
        experiment.settings.stages.confirm.controls,
        experiment.settings.statistics.seed,
    )
    write_json(snakemake.output[0], frozen)
