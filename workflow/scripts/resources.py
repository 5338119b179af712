"""Writes what the jobs took beside what was predicted and asked for."""

from pathlib import Path

from frankenlab.estimate import accounting, usage
from frankenlab.estimate.usage import Expected
from frankenlab.io.files import atomic_path
from frankenlab.io.parquet import write_parquet
from frankenlab.io.records import read_record
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    results = Path(snakemake.output.csv).parents[1]
    table = usage.table(
        read_record(snakemake.params.asked, dict[str, Expected]),
        usage.measured(experiment, results),
        accounting.accounted(results),
    )
    with atomic_path(snakemake.output.csv) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    write_parquet(table, snakemake.output.parquet)
