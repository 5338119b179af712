"""Draws the pictures that a rule declares, as PNG and SVG."""

from pathlib import Path

from frankenlab.figures import Levels, pictures, save
from frankenlab.job import job
from frankenlab.report import load_tables

with job(snakemake) as experiment:
    where = snakemake.wildcards
    tables = load_tables(Path(snakemake.input[0]).parent)
    levels = Levels.of(experiment.raw)
    known = {p.stem: p for p in pictures(tables, where.model, where.quantization, levels)}
    for output in map(Path, snakemake.output):
        stem = output.with_suffix("")
        picture = known["/".join(stem.parts[-3:])]
        save(picture.draw(), stem)
