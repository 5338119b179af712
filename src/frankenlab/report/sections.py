"""The sections of the page in their order, each as HTML made from an experiment's results."""

from html import escape
from typing import Any

import pandas as pd
import yaml

from frankenlab.report.answer import against_controls, answer
from frankenlab.report.elements import (
    Columns,
    Row,
    definitions,
    gallery,
    html_table,
    note_html,
    tables_html,
)
from frankenlab.report.figures.catalogue import pictures
from frankenlab.report.results import Results, rows_of
from frankenlab.report.text import interval, metric_value, number, p_value, signed

STAGES = ("search", "select", "confirm")


def title_html(results: Results) -> str:
    """Return the page's title, with the experiment, the models and the date under it."""
    made = results.provenance
    models = ", ".join(made.get("models", {}))
    under = [f"experiment {results.experiment}", models, made.get("created")]
    return "<h1>Are frankenmodels a free lunch?</h1>" + note_html(" · ".join(filter(None, under)))


def answer_html(results: Results) -> str:
    """Return the answer, a paragraph for each of its sentences."""
    sentences = answer(results.tables, results.frozen)
    return '<div class="answer">' + "".join(f"<p>{escape(s)}</p>" for s in sentences) + "</div>"


def pictures_html(results: Results) -> str:
    """Return the figures of each model and quantization."""
    return "\n".join(
        gallery(results, pictures(results.tables, *case), " · quantization ".join(case))
        for case in results.cases()
    )


def verdicts_html(results: Results) -> str:
    """Return every frozen franken and control on every task, with intervals and verdicts."""

    def metric(row: Row) -> str:
        values = (metric_value(row[name], row["kind"]) for name in ("base_value", "value"))
        return f"{row['metric']} {' → '.join(values)}"

    def needed(row: Row) -> str:
        return number(row["documents_needed"]) if row["verdict"] == "inconclusive" else "–"

    columns: Columns = {
        "task": "{task} ({role})",
        "plan": "{group} {plan}",
        "n": "{n:,}",
        "metric: base → plan": metric,
        "change [interval]": interval,
        "unit": "{unit}",
        "p (Holm)": lambda row: p_value(row["p_holm"]),
        "verdict": "{verdict}",
        "n needed": needed,
    }
    return tables_html(results.table("verdicts"), columns, results.caption("tables/verdicts"))


def pairs_html(results: Results) -> str:
    """Return the frozen frankens against their controls of equal depth, document by document."""
    columns: Columns = {
        "task": "{task}",
        "frozen": "{plan_a}",
        "control": "{plan_b}",
        "n": "{n:,}",
        "frozen − control [interval]": interval,
        "unit": "{unit}",
        "p": lambda row: p_value(row["p"]),
    }
    rows = against_controls(results.table("pairs"), results.frozen)
    rows = rows.rename(columns={"model_a": "model", "quantization_a": "quantization"})
    return tables_html(rows, columns, results.caption("tables/pairs"))


def costs_html(results: Results) -> str:
    """Return what the base, the frozen frankens and the controls cost when they run."""

    def plan(row: Row) -> str:
        if row["plan"] == "base":
            return "base"
        return f"{'control' if row['group'] == 'control' else 'frozen'} {row['plan']}"

    def speed(way: str, form: str) -> str:
        ends = (f"{{{way}_{end}:{form}}}" for end in ("tokens_per_second", "low", "high"))
        return "{} [{}, {}]".format(*ends)

    columns: Columns = {
        "plan": plan,
        "layers": "{depth:g} ({relative_depth:.2f}×)",
        "parameters": lambda row: f"{row['parameters'] / 1e6:,.1f} M",
        "KV cache a token": lambda row: f"{row['kv_bytes_per_token'] / 1024:,.1f} KiB",
        "prefill tokens/s": speed("prefill", ",.0f"),
        "decode tokens/s": speed("decode", ",.1f"),
        "peak memory": lambda row: (
            "–"
            if pd.isna(row["peak_memory_bytes"])
            else f"{row['peak_memory_bytes'] / 2**20:,.0f} MiB"
        ),
    }
    return tables_html(results.table("costs"), columns, results.caption("tables/costs"))


def top_plans(rows: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """Return the search's best plans by mean change over the search tasks, one row a plan.

    Takes the comparisons of one model and quantization. Plans that a race dropped are left out.
    Where a plan went on to the select stage, its mean change there stands beside.
    """
    mine = rows[(rows["role"] == "search") & (rows["plan"] != "base")]
    search = mine[(mine["stage"] == "search") & mine["dropped"].isna()]
    means = search.groupby("plan")["effect"].mean().sort_values(ascending=False, kind="stable")
    later = rows_of(mine, stage="select").groupby("plan")["effect"].mean()
    records = []
    for plan in means.index[:count]:
        found = rows_of(search, plan=plan).to_dict("records")
        record = {
            "plan": plan,
            "made by": found[0]["group"],
            "layers": f"{found[0]['relative_depth']:.2f}×",
            "mean": signed(means[plan]),
        }
        for row in found:
            name = f"{row['task']}, n = {row['n']}"
            record[name] = interval(row) + " *" * bool(row["significant"])
        record["mean at select"] = signed(later[plan]) if plan in later.index else "–"
        records.append(record)
    return pd.DataFrame(records).fillna("–")


def top_plans_html(results: Results) -> str:
    """Return `top_plans` of every model that was searched, with the warning that they need."""
    rows = results.table("comparisons")
    if len(rows):
        rows = rows[rows["stage"].isin(["search", "select"])]
    return tables_html(rows, top_plans, results.caption("tables/top_plans"))


def race_html(results: Results) -> str:
    """Return the rounds of a race; nothing where the search was none."""
    rounds = results.table("race")
    if rounds.empty:
        return ""
    columns: Columns = {
        "round": "{round}",
        "documents seen": "{documents:,}",
        "plans": "{plans:,}",
        "dropped after it": "{dropped:,}",
        "plan": "{leader}",
        "layer passes so far": "{share:.0%}",
    }
    heading = "<h3>The race: which plans were dropped when</h3>"
    return heading + tables_html(rounds, columns, results.caption("tables/race"))


def documents_html(results: Results) -> str:
    """Return how many documents, and what share of a task's, each stage saw."""
    rows = results.table("comparisons")
    if rows.empty:
        return html_table(rows)
    counts = rows.groupby(["task", "role", "stage"], sort=False)["n"].max().unstack(fill_value=0)
    counts = counts[[stage for stage in STAGES if stage in counts.columns]]
    shares = counts.div(counts.sum(axis=1), axis=0)
    texts = counts.map("{:,}".format) + shares.map(" ({:.0%})".format)
    note = "No document is in two stages. A stage that shows 0 did not run the task."
    return html_table(texts.reset_index(), note)


def ledger_html(results: Results) -> str:
    """Return how often each confirm set was looked at."""

    def looks(rows: pd.DataFrame) -> pd.DataFrame:
        tasks = rows.groupby("task", sort=False)
        found = tasks.agg(
            looks=("looked", "nunique"),
            plans=("plan", "nunique"),
            documents=("documents", "max"),
            first=("looked", "min"),
            last=("looked", "max"),
        )
        return found.assign(documents=found["documents"].map(number)).reset_index()

    return tables_html(results.table("ledger"), looks, results.caption("tables/ledger"))


def made_html(results: Results) -> str:
    """Return how it was made: models, what was frozen and why, data, code, versions, config."""
    made = results.provenance
    if not made:
        return note_html("No provenance was recorded.")
    grid = made.get("grid", {})
    folded = grid.get("duplicates_folded", 0)
    facts: dict[str, Any] = {
        "experiment": made.get("experiment"),
        "made": made.get("created"),
        "frankenlab": made.get("frankenlab"),
        "engine": made.get("engine"),
        "precision": made.get("precisions", {}),
        "grid": f"{grid.get('plans', '?')} plans, {folded} other spellings of them folded",
        "made by": grid.get("generators", {}),
        "machine": made.get("machine", {}),
    }
    parts = [definitions(facts)]
    for name, model in made.get("models", {}).items():
        facts = dict(model)
        for freeze in (freeze for freeze in results.frozen if freeze["model"] == name):
            facts["frozen"] = f"{freeze['frozen']} ({freeze['reason']})"
            facts["controls"] = "; ".join(freeze["controls"])
        parts.append(f"<h4>Model {escape(name)}</h4>{definitions(facts)}")
    for title in ("Data", "Code", "Versions"):
        if made.get(title.lower()):
            parts.append(f"<h4>{title}</h4>{definitions(made[title.lower()])}")
    config = yaml.safe_dump(made.get("config", {}), sort_keys=False, allow_unicode=True)
    parts.append(f"<h4>Config</h4><pre>{escape(config)}</pre>")
    return "\n".join(parts)
