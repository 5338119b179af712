"""Writes the frozen franken, or any plan, as a standalone checkpoint."""

from pathlib import Path

from frankenlab.export import materialize
from frankenlab.job import job
from frankenlab.plans import parse
from frankenlab.records import FROZEN, read_record

with job(snakemake) as experiment:
    model = experiment.models[snakemake.wildcards.model]
    text = snakemake.wildcards.plan
    if text == "frozen":
        text = read_record(snakemake.input.frozen, FROZEN)["frozen"]
    target = Path(snakemake.output[0])
    materialize(Path(snakemake.input.model).parent, parse(text, model.n_layers), target)
