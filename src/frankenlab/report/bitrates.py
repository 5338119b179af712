"""The page's part on bits and duplication: two sentences, and what they rest on."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.plans.plan import BASE
from frankenlab.report.answer import MOST_NAMED
from frankenlab.report.elements import Columns, Row, cells, details, section, table
from frankenlab.report.figures import catalogue
from frankenlab.report.results import Results, rows_of
from frankenlab.report.sections import pictures
from frankenlab.report.tables import folded, plan_of, task, verdict_words
from frankenlab.report.text import (
    interval,
    listed,
    number,
    p_value,
    plural,
    quantization_name,
    quantization_words,
    signed,
    spoken_value,
)

MB = 1e6
TITLE = "At fewer bits?"


def bits_html(results: Results) -> str:
    """Return the section: sentences, figures, tables. Empty where nothing is quantized."""
    bits, weights = results.table("bits"), results.table("quantizations")
    made = folded("The weights at each quantization", results, "quantizations", _weights(results))
    if bits.empty:
        return section("bits", TITLE, "", made) if len(weights) else ""
    shown, more = pictures(results, catalogue.BITS)
    base_alone = folded("The base at each quantization", results, "base_by_bits", _bases(results))
    return section(
        "bits",
        TITLE,
        " ".join(bits_answer(bits)),
        *shown,
        details("Other models", *more),
        folded("Effects at each quantization", results, "interactions", _interactions(results)),
        folded("Against the base that costs the same", results, "rivals", _rivals(results)),
        base_alone,
        made,
    )


def bits_answer(bits: pd.DataFrame) -> list[str]:
    """Return two sentences on the frozen plans of the table `bits`; none where it is empty.

    The first is on the interactions with the reference quantization, the second on the comparisons
    with the base at the cheapest quantization of at least the same cost.
    """
    if bits.empty:
        return []
    own = rows_of(bits, group="frozen")
    return [_interaction_sentence(own), _rival_sentence(own)]


def _interaction_sentence(own: pd.DataFrame) -> str:
    rows = _with_reference(own)
    if rows.empty:
        return "No frozen plan was confirmed at a second quantization."
    # Against a reference of fewer bits, a better change here is a higher cost there.
    turned = np.where(rows["bits_per_weight"] < rows["reference_bits"], -1, 1)
    significant = rows["interaction_verdict"].isin(["improved", "harmed"])
    costlier = rows[significant & (turned * rows["interaction"] > 0)]
    cheaper = rows[significant & (turned * rows["interaction"] < 0)]
    same = int((rows["interaction_verdict"] == "equivalent").sum())
    total = len(rows)
    parts = []
    for found, word in ((costlier, "more"), (cheaper, "less")):
        if len(found):
            named = listed(
                [_interaction(own, row) for row in found.to_dict("records")[:MOST_NAMED]]
            )
            count = f" in {len(found)} of {plural(total, 'comparison')}" * (total > 1)
            parts.append(
                f"repeating layers costs significantly {word} at fewer bits{count}: {named}"
            )
    if not parts:
        if same == total:
            return "Repeating layers costs the same at fewer bits, within the margin."
        parts.append("there is no evidence that repeating layers costs more or less at fewer bits")
    open_ = total - len(costlier) - len(cheaper) - same
    counts = {"the same within the margin": same, "inconclusive": open_}
    counted = [
        f"{count} {'is' if count == 1 else 'are'} {w}" for w, count in counts.items() if count
    ]
    text = "; ".join(
        [*parts, *([f"of {plural(total, 'comparison')} {listed(counted)}"] * bool(counted))]
    )
    return f"{text[0].upper()}{text[1:]}."


def _interaction(own: pd.DataFrame, row: Mapping[str, Any]) -> str:
    """Return "on t the change is −2.0 points unquantized and −3.0 at exl2-4.0"."""
    return (
        f"on {_where(own, row)} the change is {signed(row['reference_effect'])} {row['unit']} "
        f"{quantization_words(row['reference'])} and {signed(row['effect'])} "
        f"{quantization_words(row['quantization'])}"
    )


def _rival_sentence(own: pd.DataFrame) -> str:
    rows = own[own["read_verdict"].notna()]
    if rows.empty:
        return "No bitrate of the base costs as much as the plan, to compare it with."
    total = len(rows)
    said = []
    for verdict, word in (("improved", "better"), ("harmed", "worse")):
        found = rows[rows["read_verdict"] == verdict]
        if len(found):
            named = [_rival(own, row) for row in found.to_dict("records")[:MOST_NAMED]]
            more = len(found) - MOST_NAMED
            named += [f"{plural(more, 'more comparison')}"] if more > 0 else []
            said.append(f"significantly {word} {listed(named)}")
    against = "than the base at the bitrate that reads at least as many bytes for a token"
    left = int((rows["read_verdict"] == "inconclusive").sum())
    same = int((rows["read_verdict"] == "equivalent").sum())
    if said:
        text = f"The frozen plan is {listed(said)} {against}"
    elif same == total:
        text = "The frozen plan is equivalent to the base at the bitrate that reads at least as "
        text += "many bytes for a token"
    else:
        text = f"There is no evidence that the frozen plan is better or worse {against}"
    if left:
        text += f"; {left} of {plural(total, 'comparison')} {'is' if left == 1 else 'are'} "
        text += "inconclusive"
    if own["relative_compute"].min() > 1:
        most = 100 * (own["relative_compute"].max() - 1)
        text += f". It takes {most:.2g} % more arithmetic, which no bitrate of the base does"
    return f"{text}."


def _rival(own: pd.DataFrame, row: Mapping[str, Any]) -> str:
    """Return "on t at exl2-4.0 (+1.0 points, against the base at exl2-6.0)"."""
    return (
        f"on {_where(own, row)} {quantization_words(row['quantization'])} "
        f"({signed(row['read_effect'])} {row['unit']}, against the base "
        f"{quantization_words(row['read_rival'])})"
    )


def _places(rows: pd.DataFrame) -> Columns:
    return {"model": "{model}"} if rows["model"].nunique() > 1 else {}


def _interactions(results: Results) -> str:
    """Return the frozen plans' changes at each bitrate beside those at the reference."""
    rows = _with_reference(results.table("bits"))
    if rows.empty:
        return ""
    words = {"improved": "better", "harmed": "worse", "equivalent": "the same"}
    columns: Columns = {
        "plan": plan_of(results, group=True),
        **_places(rows),
        "task": task,
        "quantization": lambda row: quantization_name(row["quantization"]),
        "change here": lambda row: f"{signed(row['effect'])} {row['unit']}",
        "change at the reference": lambda row: signed(row["reference_effect"]),
        "difference [interval]": lambda row: interval(row, "interaction"),
        "p, corrected": lambda row: (
            number(row["interaction_p_corrected"], ".3f")
            if pd.isna(row["interaction_p_corrected"])
            else p_value(row["interaction_p_corrected"])
        ),
        "the change is": lambda row: words.get(row["interaction_verdict"], "inconclusive"),
    }
    caption = "Does quantizing change what repeated layers cost?"
    frozen = rows["group"] == "frozen"
    return table(cells(rows, columns), caption, csv="bits", first="plan", frozen=frozen)


def _rivals(results: Results) -> str:
    """Return plans against the base at its cheapest quantization of their cost or more."""
    rows = results.table("bits")
    rows = rows[rows["read_effect"].notna() | rows["memory_effect"].notna()]
    if rows.empty:
        return ""

    def against(kind: str, size: str) -> Columns:
        def where_asked(text: Callable[[Row], str]) -> Callable[[Row], str]:
            return lambda row: "–" if pd.isna(row[f"{kind}_effect"]) else text(row)

        def rival(row: Row) -> str:
            ratio = row[f"{kind}_rival_bytes"] / row[size]
            return f"{quantization_name(row[f'{kind}_rival'])} ({ratio:.2f}×)"

        def change(row: Row) -> str:
            verdict = {"improved": "better", "harmed": "worse"}.get(
                row[f"{kind}_verdict"], verdict_words(row[f"{kind}_verdict"])
            )
            return f"{interval(row, kind, row['unit'])} {verdict}"

        by = "" if same else f", by {kind}"
        return {f"base{by}": where_asked(rival), f"change [interval]{by}": where_asked(change)}

    rivals = rows[["read_rival", "memory_rival"]].astype(object)
    same = bool((rivals["read_rival"] == rivals["memory_rival"]).all())
    columns: Columns = {
        "plan": plan_of(results, group=True),
        **_places(rows),
        "quantization": lambda row: quantization_name(row["quantization"]),
        "task": "{task}",
        **against("read", "read_bytes"),
        **({} if same else against("memory", "materialized_bytes")),
    }
    costs = "the bytes read for a token and held in memory" if same else "each cost"
    caption = f"Against the base at its cheapest quantization of at least {costs}"
    if not same:
        caption = "Against the base at its cheapest quantization of at least the same cost"
    frozen = rows["group"] == "frozen"
    return table(cells(rows, columns), caption, csv="bits", first="plan", frozen=frozen)


def _bases(results: Results) -> str:
    """Return what quantizing costs the base alone: its metrics at each quantization."""
    rows = rows_of(results.table("bits"), plan=BASE)
    found = []
    for _, part in rows.groupby(["model", "task"], sort=False):
        ordered = part.sort_values("bits_per_weight", ascending=False).to_dict("records")
        first = ordered[0]
        record = {"task": task(first)}
        if rows["model"].nunique() > 1:
            record["model"] = first["model"]
        record |= {"metric": first["metric"], "documents": f"{first['n']:,}"}
        for row in ordered:
            text = spoken_value(row["value"], row["kind"])
            if row["quantization"] != row["reference"]:
                text += f" ({interval(row, 'shift')})"
            record[quantization_name(row["quantization"])] = text
        found.append(record | {"unit of changes": first["unit"]})
    caption = "The base at each quantization, with its change from the reference"
    return table(pd.DataFrame(found).fillna("–"), caption, csv="bits", first="task")


def _weights(results: Results) -> str:
    """Return who made the weights at each quantization, from which text, and what they take."""
    rows = results.table("quantizations")
    if rows.empty:
        return ""
    columns: Columns = {
        "quantization": lambda row: quantization_name(row["quantization"]),
        **_places(rows),
        "made by": _maker,
        "calibration": lambda row: "–" if pd.isna(row["calibration"]) else row["calibration"],
        "bits per weight": "{bits_per_weight:.2f}",
        "head bits": "{head_bits:.2f}",
        "weights": lambda row: f"{row['weight_bytes'] / MB:,.1f} MB",
        "read a token": lambda row: f"{row['read_bytes'] / MB:,.1f} MB",
    }
    caption = "What the weights are at each quantization"
    return table(cells(rows, columns), caption, csv="quantizations", first="quantization")


def _with_reference(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have an interaction, with the effect and the bits of the same plan at
    the reference as `reference_effect` and `reference_bits`."""
    keys = ["model", "task", "plan"]
    there = rows[rows["quantization"] == rows["reference"]]
    there = there[[*keys, "effect", "bits_per_weight"]].rename(
        columns={"effect": "reference_effect", "bits_per_weight": "reference_bits"}
    )
    return rows[rows["interaction"].notna()].merge(there, on=keys, how="left")


def _where(table: pd.DataFrame, row: Mapping[str, Any]) -> str:
    """Return the task, with the model where there are several."""
    return f"{row['task']} of {row['model']}" if table["model"].nunique() > 1 else row["task"]


def _maker(row: Row) -> str:
    """Return which program made the weights, with its version."""
    quantizer, version = row["quantizer"], row["quantizer_version"]
    if pd.isna(quantizer):
        return "as distributed" if pd.isna(row["made"]) else row["made"]
    if pd.isna(version) or str(version) in quantizer:
        return quantizer
    return f"{quantizer} {version}"
