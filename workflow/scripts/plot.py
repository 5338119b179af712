"""Draws the figures that a rule declares, as PNG and SVG."""

from pathlib import Path

from frankenlab.report.figures.catalogue import pictures
from frankenlab.report.figures.style import save
from frankenlab.report.results import load_tables
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    where = snakemake.wildcards
    results = Path(snakemake.input[0]).parents[1]
    tables = load_tables(results / "tables")
    found = pictures(tables, where.model, where.get("quantization", ""))
    known = {results / "figures" / picture.stem: picture for picture in found}
    for output in map(Path, snakemake.output):
        stem = output.with_suffix("")
        save(known[stem].draw(tables, experiment.settings.statistics), stem)
