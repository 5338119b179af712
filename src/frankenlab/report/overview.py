"""The first page of an experiment with several models: each in a row, and what they show together.

Each model has a page of its own behind it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pandas as pd

from frankenlab.analyse.sizes import FROZEN
from frankenlab.plans.designs import LINE, SINGLE
from frankenlab.plans.plan import BASE
from frankenlab.report.answer import MOST_NAMED, answer, frozen_rows
from frankenlab.report.elements import (
    Columns,
    Html,
    Row,
    cells,
    escape,
    figure,
    plan_cell,
    section,
    table,
)
from frankenlab.report.figures import catalogue
from frankenlab.report.points import page_data
from frankenlab.report.results import Results, rows_of
from frankenlab.report.tables import count, folded, judged, verdict_words
from frankenlab.report.text import (
    change_text,
    listed,
    p_value,
    parameters_text,
    plural,
    quantization_name,
)

VERDICTS = ("harmed", "inconclusive", "equivalent", "improved")


def overview_html(results: Results) -> str:
    """Return a row for each model and quantization: its answer, its frozen plan, what it gains and
    loses; with a link to its page."""
    own = frozen_rows(results.tables, results.frozen)
    if own.empty:
        return section("overview", "The models", "Nothing was confirmed yet.")
    sizes = _parameters(results)
    records = []
    for (model, quantization), rows in own.groupby(["model", "quantization"], sort=False):
        guards = rows_of(rows, role="guard").to_dict("records")
        worst = min(guards, key=_badness, default=None)
        records.append(
            {
                "model": Html(
                    f"{_link(model)}<br>{parameters_text(sizes[model])} parameters"
                    if model in sizes
                    else _link(model)
                ),
                "quantization": quantization_name(quantization),
                # What was gained stands in the headline above and on the model's page.
                "answer": answer({"verdicts": rows}, results.frozen)[0].partition(":")[0],
                "frozen plan": plan_cell(rows["plan"].iloc[0], results.n_layers(model)),
                "search tasks [interval]": Html(
                    "<br>".join(
                        f"{escape(row['task'])} {_stacked(judged(row))}"
                        for row in rows_of(rows, role="search").to_dict("records")
                    )
                ),
                "worst guard task": Html("–" if worst is None else _guard(worst)),
            }
        )
    frame = pd.DataFrame(records)
    if frame["quantization"].nunique() == 1:
        frame = frame.drop(columns="quantization")
    caption = "Each model with its frozen plan, on documents that chose nothing"
    pages = ", ".join(map(_link, own["model"].unique()))
    return section(
        "overview",
        "The models",
        "",
        table(frame, caption, csv="verdicts", first="model"),
        f"<p>Each model has a page of its own: {pages}.</p>",
    )


def _link(model: str) -> str:
    """Return a link to the page of a model, which lies beside the first page."""
    return f'<a href="model.{quote(model)}.html">{escape(model)}</a>'


def data_html(results: Results) -> str:
    """Return what the page's script needs of plans; flipped documents are on the models' pages."""
    tables = {n: t for n, t in results.tables.items() if n not in ("flips", "documents")}
    return page_data(replace(results, tables=tables))


def _badness(row: Mapping[str, Any]) -> tuple[int, float]:
    return VERDICTS.index(row["verdict"]), row["effect"]


def _guard(row: Mapping[str, Any]) -> str:
    words = verdict_words(row["verdict"])
    return f"{escape(row['task'])} {_stacked(judged(row))}, {escape(words)}"


def _stacked(change: str) -> str:
    """Return a change with its interval below it, neither of which breaks."""
    return escape(change).replace(" ", "\N{NO-BREAK SPACE}").replace("\N{NO-BREAK SPACE}[", "<br>[")


def _parameters(results: Results) -> dict[str, int]:
    rows = rows_of(results.table("costs"), plan=BASE)
    return rows.groupby("model")["parameters"].first().to_dict() if len(rows) else {}


def size_html(results: Results) -> str:
    """Return how effects depend on the size of the model, its bitrate and the task."""
    return section(
        "size",
        "Does it depend on the size of the model?",
        "",
        _picture(results, "size_effect"),
        folded("Each design on each model, as a table", results, "sizes", _sizes_table(results)),
    )


def transfer_html(results: Results) -> str:
    """Return whether a frozen plan does as well on other models; nothing where none was tried."""
    shown = _picture(results, "transfer_effect")
    if not shown:
        return ""
    return section(
        "transfer",
        "Does the plan of one model help another?",
        "",
        shown,
        folded("All transferred plans", results, "transfer", _transfer_table(results)),
    )


def family_html(results: Results) -> str:
    """Return how the frankens compare with each other and with larger models' bases."""
    rows = results.table("family")
    if rows.empty:
        return ""
    return section(
        "family",
        "Is a franken as good as a larger model?",
        family_finding(rows),
        folded("The models against each other", results, "family", _family_table(results)),
    )


def family_finding(rows: pd.DataFrame) -> str:
    """Say how each frozen plan compares with the base of a larger model, and with its franken."""
    said = []
    wanted = (("base", "the unmodified"), ("frozen", "the frozen plan of the larger"))
    for group, name in wanted:
        own = rows_of(rows, group_a="frozen", group_b=group)
        pairs = list(own.groupby(["model_a", "model_b"], sort=False))
        for (small, large), part in pairs[:MOST_NAMED]:
            against = f"{name} {large}"
            said.append(
                f"On the same documents the frozen plan of {small} is {_counted(part, against)}."
            )
        if len(pairs) > MOST_NAMED:
            said.append(
                f"{plural(len(pairs) - MOST_NAMED, 'more pair')} of models against {name} "
                "model are in the table."
            )
    return " ".join(said)


def _counted(rows: pd.DataFrame, against: str) -> str:
    sure = rows[rows["significant"].astype(bool)]
    better, worse = sure[sure["effect"] > 0], sure[sure["effect"] < 0]
    parts = [
        f"significantly {word} than {against} on {_tasks(found)}"
        for word, found in (("better", better), ("worse", worse))
        if len(found)
    ]
    rest = len(rows) - len(sure)
    if not parts:
        return f"neither significantly better nor worse than {against} on {_tasks(rows)}"
    tail = f", and neither on {plural(rest, 'other task')}" if rest else ""
    return f"{listed(parts)}{tail}"


def _tasks(rows: pd.DataFrame) -> str:
    named = [f"{row['task']} ({_change(row)})" for row in rows.head(MOST_NAMED).to_dict("records")]
    more = len(rows) - MOST_NAMED
    return listed([*named, *([plural(more, "more task")] if more > 0 else [])])


def _change(row: Row, name: str = "") -> str:
    prefix = f"{name}_" if name else ""
    ends = (row[name or "effect"], row[f"{prefix}low"], row[f"{prefix}high"])
    return "–" if pd.isna(ends[0]) else change_text(*ends, row["unit"])


def _q(row: Row) -> str:
    return "–" if pd.isna(row["q"]) else p_value(row["q"])


def _picture(results: Results, name: str) -> str:
    drawn = {picture.entry.name: picture for picture in catalogue.across(results.tables)}
    return figure(results, drawn[name]) if name in drawn else ""


def _sizes_table(results: Results) -> str:
    rows = results.table("sizes")
    if rows.empty:
        return ""
    # Single plans are many; they are in the file and in the picture.
    order = {FROZEN: 0, LINE: 2, SINGLE: 3}
    rows = rows.assign(order=[order.get(kind, 1) for kind in rows["design"]])
    rows = rows.sort_values(["order", "label", "task", "parameters"], kind="stable")
    columns: Columns = {
        "design": "{label}",
        "model": "{model}",
        "parameters": lambda row: parameters_text(row["parameters"]),
        "quantization": lambda row: quantization_name(row["quantization"]),
        "task": lambda row: f"{row['task']} ({row['role']})",
        "documents": lambda row: f"{count(row['n'])} ({row['stage']})",
        "change [95 % interval]": _change,
        "minus that of the smallest model": lambda row: _change(row, "difference"),
        "q": _q,
    }
    caption = "What each design changes on each model, and how the models differ"
    frozen = rows["design"] == FROZEN
    return table(cells(rows, columns), caption, csv="sizes", first="design", frozen=frozen)


def _transfer_table(results: Results) -> str:
    rows = results.table("transfer")
    if rows.empty:
        return ""
    columns: Columns = {
        "model": "{model}",
        "plan of": lambda row: "its own" if row["source"] == row["model"] else row["source"],
        "plan": lambda row: plan_cell(row["plan"], results.n_layers(row["model"])),
        "task": lambda row: f"{row['task']} ({row['role']})",
        "documents": lambda row: count(row["n"]),
        "change [95 % interval]": _change,
        "minus its own plan": lambda row: "–" if pd.isna(row["p"]) else _change(row, "difference"),
        "q": _q,
    }
    caption = "The frozen plan of each model on every model"
    frozen = rows["source"] == rows["model"]
    return table(cells(rows, columns), caption, csv="transfer", first="model", frozen=frozen)


def _family_table(results: Results) -> str:
    rows = results.table("family")

    def side(end: str) -> Any:
        return lambda row: f"{row[f'model_{end}']}, {row[f'group_{end}']}"

    columns: Columns = {
        "smaller": side("a"),
        "larger": side("b"),
        "task": lambda row: f"{row['task']} ({row['role']})",
        "documents": lambda row: count(row["n"]),
        "smaller − larger [95 % interval]": _change,
        "q": _q,
    }
    caption = "Bases and frozen plans of the models against each other"
    frozen = (rows["group_a"] == "frozen") & (rows["group_b"] == "base")
    return table(cells(rows, columns), caption, csv="family", first="smaller", frozen=frozen)
