"""Writes the manifest of a shard's or a stage's frankens."""

from pathlib import Path

from frankenlab.analyse.comparisons import Frozen, Shortlist
from frankenlab.analyse.race_rounds import Round
from frankenlab.config.stages import SEARCH, split
from frankenlab.io.files import write_json
from frankenlab.io.records import read_record
from frankenlab.models.files import read_json
from frankenlab.models.franken import manifest
from frankenlab.models.shape import ModelShape
from frankenlab.plans.plan import BASE, parse
from frankenlab.runtime.job import job


def listed(stage: str, path: str) -> list[tuple[str, str]]:
    """Return (plan, group) of every plan that a stage runs."""
    if split(stage)[0] == SEARCH:
        return [tuple(item) for item in read_record(path, list[tuple[str, str]])]
    if stage == "select":
        content = read_record(path, Shortlist)
        return [(BASE, "base"), *((item["plan"], item["group"]) for item in content["plans"])]
    content = read_record(path, Frozen)
    controls = [(plan, "control") for plan in content["controls"]]
    return [(BASE, "base"), (content["frozen"], content["group"]), *controls]


def left(named: list[tuple[str, str]], race: str) -> list[tuple[str, str]]:
    """Those that a race has not dropped; none, if it dropped the whole shard."""
    kept = set(read_record(race, Round)["kept"])
    return [item for item in named if item[0] in kept]


with job(snakemake):
    path = Path(snakemake.input.model)
    info = ModelShape.from_manifest(read_json(path), path)
    named = listed(snakemake.wildcards.stage, snakemake.input.plans)
    if snakemake.input.race:
        named = left(named, snakemake.input.race)
    plans = [(parse(text, info.n_layers), group) for text, group in named]
    where = snakemake.wildcards
    write_json(snakemake.output[0], manifest(where.model, where.quantization, info, plans))
