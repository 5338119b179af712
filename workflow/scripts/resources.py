"""Writes what the jobs took beside what was predicted and asked for."""

import json
from pathlib import Path

from frankenlab import accounting, usage
from frankenlab.files import atomic_path
from frankenlab.job import job
from frankenlab.parquet import write_parquet

with job(snakemake) as experiment:
    results = Path(snakemake.output.csv).parents[1]
    table = usage.table(
        json.loads(Path(snakemake.params.asked).read_text()),
        usage.measured(experiment, results),
        accounting.accounted(results),
    )
    with atomic_path(snakemake.output.csv) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    write_parquet(table, snakemake.output.parquet)
