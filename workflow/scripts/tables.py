"""Writes the tables that people open."""

from pathlib import Path

import pandas as pd

from frankenlab.analyse import comparisons as analysis
from frankenlab.analyse import interaction as bits
from frankenlab.analyse import ledger
from frankenlab.analyse import race_rounds as races
from frankenlab.analyse.comparisons import Frozen
from frankenlab.analyse.race_rounds import Round
from frankenlab.io.directories import read_manifest
from frankenlab.io.files import atomic_path
from frankenlab.io.parquet import read_parquet, write_parquet
from frankenlab.io.records import read_record
from frankenlab.models.footprint import Footprint, weights_row
from frankenlab.runtime.job import job


def all_pairs(scores: pd.DataFrame, experiment, rules: analysis.Rules) -> pd.DataFrame:
    """Confirmed plans against each other, task by task."""
    found = []
    for task, rows in scores.groupby("task", sort=False, observed=True):
        sides = dict(list(rows.groupby(["model", "quantization"], sort=False, observed=True)))
        metric = experiment.tasks[task].metric
        found.append(analysis.pairs(sides, metric, task, "confirm", rules))
    return analysis.concatenated(found)


def all_bits(
    scores: pd.DataFrame, experiment, models: list[str], frozen: dict[str, str], rules
) -> pd.DataFrame:
    """Every plan of the models at every bitrate, task by task."""
    found = []
    for name in models:
        model = experiment.models[name]
        sizes = {
            q: Footprint.of_directory(experiment.weights_folder(name, q))
            for q in model.quantizations
        }
        own = scores[scores["model"] == name]
        for task, rows in own.groupby("task", sort=False, observed=True):
            settings = experiment.tasks[task]
            found.append(
                bits.bits(
                    rows,
                    settings.metric,
                    settings.role,
                    frozen[name],
                    model.reference,
                    sizes,
                    model.n_layers,
                    rules,
                )
            )
    return bits.corrected(analysis.concatenated(found), rules)


def all_rounds(compared: pd.DataFrame, experiment, paths: list[str]) -> pd.DataFrame:
    """The rounds of every model's race."""
    records = [read_record(path, Round) for path in paths]
    found = []
    for model in experiment.models.values():
        own = [record for record in records if record["model"] == model.name]
        own.sort(key=lambda record: record["round"])
        rows = compared[(compared["model"] == model.name) & (compared["stage"] == "search")]
        table = races.summary(own, rows, model.n_layers)
        table.insert(0, "model", model.name)
        table.insert(1, "quantization", model.reference)
        found.append(table)
    return analysis.concatenated(found)


def all_weights(experiment) -> pd.DataFrame:
    """What the models' weights are at each quantization, and who made them."""
    folders = {cell: experiment.weights_folder(*cell) for cell in experiment.cells}
    return pd.DataFrame(
        weights_row(*cell, folder, read_manifest(folder)) for cell, folder in folders.items()
    )


with job(snakemake) as experiment:
    rules = analysis.Rules(**experiment.raw["statistics"])
    freezes = [read_record(path, Frozen) for path in snakemake.input.frozen]
    frozen = {freeze["model"]: freeze["frozen"] for freeze in freezes}
    compared = analysis.concatenated(map(read_parquet, snakemake.input.comparisons))
    scores = analysis.concatenated(map(read_parquet, snakemake.input.scores))
    made = {
        "comparisons": compared,
        "pairs": all_pairs(scores, experiment, rules),
        "verdicts": analysis.verdicts(compared, frozen, rules),
        "costs": analysis.concatenated(map(read_parquet, snakemake.input.costs)),
        "ledger": ledger.table(
            snakemake.params.ledger, list(experiment.models), list(experiment.tasks)
        ),
    }
    if "bits" in snakemake.output.keys():  # noqa: SIM118 (Snakemake's outputs are a list)
        made["bits"] = all_bits(scores, experiment, snakemake.params.models, frozen, rules)
    if "quantizations" in snakemake.output.keys():  # noqa: SIM118
        made["quantizations"] = all_weights(experiment)
    if "race" in snakemake.output.keys():  # noqa: SIM118
        made["race"] = all_rounds(compared, experiment, snakemake.input.races)
    for name, table in made.items():
        path = Path(snakemake.output[name])
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
        write_parquet(table, path.with_suffix(".parquet"))
