"""Writes what the jobs took beside what was predicted and asked for."""

from pathlib import Path

from frankenlab import accounting, usage
from frankenlab.files import atomic_path
from frankenlab.job import job
from frankenlab.parquet import write_parquet
from frankenlab.records import ASKED, read_record

with job(snakemake) as experiment:
    results = Path(snakemake.output.csv).parents[1]
    table = usage.table(
        read_record(snakemake.params.asked, ASKED),
        usage.measured(experiment, results),
        accounting.accounted(results),
    )
    with atomic_path(snakemake.output.csv) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    write_parquet(table, snakemake.output.parquet)
