"""Writes what the jobs took beside what was predicted and asked for."""

from pathlib import Path

import pandas as pd

from frankenlab import accounting, usage
from frankenlab.files import atomic_path
from frankenlab.job import job
from frankenlab.models import read_json

with job(snakemake) as experiment:
    table = Path(snakemake.output.csv)
    results = table.parents[1]
    rows = usage.table(
        read_json(snakemake.params.asked),
        usage.measured(experiment, results),
        accounting.accounted(results),
    )
    frame = pd.DataFrame(rows)
    with atomic_path(table) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g")
    with atomic_path(snakemake.output.parquet) as temporary:
        frame.to_parquet(temporary, index=False)
