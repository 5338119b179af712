"""Measures speed and memory of the confirmed plans, each alone."""

import pandas as pd

from frankenlab.config.stages import SEARCH, Stage
from frankenlab.engines.devices import hardware_name
from frankenlab.evaluate.cost import measure
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.io.parquet import write_parquet
from frankenlab.io.records import read_record
from frankenlab.models.footprint import Footprint
from frankenlab.models.franken import CONTROL, FINALIST, TRANSFERRED, Manifest, plans_of
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    frankens = read_record(snakemake.input.frankens, Manifest)
    name, quantization = frankens["model"], snakemake.wildcards.quantization
    model = ModelSpec.for_stage(experiment, name, quantization, Stage(SEARCH))
    engine = model.load_engine()
    model.check_unchanged()
    # A control has the cost of the frozen plan, and the others are confirmed for what they gain and
    # lose alone.
    plans = plans_of(frankens, without=[CONTROL, FINALIST, TRANSFERRED])
    size = Footprint.of_directory(model.directory)
    speeds = measure(
        engine,
        plans,
        [1 / size.relative_compute(plan) for plan in plans],
        experiment.settings.cost.repeats,
        experiment.settings.statistics.seed,
    )
    sizes = pd.DataFrame(frankens["frankens"]).drop(columns=["key", "loop", "occurrences"])
    costs = sizes.merge(pd.DataFrame(speeds), on="plan", validate="one_to_one")
    costs.insert(0, "model", name)
    costs.insert(1, "quantization", quantization)
    costs["precision"] = model.precision
    costs["device"] = model.device_kind
    costs["hardware"] = hardware_name(engine.device)
    write_parquet(costs, snakemake.output[0])
