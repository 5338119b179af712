"""Measures what each layer does to the hidden state, without looking at any answer."""

# ruff: noqa: E402

from frankenlab.runtime.meanwhile import import_torch_meanwhile

# Before the other imports, which take as long.
import_torch_meanwhile()

import pandas as pd

from frankenlab.config.stages import SEARCH, Stage
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.evaluate.probe import probe_task
from frankenlab.io.parquet import write_parquet
from frankenlab.runtime.job import job
from frankenlab.tasks.encoding import encoder_of

with job(snakemake) as experiment:
    where = snakemake.wildcards
    model = ModelSpec.for_stage(experiment, where.model, where.quantization, Stage(SEARCH))
    engine = model.load_engine()
    model.check_unchanged()
    encoder = encoder_of(model.directory)
    count, draw = experiment.settings.probe.documents, experiment.settings.stages.seed
    found: dict[str, list[pd.DataFrame]] = {"layers": [], "similarity": [], "documents": []}
    for task in experiment.search_tasks:
        own = {"model": where.model, "quantization": where.quantization, "task": task}
        tables = probe_task(engine, encoder, experiment.tasks[task], count, draw)
        for parts, table in zip(found.values(), tables, strict=True):
            parts.append(pd.concat([pd.DataFrame(own, index=table.index), table], axis=1))
    for name, parts in found.items():
        write_parquet(pd.concat(parts, ignore_index=True), snakemake.output[name])
