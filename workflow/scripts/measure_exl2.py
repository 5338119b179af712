"""Measures what every bit width costs every layer of a model."""

from pathlib import Path

from frankenlab.job import job
from frankenlab.quantizing import measure

with job(snakemake) as experiment:
    target = Path(snakemake.output[0])
    measure(experiment, snakemake.params.model, target, target.parent / ".measuring")
