"""Draws the pictures that a rule declares, as PNG and SVG."""

from pathlib import Path

from frankenlab.report import load_tables
from frankenlab.report.figures import Levels, bits_picture, pictures, save
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    where = snakemake.wildcards
    tables = load_tables(Path(snakemake.input[0]).parent)
    levels = Levels.of(experiment.settings.plain())
    if "quantization" in where.keys():  # noqa: SIM118 (Snakemake's wildcards are no mapping)
        found = pictures(tables, where.model, where.quantization, levels)
    else:
        found = [bits_picture(tables, where.model, levels)]
    known = {picture.stem: picture for picture in found}
    figures = Path(snakemake.input[0]).parents[1] / "figures"
    for output in map(Path, snakemake.output):
        stem = output.with_suffix("")
        save(known[stem.relative_to(figures).as_posix()].draw(), stem)
