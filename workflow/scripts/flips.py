"""Writes which documents the plans flipped, and excerpts of these documents."""

from pathlib import Path

import pandas as pd

from frankenlab.analyse.flips import flips
from frankenlab.analyse.selection import Frozen
from frankenlab.config.experiment import TASKS_FOLDER
from frankenlab.io.files import atomic_path
from frankenlab.io.parquet import read_parquet, write_parquet
from frankenlab.io.records import read_record
from frankenlab.runtime.job import job
from frankenlab.tasks.excerpts import excerpts

with job(snakemake) as experiment:
    freezes = [read_record(path, Frozen) for path in snakemake.input.frozen]
    frozen = {freeze["model"]: freeze["frozen"] for freeze in freezes}
    changes = flips(map(read_parquet, snakemake.input.scores), experiment.tasks, frozen)
    documents = pd.concat(
        excerpts(task, TASKS_FOLDER, changes.loc[changes["task"] == name, "document"])
        for name, task in experiment.tasks.items()
    )
    for name, table in (("flips", changes), ("documents", documents)):
        path = Path(snakemake.output[name])
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False)
        write_parquet(table, path.with_suffix(".parquet"))
