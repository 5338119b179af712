"""The page's part on bits and duplication: two sentences, and what they rest on."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.plans.plan import BASE
from frankenlab.report.answer import MOST_NAMED
from frankenlab.report.elements import Columns, Row, cells, details, section, table
from frankenlab.report.figures import catalogue
from frankenlab.report.findings import counted
from frankenlab.report.results import Results, rows_of
from frankenlab.report.sections import pictures
from frankenlab.report.tables import corrected_p, folded, judged, plan_of, task, verdict_words
from frankenlab.report.text import (
    change_text,
    effect_words,
    listed,
    plural,
    quantization_name,
    quantization_words,
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
        if (rows["interaction_verdict"] == "equivalent").all():
            return "Repeating layers costs the same at fewer bits, within the margin."
        parts.append("there is no evidence that repeating layers costs more or less at fewer bits")
    rest = rows.loc[~significant, "interaction_verdict"]
    said = [f"{text[0].upper()}{text[1:]}." for text in parts]
    if len(rest):
        said.append(f"{counted(rest, others=len(rest) < total)}.")
    return " ".join(said)


def _interaction(own: pd.DataFrame, row: Mapping[str, Any]) -> str:
    """Return "on t the change is −2.0 points unquantized and −3.0 at exl2-4.0"."""
    return (
        f"on {_where(own, row)} the change is {effect_words(row['reference_effect'], row['unit'])} "
        f"{quantization_words(row['reference'])} and {effect_words(row['effect'], row['unit'])} "
        f"{quantization_words(row['quantization'])}"
    )


def _rival_sentence(own: pd.DataFrame) -> str:
    rows = own[own["read_verdict"].notna()]
    if rows.empty:
        return "No bitrate of the base costs as much as the plan, to compare it with."
    found = []
    cases = ["model", "quantization", "read_rival"]
    for (_, quantization, rival), mine in rows.groupby(cases, sort=False):
        ratio = (mine["read_rival_bytes"] / mine["read_bytes"]).iloc[0]
        text = (
            f"against the base {quantization_words(rival)}, which reads {ratio:.2f} times as many "
            f"bytes for a token, the frozen plan {quantization_words(quantization)} is "
            f"{listed(_verdicts(mine, own))}"
        )
        better = bool((mine["read_verdict"] == "improved").any())
        found.append((not better, text))
    ordered = [text for _, text in sorted(found, key=lambda item: item[0])]
    text = "; ".join(ordered[:MOST_NAMED])
    if len(ordered) > MOST_NAMED:
        text += f"; {len(ordered) - MOST_NAMED} more bitrates are in the table"
    if own["relative_compute"].min() > 1:
        ends = (own["relative_compute"].min(), own["relative_compute"].max())
        sizes = dict.fromkeys(f"{100 * (end - 1):.2g}" for end in ends)
        text += f". It takes {' to '.join(sizes)} % more arithmetic, which no bitrate of the base "
        text += "does"
    return f"{text[0].upper()}{text[1:]}."


def _verdicts(rows: pd.DataFrame, own: pd.DataFrame) -> list[str]:
    """Return "significantly worse on t (−1.0 points)" and so on, what is significant first."""
    words = {"improved": "significantly better", "harmed": "significantly worse"}
    said = []
    for verdict in ("improved", "harmed", "equivalent", "inconclusive"):
        mine = rows_of(rows, read_verdict=verdict).to_dict("records")
        named = [_where(own, row) for row in mine[:MOST_NAMED]]
        if verdict in words:
            sizes = (f" ({effect_words(row['read_effect'], row['unit'])})" for row in mine)
            named = [name + size for name, size in zip(named, sizes, strict=False)]
        if len(mine) > MOST_NAMED:
            named.append(plural(len(mine) - MOST_NAMED, "more task"))
        said += [f"{words.get(verdict, verdict)} on {listed(named)}"] if named else []
    return said


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
        "change here": lambda row: effect_words(row["effect"], row["unit"]),
        "change at the reference": lambda row: effect_words(row["reference_effect"], row["unit"]),
        "difference [interval]": lambda row: judged(row, "interaction"),
        "p, corrected": lambda row: corrected_p(row, "interaction_p_corrected"),
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
            return f"{judged(row, kind)} {verdict}"

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
                shift = change_text(row["shift"], row["shift_low"], row["shift_high"], row["unit"])
                text += f" ({shift})"
            record[quantization_name(row["quantization"])] = text
        found.append(record)
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
