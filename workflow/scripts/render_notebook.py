"""Runs a notebook, renders it as one page, and writes the answer of all models as JSON."""

from pathlib import Path

from frankenlab.io.files import write_json
from frankenlab.report.answer import summary
from frankenlab.report.page import render_html, run_notebook
from frankenlab.report.results import CAPTIONS, NOTEBOOKS, load_frozen, load_tables
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    results = Path(snakemake.input.provenance).resolve().parent
    model = snakemake.wildcards.get("model")
    run_notebook(
        NOTEBOOKS / snakemake.params.notebook,
        snakemake.log.notebook,
        {
            "experiment": experiment.name,
            "tables": str(results / "tables"),
            "figures": str(results / "figures"),
            "frozen": str(results / "frozen"),
            "provenance": str(results / "provenance.json"),
            "captions": str(CAPTIONS),
            **({"model": model} if model else {}),
        },
    )
    title = f"Frankenlab: {experiment.name}" + (f", {model}" if model else "")
    render_html(snakemake.log.notebook, snakemake.output.html, title)
    if not model:
        found = summary(load_tables(results / "tables"), load_frozen(results / "frozen"))
        write_json(snakemake.output.answer, found)
