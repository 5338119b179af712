"""Compares every plan of a stage with the base."""

from frankenlab.analyse.comparisons import Rules, comparisons, concatenated, with_shapes
from frankenlab.analyse.race_rounds import Round
from frankenlab.config.stages import dropped
from frankenlab.io.parquet import read_parquet, write_parquet
from frankenlab.io.records import read_record
from frankenlab.models.franken import Manifest
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    rules = Rules(**experiment.raw["statistics"])
    groups = {
        item["plan"]: item["group"]
        for path in snakemake.input.frankens
        for item in read_record(path, Manifest)["frankens"]
    }
    scores = concatenated(map(read_parquet, snakemake.input.scores))
    # A round of a race has the documents of those before.
    scores = scores.drop_duplicates(["quantization", "task", "plan", "document"])
    raced = dropped(read_record(path, Round) for path in snakemake.input.races)
    tables = [
        comparisons(
            rows,
            experiment.tasks[task].metric,
            experiment.tasks[task].role,
            groups,
            rules,
            raced,
        )
        for (_, task), rows in scores.groupby(["quantization", "task"], sort=False, observed=True)
    ]
    depths = {model.name: model.n_layers for model in experiment.models.values()}
    write_parquet(with_shapes(concatenated(tables), depths), snakemake.output[0])
