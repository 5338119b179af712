"""The page's tables: the columns that one reads; the rest is in the CSV that each links to."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from frankenlab.plans.plan import BASE
from frankenlab.report.answer import frozen_rows
from frankenlab.report.elements import Columns, Html, Row, cells, details, plan_cell, table
from frankenlab.report.results import Results, rows_of
from frankenlab.report.text import (
    change_text,
    guard_name,
    number,
    p_value,
    quantization_name,
    share,
    size_words,
    spoken_value,
)

STAGES = ("search", "select", "confirm")


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
    """Return what makes a row's cell of its plan, with its group before it if asked."""

    def cell(row: Row) -> Any:
        found = plan_cell(row["plan"], results.n_layers(row["model"]))
        if not group or row["plan"] == BASE:
            return found
        named = row["group"] if row["group"] in ("control", "finalist") else "frozen"
        return Html(f"{named}: {found}")

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


def prompts_table(results: Results) -> str:
    """Return the change of each confirmed plan under each prompt, and how much that varies."""
    rows = results.table("prompts")
    if rows.empty:
        return ""
    columns: Columns = {
        "plan": plan_of(results, group=True),
        **places(rows),
        "task": task,
        "prompt": "{prompt}",
        "base → plan": values,
        "change [interval]": lambda row: change_text(
            row["effect"], row["low"], row["high"], row["unit"]
        ),
        "documents": lambda row: count(row["n"]),
        "standard deviation between prompts [interval]": lambda row: (
            f"{row['spread']:.1f} [{row['spread_low']:.1f}, {row['spread_high']:.1f}]"
        ),
        "noise of the documents": "{noise:.1f}",
        "p": lambda row: p_value(row["spread_p"]),
    }
    caption = "The confirmed plans against the base under each prompt, without verdicts"
    frozen = rows["group"] == "frozen"
    return table(cells(rows, columns), caption, csv="prompts", first="plan", frozen=frozen)


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


def plane_table(results: Results) -> str:
    """Return what each plan with its weights costs, and how good it is."""
    rows = results.table("plane")
    if rows.empty:
        return ""
    columns: Columns = {
        "plan": plan_of(results),
        **places(rows[["model"]]),
        "kind": "{group}",
        "weights": lambda row: (
            quantization_name(row["point_quantization"])
            + ("" if row["point_model"] == row["model"] else f" {row['point_model']}")
        ),
        "task": "{task}",
        "weights read a token": lambda row: f"{row['read_bytes'] / 1e6:,.4g} MB",
        "multiplications a token": lambda row: f"{row['multiplications'] / 1e6:,.4g} million",
        "change [interval]": lambda row: change_text(
            row["effect"], row["low"], row["high"], row["unit"]
        ),
        "on the front of weights read": lambda row: share(row["on_front"]),
        "on the front of multiplications": lambda row: share(row["on_front_compute"]),
    }
    caption = "All that was confirmed by its cost, against the base on fresh documents"
    frozen = rows["group"] == "frozen"
    return table(cells(rows, columns), caption, csv="plane", first="plan", frozen=frozen)


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
