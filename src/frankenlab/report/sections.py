"""The sections of the page in their order, each as HTML made from an experiment's results.

A section opens with a sentence and a picture. The rest is folded away behind them.
"""

from collections.abc import Collection, Iterable
from html import escape
from typing import Any

import yaml

from frankenlab.report import findings, search_tables, tables
from frankenlab.report.answer import MOST_NAMED, answer
from frankenlab.report.elements import definitions, details, figure, note_html, section
from frankenlab.report.figures import catalogue
from frankenlab.report.figures.catalogue import Picture
from frankenlab.report.hardware import costs_hardware_note, hardware_note
from frankenlab.report.results import Results
from frankenlab.report.tables import folded
from frankenlab.report.text import plan_words, quantization_name

WORDS = (
    "A franken is the model itself with some of its layers run more than once, without any "
    "training; its plan says which. Every change is measured against the unmodified model, the "
    "base, document by document. A change above 0 is better, but of a perplexity it is worse. "
    "Search tasks chose the plan, guard tasks show what it may have lost, and the verdicts are "
    "from documents that chose nothing."
)


def title_html(results: Results) -> str:
    """Return the page's title, with the experiment, the models and the date under it."""
    made = results.provenance
    models = ", ".join(made.get("models", {}))
    under = [f"experiment {results.experiment}", models, made.get("created")]
    back = '<p><a href="index.html">All models of this experiment</a></p>' * bool(results.only)
    title = "<h1>Are frankenmodels a free lunch?</h1>" + note_html(" · ".join(filter(None, under)))
    return title + back


def answer_html(results: Results) -> str:
    """Return the answer: its first sentence, then the others."""
    first, *others = answer(results.tables, results.frozen)
    rest = f"<p>{escape(' '.join(others))}</p>" if others else ""
    return f'<div class="answer"><p>{escape(first)}</p>{rest}</div>' + note_html(WORDS)


def verdict_html(results: Results) -> str:
    """Return the verdicts on the frozen plans: their forests, and all of them as a table."""
    shown, more = pictures(results, catalogue.ANSWER, MOST_NAMED)
    return section(
        "verdict",
        "The verdicts on fresh documents",
        "" if len(results.table("verdicts")) else "Nothing was confirmed yet.",
        *shown,
        details("Other models and quantizations", *more),
        folded("All verdicts as a table", results, "verdicts", tables.verdict_table(results)),
    )


def layers_html(results: Results) -> str:
    """Return which layers are worth repeating."""
    shown, more = pictures(results, catalogue.LAYERS)
    return section(
        "layers",
        "Which layers?",
        findings.controls_finding(results.tables, results.frozen),
        *shown,
        details("Other tasks and models", *more),
        folded(
            "Against random plans of the same cost",
            results,
            "against_controls",
            tables.controls_table(results),
        ),
        folded(
            "How far the profiles can be trusted",
            results,
            "reliability",
            search_tables.reliability_table(results),
        ),
        folded(
            "The search's best plans", results, "top_plans", search_tables.top_plans_table(results)
        ),
    )


def times_html(results: Results) -> str:
    """Return how often a layer is worth repeating; nothing where no block ran more than twice."""
    shown, more = pictures(results, catalogue.TIMES)
    if not shown:
        return ""
    return section(
        "times",
        "How often?",
        "",
        *shown,
        details("Other models", *more),
        folded(
            "The trend with more repetitions, as a table",
            results,
            "dose_response",
            search_tables.dose_table(results),
        ),
    )


def price_html(results: Results) -> str:
    """Return what the frozen plans cost."""
    shown, more = pictures(results, catalogue.PRICE)
    return section(
        "price",
        "At what price?",
        findings.cost_finding(results.tables, results.frozen),
        *shown,
        details("Other models and quantizations", *more),
        folded(
            "What the same cost buys, as a table", results, "plane", tables.plane_table(results)
        ),
        folded(
            "What each plan costs, as a table",
            results,
            "costs",
            tables.cost_table(results) + note_html(costs_hardware_note(results.table("costs"))),
        ),
    )


def lost_html(results: Results) -> str:
    """Return whether other abilities suffer: the guard tasks."""
    finding = findings.guard_finding(results.tables, results.frozen)
    if not finding:
        return ""
    shown, more = pictures(results, catalogue.LOST)
    return section(
        "lost",
        "Is anything lost?",
        finding,
        *shown,
        tables.guard_table(results),
        details("Other models", *more),
        folded(
            "Gain against loss, plan by plan", results, "tradeoff", tables.tradeoff_table(results)
        ),
    )


def sure_html(results: Results) -> str:
    """Return how far the answer can be trusted: the search, the choice, the documents."""
    shown, more = pictures(results, catalogue.SURE, without=["prompts"])
    said = (
        findings.choice_finding(results.tables, results.frozen),
        findings.search_finding(results.tables),
        findings.dominance_finding(results.tables, results.frozen),
    )
    return section(
        "sure",
        "How sure is this?",
        " ".join(filter(None, said)),
        *shown[:2],
        details("The search as a race, and other models", *shown[2:], *more),
        folded("What an oracle would gain", results, "oracle", search_tables.oracle_table(results)),
        folded("Rounds of the search", results, "race", search_tables.race_table(results)),
        folded("Plans that were grown", results, "beam", search_tables.beam_table(results)),
        folded("Documents of each stage", results, "stages", tables.documents_table(results)),
        folded(
            "How often the confirm sets were looked at",
            results,
            "ledger",
            tables.ledger_table(results),
        ),
        details("Hardware", note_html(hardware_note(results.table("comparisons")))),
    )


def prompts_html(results: Results) -> str:
    """Return whether the prompt matters; nothing where no task has another one."""
    others = [entry.name for entry in catalogue.CATALOGUE if entry.name != "prompts"]
    shown, more = pictures(results, catalogue.SURE, without=others)
    if not shown:
        return ""
    return section(
        "prompts",
        "Does the prompt matter?",
        "",
        *shown,
        details("Other models", *more),
        folded(
            "The effects under each prompt, as a table",
            results,
            "prompts",
            tables.prompts_table(results),
        ),
    )


def why_html(results: Results) -> str:
    """Return why repeating does what it does, as far as it is known; nothing without a probe."""
    shown, more = pictures(results, catalogue.WHY)
    if not shown:
        return ""
    return section(
        "why",
        "Why?",
        "",
        *shown[:1],
        details("What the layers do to the hidden state, and other models", *shown[1:], *more),
        folded(
            "All predictors as a table",
            results,
            "predictors",
            search_tables.predictor_table(results),
        ),
    )


def pictures(
    results: Results, category: str, models: int = 1, without: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Return the figures of a category as HTML: those in sight, and those folded away.

    In sight are those of the first models at their reference quantizations; where each task has
    one, it is the first task's.
    """
    shown, more, seen = [], [], set[tuple[str, str]]()
    references = {freeze["model"]: freeze["reference_quantization"] for freeze in results.frozen}
    first = list(dict.fromkeys(model for model, _ in results.cases()))[:models]
    for picture in _drawn(results, category):
        html = "" if picture.entry.name in without else figure(results, picture)
        if not html:
            continue
        model, quantization = picture.where["model"], picture.where.get("quantization")
        kind = (model, picture.entry.name)
        reference = quantization in (None, references.get(model, quantization))
        if model in first and reference and kind not in seen:
            shown.append(html)
            seen.add(kind)
        else:
            more.append(html)
    return shown, more


def _drawn(results: Results, category: str) -> Iterable[Picture]:
    models = dict.fromkeys(model for model, _ in results.cases())
    cases = [*results.cases(), *((model,) for model in models)]
    for case in cases:
        for picture in catalogue.pictures(results.tables, *case):
            if picture.entry.category == category:
                yield picture


def made_html(results: Results) -> str:
    """Return how it was made: command, commit, settings as they resolved, data, code, config."""
    made = results.provenance
    if not made:
        return section("made", "How it was made", "No provenance was recorded.")
    grid = made.get("grid", {})
    folded_plans = grid.get("duplicates_folded", 0)
    facts: dict[str, Any] = {
        "experiment": made.get("experiment"),
        "made": made.get("created"),
        "frankenlab": made.get("frankenlab"),
        "commit": made.get("commit") or "not recorded",
        "command": made.get("command") or "not recorded",
        **{name.replace("_", " "): value for name, value in made.get("resolved", {}).items()},
        "grid": f"{grid.get('plans', '?')} plans, {folded_plans} other spellings of them folded",
        "made by": grid.get("generators", {}),
        "machine": made.get("machine", {}),
    }
    parts = []
    for name, model in made.get("models", {}).items():
        own = dict(model)
        for freeze in (freeze for freeze in results.frozen if freeze["model"] == name):
            layers = results.n_layers(name)
            said = f"{plan_words(freeze['frozen'], layers)}, " if layers else ""
            own["frozen"] = f"{said}{freeze['frozen']}: {freeze['reason']}"
            own["controls"] = "; ".join(freeze["controls"])
            own["reference quantization"] = quantization_name(freeze["reference_quantization"])
        parts.append(details(f"Model {name}", definitions(own)))
    for title in ("Data", "Code", "Versions"):
        if made.get(title.lower()):
            parts.append(details(title, definitions(made[title.lower()])))
    config = yaml.safe_dump(made.get("config", {}), sort_keys=False, allow_unicode=True)
    parts.append(details("The config, with defaults", f"<pre>{escape(config)}</pre>"))
    return section("made", "How it was made", "", definitions(facts), *parts)
