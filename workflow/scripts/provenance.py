"""Records what the results were made with."""

from frankenlab.evaluate.provenance import provenance
from frankenlab.io.files import write_json
from frankenlab.runtime.command import recorded
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    write_json(snakemake.output[0], provenance(experiment, recorded()))
