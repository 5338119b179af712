"""Writes the tables that people open."""

import json
from pathlib import Path

import pandas as pd

from frankenlab import analysis, ledger
from frankenlab.files import atomic_path
from frankenlab.job import job


def all_pairs(scores: pd.DataFrame, experiment, rules: analysis.Rules) -> pd.DataFrame:
    """Confirmed plans against each other, task by task."""
    found = []
    for task, rows in scores.groupby("task", sort=False, observed=True):
        sides = dict(list(rows.groupby(["model", "quantization"], sort=False, observed=True)))
        metric = experiment.tasks[task].metric
        found.append(analysis.pairs(sides, metric, task, "confirm", rules))
    return analysis.concatenated(found)


with job(snakemake) as experiment:
    rules = analysis.Rules(**experiment.raw["statistics"])
    frozen = [json.loads(Path(path).read_text()) for path in snakemake.input.frozen]
    compared = analysis.concatenated(map(pd.read_parquet, snakemake.input.comparisons))
    scores = analysis.concatenated(map(pd.read_parquet, snakemake.input.scores))
    made = {
        "comparisons": compared,
        "pairs": all_pairs(scores, experiment, rules),
        "verdicts": analysis.verdicts(compared, {f["model"]: f["frozen"] for f in frozen}, rules),
        "costs": analysis.concatenated(map(pd.read_parquet, snakemake.input.costs)),
        "ledger": ledger.table(
            snakemake.params.ledger, list(experiment.models), list(experiment.tasks)
        ),
    }
    for name, table in made.items():
        path = Path(snakemake.output[name])
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
        with atomic_path(path.with_suffix(".parquet")) as temporary:
            table.to_parquet(temporary, index=False)
