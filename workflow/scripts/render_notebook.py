"""Runs the report's notebook and renders it as one page."""

from pathlib import Path

from frankenlab.report.page import render_html, run_notebook
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    results = Path(snakemake.input.provenance).resolve().parent
    notebook = Path(snakemake.params.notebook)
    run_notebook(
        notebook,
        snakemake.log.notebook,
        {
            "experiment": experiment.name,
            "tables": str(results / "tables"),
            "figures": str(results / "figures"),
            "frozen": str(results / "frozen"),
            "provenance": str(results / "provenance.json"),
            "captions": str(notebook.parents[1] / "workflow" / "report"),
        },
    )
    render_html(snakemake.log.notebook, snakemake.output.html, f"Frankenlab: {experiment.name}")
