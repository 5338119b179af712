"""Measures what every bit width costs every layer of a model."""

from pathlib import Path

from frankenlab.quantize.choose import measure
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    target = Path(snakemake.output[0])
    measure(experiment, snakemake.params.model, target, target.parent / ".measuring")
