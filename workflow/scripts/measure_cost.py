"""Measures speed and memory of the confirmed plans, each alone."""

import json
from pathlib import Path

import pandas as pd

from frankenlab.efficiency import measure
from frankenlab.files import atomic_path
from frankenlab.frankens import plans_of
from frankenlab.job import job
from frankenlab.scorer import Scorer

with job(snakemake) as experiment:
    frankens = json.loads(Path(snakemake.input.frankens).read_text())
    model, quantization = frankens["model"], snakemake.wildcards.quantization
    scorer = Scorer.for_stage(experiment, model, quantization, "search")
    speeds = measure(
        scorer.load_engine(),
        plans_of(frankens),
        experiment.raw["cost"]["repeats"],
        experiment.raw["statistics"]["seed"],
    )
    sizes = pd.DataFrame(frankens["frankens"]).drop(columns=["key", "loop", "occurrences"])
    costs = sizes.merge(pd.DataFrame(speeds), on="plan", validate="one_to_one")
    costs.insert(0, "model", model)
    costs.insert(1, "quantization", quantization)
    costs["precision"] = scorer.precision
    with atomic_path(snakemake.output[0]) as temporary:
        costs.to_parquet(temporary, index=False)
