"""The report: its answer in three sentences, its tables, and the page made of the notebook."""

from frankenlab.report.answer import against_controls, answer, outcome
from frankenlab.report.bits import bits_answer, bits_html
from frankenlab.report.hardware import costs_hardware_html, hardware_html
from frankenlab.report.page import render_html, run_notebook
from frankenlab.report.race import race_html
from frankenlab.report.tables import (
    answer_html,
    cases,
    costs_html,
    documents_html,
    gallery,
    ledger_html,
    load_frozen,
    load_provenance,
    load_tables,
    made_html,
    pairs_html,
    title_html,
    top_plans,
    top_plans_html,
    verdicts_html,
)

__all__ = [
    "against_controls",
    "answer",
    "answer_html",
    "bits_answer",
    "bits_html",
    "cases",
    "costs_hardware_html",
    "costs_html",
    "documents_html",
    "gallery",
    "hardware_html",
    "ledger_html",
    "load_frozen",
    "load_provenance",
    "load_tables",
    "made_html",
    "outcome",
    "pairs_html",
    "race_html",
    "render_html",
    "run_notebook",
    "title_html",
    "top_plans",
    "top_plans_html",
    "verdicts_html",
]
