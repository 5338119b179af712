"""Records what the results were made with."""

from frankenlab.files import write_json
from frankenlab.job import job
from frankenlab.provenance import provenance

with job(snakemake) as experiment:
    write_json(snakemake.output[0], provenance(experiment))
