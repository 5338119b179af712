"""The page's tables: the columns that one reads; the rest is in the CSV that each links to."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from frankenlab.analyse.prediction import NAMES
from frankenlab.analyse.repetitions import KIND
from frankenlab.plans.plan import BASE
from frankenlab.report.answer import frozen_rows
from frankenlab.report.elements import Columns, Html, Row, cells, details, plan_cell, table
from frankenlab.report.results import Results, rows_of
from frankenlab.report.text import (
    change_text,
    correlation_text,
    guard_name,
    number,
    p_value,
    plural,
    quantization_name,
    repeated,
    signed,
    size_words,
    spoken_value,
)

STAGES = ("search", "select", "confirm")
PART_WORDS = {"block": "whole layer", "attn": "attention", "mlp": "MLP"}
MOST_PLANS = 10


def folded(summary: str, results: Results, name: str, html: str) -> str:
    """Return a table folded away with its caption `tables/<name>`; nothing where it is empty."""
    if not html:
        return ""
    return details(summary, html, f'<div class="note">{results.caption(f"tables/{name}")}</div>')


def places(rows: pd.DataFrame) -> Columns:
    """Return the columns model and quantization, as far as there are several of them."""
    found: dict[str, str | Callable[[Row], Any]] = {}
    if rows["model"].nunique() > 1:
        found["model"] = "{model}"
    if "quantization" in rows and rows["quantization"].nunique() > 1:
        found["quantization"] = lambda row: quantization_name(row["quantization"])
    return found


def plan_of(results: Results, group: bool = False) -> Callable[[Row], Any]:
    """Return what makes a row's cell of its plan, with "frozen" or "control" before it if asked."""

    def cell(row: Row) -> Any:
        found = plan_cell(row["plan"], results.n_layers(row["model"]))
        if not group or row["plan"] == BASE:
            return found
        return Html(f"{'control' if row['group'] == 'control' else 'frozen'}: {found}")

    return cell


def task(row: Row) -> str:
    """Return a row's task with its role."""
    return f"{row['task']} ({row['role']})"


def count(value: Any, available: Any = None) -> str:
    """Return a number of documents, of those available where that is known: "150 of 1,838"."""
    known = available is not None and pd.notna(available)
    return f"{value:,.0f} of {available:,.0f}" if known else f"{value:,.0f}"


def values(row: Row) -> str:
    """Return a metric of the base and of the plan: "58.7 % → 68.7 %"."""
    return " → ".join(spoken_value(row[name], row["kind"]) for name in ("base_value", "value"))


def judged(row: Row, name: str = "") -> str:
    """Return an effect with the interval that its verdict is read from.

    `name` is that of another effect than the row's own: "interaction", "read" or "memory".
    """
    prefix = f"{name}_" if name else ""
    effect = row[name if name in row else f"{prefix}effect"]
    low, high = (row[f"{prefix}verdict_{end}"] for end in ("low", "high"))
    return change_text(effect, low, high, row["unit"])


def corrected_p(row: Row, name: str = "p_corrected") -> str:
    """Return a corrected p, or a dash where nothing was tested."""
    return "–" if pd.isna(row[name]) else p_value(row[name])


def verdict_table(results: Results) -> str:
    """Return the verdicts on the frozen plans, then their controls, which have none."""
    rows = results.table("verdicts")
    if rows.empty:
        return ""
    own = frozen_rows(results.tables, results.frozen)
    rows = pd.concat([own, rows[rows["group"] != "frozen"]])
    columns: Columns = {
        "plan": plan_of(results, group=True),
        **places(rows),
        "task": task,
        "verdict": lambda row: verdict_words(row["verdict"]),
        "change [interval]": judged,
        "base → plan": values,
        "documents": lambda row: count(row["n"], row.get("available")),
        "p, corrected": corrected_p,
        "what these documents leave open": left_open,
    }
    caption = "The frozen plans against the base, on documents that chose nothing"
    frozen = rows["group"] == "frozen"
    return table(cells(rows, columns), caption, csv="verdicts", first="plan", frozen=frozen)


def guard_table(results: Results) -> str:
    """Return the verdicts on the guard tasks in short."""
    rows = rows_of(frozen_rows(results.tables, results.frozen), role="guard")
    if rows.empty:
        return ""
    columns: Columns = {
        "task": "{task}",
        **places(rows),
        "metric": "{metric}",
        "base → plan": values,
        "change [interval]": judged,
        "verdict": lambda row: verdict_words(row["verdict"]),
    }
    return table(cells(rows, columns), "The guard tasks, which chose nothing", csv="verdicts")


def tradeoff_table(results: Results) -> str:
    """Return what each confirmed plan of the shortlist gains and loses."""
    rows = results.table("tradeoff")
    if rows.empty:
        return ""
    columns: Columns = {
        "plan": plan_of(results),
        **places(rows),
        "search tasks [interval]": lambda row: change_text(
            row["gain"], row["gain_low"], row["gain_high"], row["gain_unit"]
        ),
        "guard task": lambda row: guard_name(row["guard"], row["guards"]),
        "change [interval]": lambda row: change_text(
            row["effect"], row["low"], row["high"], row["unit"]
        ),
        "documents": lambda row: count(row["n"]),
    }
    caption = "The frozen plan and the finalists on fresh documents, without verdicts"
    frozen = rows["group"] == "frozen"
    return table(cells(rows, columns), caption, csv="tradeoff", first="plan", frozen=frozen)


def verdict_words(verdict: Any) -> str:
    """Return a verdict as the page says it; a dash where nothing was tested."""
    if pd.isna(verdict):
        return "–"
    return {"harmed": "got worse"}.get(verdict, str(verdict))


def left_open(row: Row) -> str:
    """Return what an inconclusive row could have shown, and what it would take to decide it."""
    if row["verdict"] != "inconclusive":
        return "–"
    parts = []
    if pd.notna(row["smallest_detectable"]):
        size = size_words(row["smallest_detectable"], row["unit"])
        parts.append(f"a change of {size} would have been found")
    if pd.notna(row["documents_needed"]):
        text = f"{row['documents_needed']:,} documents would be needed"
        available = row.get("available")
        if available is not None and pd.notna(available):
            text += f"; {row['task']} has {available:,}"
        parts.append(text)
    return "; ".join(parts) or "–"


def controls_table(results: Results) -> str:
    """Return the frozen plans against the mean of their random controls of the same cost."""
    rows = results.table("against_controls")
    if rows.empty:
        return ""
    columns: Columns = {
        "plan": plan_of(results),
        **places(rows),
        "task": "{task}",
        "controls": lambda row: plan_cell(row["controls"], results.n_layers(row["model"])),
        "documents": lambda row: count(row["n"]),
        "plan − controls [interval]": judged,
        "p, corrected": corrected_p,
        "the plan is": "{verdict}",
    }
    caption = "The frozen plans against the mean of their random controls of the same cost"
    return table(cells(rows, columns), caption, csv="against_controls", first="plan")


def dose_table(results: Results) -> str:
    """Return what more repetitions of the same places change."""
    rows = results.table("dose_response")
    if rows.empty:
        return ""
    columns: Columns = {
        **places(rows),
        "task": "{task}",
        "repeated": lambda row: repeated(
            plural(row["blocks"], "layer" if row["longest"] == 1 else "block"),
            *(row[name] for name in KIND),
        ),
        "times": "{counts}",
        "documents": lambda row: count(row["n"]),
        "each further time [interval]": lambda row: change_text(
            row["slope"], row["slope_low"], row["slope_high"], row["unit"]
        ),
        "p": lambda row: p_value(row["p"]),
        "q": lambda row: p_value(row["q"]),
        "isotonic fit": "{fit}",
        "best [interval]": "{best} [{best_low}, {best_high}]",
        "worse from": lambda row: number(row["worse_from"]),
    }
    caption = "More repetitions of the same blocks, where 1 is the base"
    return table(cells(rows, columns), caption, csv="dose_response")


def cost_table(results: Results) -> str:
    """Return what the base, the frozen plans and their controls cost when they run."""
    rows = results.table("costs")
    if rows.empty:
        return ""

    def speed(way: str) -> Callable[[Row], str]:
        def text(row: Row) -> str:
            if row["plan"] == BASE or pd.isna(row.get(f"{way}_ratio")):
                digits = 1 if way == "decode" else 0
                return f"{row[f'{way}_tokens_per_second']:,.{digits}f} tokens/s"
            ratio, low, high = (row[f"{way}_ratio{end}"] for end in ("", "_low", "_high"))
            return f"{ratio:.2f}×" + ("" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]")

        return text

    columns: Columns = {
        "plan": plan_of(results, group=True),
        **places(rows),
        "layers": "{depth:g}",
        "arithmetic": lambda row: (
            f"{1 / row['arithmetic_ratio']:.2f}×"
            if pd.notna(row.get("arithmetic_ratio"))
            else f"{row['relative_depth']:.2f}× the layers"
        ),
        "KV cache a token": lambda row: f"{row['kv_bytes_per_token'] / 1024:,.1f} KiB",
        "prefill speed": speed("prefill"),
        "decode speed": speed("decode"),
        "peak memory": lambda row: (
            "–"
            if pd.isna(row["peak_memory_bytes"])
            else f"{row['peak_memory_bytes'] / 2**20:,.0f} MiB"
        ),
    }
    frozen = ~rows["plan"].eq(BASE) & ~rows["group"].eq("control")
    caption = "What the base and the plans cost when they run, each alone"
    return table(cells(rows, columns), caption, csv="costs", first="plan", frozen=frozen)


def top_plans(results: Results) -> pd.DataFrame:
    """Return the best plans of each search by mean change over the search tasks, a row each.

    Plans that a race dropped are left out. Where a plan went on to the select stage, its mean
    change there stands beside.
    """
    rows = results.table("comparisons")
    if rows.empty:
        return rows
    rows = rows[(rows["role"] == "search") & (rows["plan"] != BASE)]
    records = []
    several = rows["model"].nunique() > 1
    for model, mine in rows.groupby("model", sort=False):
        search = mine[(mine["stage"] == "search") & mine["dropped"].isna()]
        means = search.groupby("plan")["effect"].mean().sort_values(ascending=False, kind="stable")
        later = rows_of(mine, stage="select").groupby("plan")["effect"].mean()
        for plan in means.index[:MOST_PLANS]:
            found = rows_of(search, plan=plan).to_dict("records")
            record: dict[str, Any] = {"plan": plan_cell(plan, results.n_layers(model))}
            if several:
                record["model"] = model
            record |= {
                "layers": f"{found[0]['depth']:g}",
                "mean at search": signed(means[plan]),
                "mean at select": signed(later[plan]) if plan in later.index else "–",
            }
            record |= {
                row["task"]: change_text(row["effect"], row["low"], row["high"], row["unit"])
                + " *" * bool(row["significant"])
                for row in found
            }
            records.append(record)
    return pd.DataFrame(records).fillna("–")


def top_plans_table(results: Results) -> str:
    """Return `top_plans` of every model that was searched."""
    caption = "The search's best plans, which look better than they are"
    return table(top_plans(results), caption, csv="comparisons", first="plan")


def reliability_table(results: Results) -> str:
    """Return the mean of each profile, its reliability, and how alike two of them are."""
    rows = results.table("reliability")
    if rows.empty:
        return ""

    def estimate(row: Row) -> str:
        if row["measure"] == "mean":
            return change_text(row["estimate"], row["low"], row["high"], row["unit"])
        digits = "–" if pd.isna(row["estimate"]) else f"{row['estimate']:.2f}"
        limits = f"[{row['low']:.2f}, {row['high']:.2f}]" * (digits != "–")
        return f"{digits} {limits}".strip().replace("-", "−")

    columns: Columns = {
        "part": lambda row: PART_WORDS[row["part"]],
        "against": lambda row: PART_WORDS.get(row["against"], row["against"]),
        **places(rows),
        "task": "{task}",
        "measure": lambda row: f"{row['measure']}: {row['other']}".removesuffix(": "),
        "places": lambda row: count(row["places"]),
        "documents": lambda row: count(row["n"]),
        "estimate [95 % interval]": estimate,
    }
    caption = "What the shapes of the profiles are worth"
    return table(cells(rows, columns), caption, csv="reliability", first="part")


def race_table(results: Results) -> str:
    """Return the rounds of a race; nothing where the search was none."""
    rows = results.table("race")
    if rows.empty:
        return ""
    columns: Columns = {
        "round": "{round}",
        **places(rows),
        "documents": "{documents:,}",
        "plans that ran": "{plans:,}",
        "dropped after it": "{dropped:,}",
        "leader": lambda row: plan_cell(row["leader"], results.n_layers(row["model"])),
        "layer passes": lambda row: f"{row['passes']:,.0f} ({row['share']:.0%})",
    }
    return table(cells(rows, columns), "The rounds of the search", csv="race")


def predictor_table(results: Results) -> str:
    """Return the rank correlations of what may predict the effects; nothing without a probe."""
    rows = results.table("predictors")
    if rows.empty:
        return ""
    columns: Columns = {
        "predictor": lambda row: NAMES[row["predictor"]],
        **places(rows),
        "effects on": "{task}",
        "of": lambda row: f"{row['plans']} {row['scope']}",
        "documents": "{n:,}",
        "rank correlation": correlation_text,
        "chosen": lambda row: NAMES.get(row["chosen"], "–"),
        "reliability": "{reliability:.2f}",
    }
    return table(cells(rows, columns), "What predicts the effects", csv="predictors")


def documents_table(results: Results) -> str:
    """Return how many documents each stage used of those that it has, for each task."""
    rows = results.table("comparisons")
    if rows.empty:
        return ""
    known = rows if "available" in rows else rows.assign(available=pd.NA)
    records = []
    for (name, role), mine in known.groupby(["task", "role"], sort=False):
        record = {"task": name, "role": role}
        for stage in STAGES:
            here = rows_of(mine, stage=stage)
            used = here["n"].max() if len(here) else 0
            most = here["available"].dropna()
            record[stage] = count(used, most.max() if len(most) else None) if used else "–"
        records.append(record)
    caption = "Documents that each stage used, of those that it has; no document is in two stages"
    return table(pd.DataFrame(records), caption, csv="comparisons", first="task")


def ledger_table(results: Results) -> str:
    """Return how often each confirm set was looked at."""
    rows = results.table("ledger")
    if rows.empty:
        return ""
    places_of = [name for name in ("model", "quantization") if rows[name].nunique() > 1]
    found = rows.groupby([*places_of, "task"], sort=False).agg(
        looks=("looked", "nunique"),
        plans=("plan", "nunique"),
        documents=("documents", "max"),
        first=("looked", "min"),
        last=("looked", "max"),
    )
    found["documents"] = found["documents"].map(number)
    frame = found.reset_index()
    if "quantization" in frame:
        frame["quantization"] = frame["quantization"].map(quantization_name)
    caption = "How often each confirm set was looked at, by any experiment here"
    return table(frame, caption, csv="ledger", first="task")
