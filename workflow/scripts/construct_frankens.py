"""Writes the manifest of a shard's or a stage's frankens."""

import json
from pathlib import Path

from frankenlab.files import write_json
from frankenlab.frankens import manifest
from frankenlab.job import job
from frankenlab.models import manifest_info, read_json
from frankenlab.plans import BASE, parse


def listed(stage: str, content: list | dict) -> list[tuple[str, str]]:
    """(plan, group) of every plan that a stage runs."""
    if stage == "search":
        return [tuple(item) for item in content]
    if stage == "select":
        return [(BASE, "base"), *((item["plan"], item["group"]) for item in content["plans"])]
    controls = [(plan, "control") for plan in content["controls"]]
    return [(BASE, "base"), (content["frozen"], content["group"]), *controls]


with job(snakemake):
    path = Path(snakemake.input.model)
    info = manifest_info(read_json(path), path)
    content = json.loads(Path(snakemake.input.plans).read_text())
    named = listed(snakemake.wildcards.stage, content)
    plans = [(parse(text, info.n_layers), group) for text, group in named]
    where = snakemake.wildcards
    write_json(snakemake.output[0], manifest(where.model, where.quantization, info, plans))
