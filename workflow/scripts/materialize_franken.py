"""Writes the frozen franken, or any plan, as a standalone checkpoint."""

import logging
from pathlib import Path

from frankenlab.analyse.selection import Frozen
from frankenlab.io.records import read_record
from frankenlab.models.export import materialize
from frankenlab.plans.plan import omissions, parse
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    model = experiment.models[snakemake.wildcards.model]
    text = snakemake.wildcards.plan
    if text == "frozen":
        text = read_record(snakemake.input.frozen, Frozen)["frozen"]
    target = Path(snakemake.output[0])
    plan = parse(text, model.n_layers)
    if what := omissions(plan):
        logging.warning("notice: plan %s %s", plan, what)
    materialize(Path(snakemake.input.model).parent, plan, target)
