"""Quantizes a model to EXL2 at one bitrate."""

from pathlib import Path

from frankenlab.quantize.choose import quantize
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    quantization = snakemake.wildcards.quantization
    measurement = Path(snakemake.input.measurement)
    work = measurement.parent / f".making-{quantization}"
    quantize(experiment, snakemake.params.model, quantization, measurement, work)
