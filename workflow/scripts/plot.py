"""Draws the figures that a rule declares: each as SVG, PNG and Vega-Lite specification."""

from pathlib import Path

from frankenlab.report.figures.catalogue import picture_of
from frankenlab.report.figures.style import save
from frankenlab.report.results import load_tables
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    tables = load_tables(Path(snakemake.input[0]).parent)
    stems = {Path(output).with_suffix("") for output in snakemake.output}
    for stem in sorted(stems):
        picture = picture_of(stem.name, **dict(snakemake.wildcards.items()))
        save(picture.draw(tables, experiment.settings.statistics), stem)
