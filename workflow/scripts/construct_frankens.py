"""Writes the manifest of a shard's or a stage's frankens."""

from pathlib import Path

from frankenlab.analyse.race_rounds import Round
from frankenlab.analyse.selection import Frozen, Shortlist, confirm_plans, select_plans
from frankenlab.analyse.transfer import transfers
from frankenlab.config.stages import CONFIRM, SELECT, Stage
from frankenlab.io.files import write_json
from frankenlab.io.records import read_record
from frankenlab.models.files import read_json
from frankenlab.models.franken import GROWN, manifest
from frankenlab.models.shape import ModelShape
from frankenlab.plans.plan import parse
from frankenlab.plans.shards import shard_among
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    where = snakemake.wildcards
    path = Path(snakemake.input.model)
    info = ModelShape.from_manifest(read_json(path), path)
    stage = Stage.parse(where.stage)
    if stage.name == SELECT:
        named = select_plans(read_record(snakemake.input.plans, Shortlist))
    elif stage.name == CONFIRM:
        own = read_record(snakemake.input.plans, Frozen)
        others = [read_record(path, Frozen) for path in snakemake.input.others]
        depths = {name: model.n_layers for name, model in experiment.models.items()}
        moved = transfers({record["model"]: record for record in [own, *others]}, depths)
        named = confirm_plans(
            own,
            snakemake.params.controls,
            [item.plan for item in moved[where.model]],
        )
    else:
        named = read_record(snakemake.input.plans, list[tuple[str, str]])
    if snakemake.input.race:
        # None are left where the race dropped the whole shard.
        race = read_record(snakemake.input.race, Round)
        count, numbers = experiment.settings.stages.search.shards, snakemake.params.shards
        grown = [parse(item["plan"], info.n_layers) for item in race["grown"]]
        own = [plan for plan in grown if shard_among(plan, count, numbers) == int(where.shard)]
        named += [(plan.text, GROWN) for plan in own]
        kept = set(race["kept"])
        named = [item for item in named if item[0] in kept]
    plans = [(parse(text, info.n_layers), group) for text, group in named]
    write_json(snakemake.output[0], manifest(where.model, where.quantization, info, plans))
