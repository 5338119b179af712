"""The report's part on bits and duplication: two sentences, and what they rest on."""

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.report.answer import BRACKETS, MOST_NAMED
from frankenlab.report.elements import Columns, Row, cells, gallery, tables_html
from frankenlab.report.figures.catalogue import pictures
from frankenlab.report.results import Results, rows_of
from frankenlab.report.text import interval, listed, metric_value, number, p_value, plural, signed

MB = 1e6
BITS_QUESTION = "Does a repeated layer cost more when it is quantized?"
COST_QUESTION = "Is a franken ever better than the base at the bitrate that costs the same?"


def bits_answer(bits: pd.DataFrame) -> list[str]:
    """Return two sentences on the frozen frankens of the table `bits`; none where it is empty.

    The first counts the interactions with the reference quantization, the second the comparisons
    with the base at the cheapest quantization of at least the same cost. Both name the comparisons
    that say most.
    """
    if bits.empty:
        return []
    own = rows_of(bits, group="frozen")
    return [_interaction_sentence(own), _rival_sentence(own)]


def _opening(count: int, total: int, yes: str = "Yes") -> str:
    """Return "Yes", or "Yes, in 2 of 5 comparisons"."""
    return yes if count == total else f"{yes}, in {count} of {plural(total, 'comparison')}"


def _interaction_sentence(own: pd.DataFrame) -> str:
    rows = _with_reference(own)
    if rows.empty:
        return f"{BITS_QUESTION} No franken was confirmed at a second quantization."
    # Against a reference of fewer bits, a better change here is a higher cost there.
    turned = np.where(rows["bits_per_weight"] < rows["reference_bits"], -1, 1)
    significant = rows["interaction_verdict"].isin(["improved", "harmed"])
    costlier = int((significant & (turned * rows["interaction"] > 0)).sum())
    cheaper = int(significant.sum()) - costlier
    same = int((rows["interaction_verdict"] == "equivalent").sum())
    total = len(rows)
    if costlier and cheaper:
        opening = "It depends"
    elif costlier:
        opening = _opening(costlier, total)
    elif cheaper:
        opening = f"No, it costs less, in {cheaper} of {plural(total, 'comparison')}"
    else:
        opening = "No, or by less than the margin" if same == total else "Inconclusive"
    counts = {
        "cost more at fewer bits": costlier,
        "cost less at fewer bits": cheaper,
        "cost the same within the margin": same,
        "was inconclusive": total - costlier - cheaper - same,
    }
    counted = listed([f"{words} in {count}" for words, count in counts.items() if count])
    ranked = rows.assign(size=-rows["interaction"].abs()).sort_values(["interaction_p", "size"])
    named = [
        f"{_where(own, row)} {signed(row['reference_effect'])} {row['unit']} at {row['reference']} "
        f"and {signed(row['effect'])} at {row['quantization']}, a difference of "
        f"{interval(row, 'interaction')} (n = {row['n']})"
        for row in ranked.head(MOST_NAMED).to_dict("records")
    ]
    chosen = "the clearest" if total > MOST_NAMED else "namely"
    return (
        f"{BITS_QUESTION} {opening}: over {plural(total, 'comparison')} of the frozen franken's "
        f"change between bitrates it {counted} (after Holm's correction); {chosen}: "
        f"{'; '.join(named)}; {BRACKETS}."
    )


def _rival_sentence(own: pd.DataFrame) -> str:
    rows, held = (own[own[f"{kind}_verdict"].notna()] for kind in ("read", "memory"))
    if rows.empty:
        return f"{COST_QUESTION} This has no answer here: no bitrate of the base costs as much."
    better = (rows["read_verdict"] == "improved").sum()
    if better:
        opening = _opening(better, len(rows))
    else:
        unsure = (rows["read_verdict"] == "inconclusive").any()
        opening = "Inconclusive on these documents" if unsure else "No"
    by_memory = "by the memory of a standalone checkpoint "
    if held.empty:
        by_memory += "no bitrate of the base costs as much"
    elif held.index.equals(rows.index) and (held["memory_rival"] == rows["read_rival"]).all():
        by_memory += "these are the same comparisons"
    else:
        by_memory += _verdict_counts(held["memory_verdict"])
    evidence = np.sign(rows["read_effect"]) * (1 - rows["read_p"])
    best = rows.loc[evidence.idxmax()].to_dict()
    ratio = best["read_rival_bytes"] / best["read_bytes"]
    text = (
        f"{COST_QUESTION} {opening}: against the base at its cheapest quantization that reads at "
        f"least as many bytes of weights for a token {_verdict_counts(rows['read_verdict'])}; "
        f"{by_memory}; the most favourable: {_where(own, best)} at {best['quantization']} "
        f"against the base at {best['read_rival']}, which reads {ratio:.2f} times the bytes, "
        f"{interval(best, 'read')} {best['unit']} (n = {best['n']})"
    )
    most = own["relative_compute"].max()
    if own["relative_compute"].min() > 1:
        text += f"; a franken also takes up to {most:.2f} times the base's multiplications, and no "
        text += "bitrate of the base takes as many, as bits do not change their number"
    return text + "."


def bits_html(results: Results) -> str:
    """Return the section: sentences, figures, tables. Empty where nothing is quantized."""
    bits, weights = results.table("bits"), results.table("quantizations")
    parts = []
    if len(bits):
        models = [model for model in bits["model"].unique()]
        found = [p for model in models for p in pictures(results.tables, model)]
        parts += [f"<p>{escape(sentence)}</p>" for sentence in bits_answer(bits)]
        parts += [
            gallery(results, found),
            "<h3>What quantizing adds to what repeating costs</h3>",
            interactions_html(results),
            "<h3>Against the base that costs the same</h3>",
            rivals_html(results),
            "<h3>The base at each quantization</h3>",
            tables_html(bits, _bases, results.caption("tables/base_by_bits"), ["model"]),
        ]
    if len(weights):
        parts += ["<h3>The weights at each quantization</h3>", weights_html(results)]
    return "\n".join(['<h2 id="bits">Bits and duplication</h2>', *parts]) if parts else ""


def interactions_html(results: Results) -> str:
    """Return every franken's and control's change at each bitrate beside that at the reference."""
    words = {"improved": "better", "harmed": "worse", "equivalent": "the same"}

    def texts(rows: pd.DataFrame) -> pd.DataFrame:
        columns: Columns = {
            "task": "{task} ({role})",
            "plan": "{group} {plan}",
            "n": "{n:,}",
            "quantization": "{quantization}",
            "change here": lambda row: signed(row["effect"]),
            f"at {rows['reference'].iloc[0]}": lambda row: signed(row["reference_effect"]),
            "difference [interval]": lambda row: interval(row, "interaction"),
            "unit": "{unit}",
            "p": lambda row: p_value(row["interaction_p"]),
            "p (Holm)": lambda row: p_value(row["interaction_p_holm"]),
            "the change is": lambda row: words.get(row["interaction_verdict"], "inconclusive"),
        }
        return cells(rows, columns)

    rows = _with_reference(results.table("bits"))
    return tables_html(rows, texts, results.caption("tables/interactions"), ["model"])


def rivals_html(results: Results) -> str:
    """Return plans against the base at its cheapest quantization of their cost or more."""
    words = {"improved": "better", "harmed": "worse"}

    def against(kind: str, size: str) -> Columns:
        def where_asked(text: Callable[[Row], str]) -> Callable[[Row], str]:
            return lambda row: "–" if pd.isna(row[f"{kind}_effect"]) else text(row)

        def base(row: Row) -> str:
            return f"{row[f'{kind}_rival']} ({row[f'{kind}_rival_bytes'] / row[size]:.2f}×)"

        def verdict(row: Row) -> str:
            return words.get(row[f"{kind}_verdict"]) or str(row[f"{kind}_verdict"])

        return {
            f"base, by {kind}": where_asked(base),
            f"change, by {kind}": where_asked(lambda row: interval(row, kind)),
            f"p (Holm), by {kind}": where_asked(lambda row: p_value(row[f"{kind}_p_holm"])),
            f"by {kind}": where_asked(verdict),
        }

    columns: Columns = {
        "task": "{task} ({role})",
        "plan": "{group} {plan}",
        "quantization": "{quantization}",
        "unit": "{unit}",
        **against("read", "read_bytes"),
        **against("memory", "materialized_bytes"),
    }
    rows = results.table("bits")
    rows = rows[rows["read_effect"].notna() | rows["memory_effect"].notna()]
    return tables_html(rows, columns, results.caption("tables/rivals"), ["model"])


def _bases(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what quantizing costs the base alone: its metrics at each quantization."""
    found = []
    for _, part in rows_of(rows, plan="base").groupby("task", sort=False):
        ordered = part.sort_values("bits_per_weight", ascending=False).to_dict("records")
        first = ordered[0]
        record = {
            "task": f"{first['task']} ({first['role']})",
            "metric": first["metric"],
            "n": f"{first['n']:,}",
        }
        for row in ordered:
            text = metric_value(row["value"], row["kind"])
            if row["quantization"] != row["reference"]:
                text += f" ({interval(row, 'shift')})"
            record[row["quantization"]] = text
        found.append(record | {"unit of changes": first["unit"]})
    return pd.DataFrame(found)


def weights_html(results: Results) -> str:
    """Return who made the weights at each quantization, from which text, and what they take."""

    def attainable(row: Row) -> str:
        ends = (number(row[f"attainable_{end}"], ".2f") for end in ("low", "high"))
        return "–" if pd.isna(row["attainable_low"]) else " to ".join(ends)

    columns: Columns = {
        "quantization": "{quantization}",
        "made by": _maker,
        "calibration": lambda row: "–" if pd.isna(row["calibration"]) else row["calibration"],
        "bits per weight": "{bits_per_weight:.2f}",
        "attainable": attainable,
        "head bits": "{head_bits:.2f}",
        "weights": lambda row: f"{row['weight_bytes'] / MB:,.1f} MB",
        "read a token": lambda row: f"{row['read_bytes'] / MB:,.1f} MB",
        "calibration perplexity": lambda row: number(row["calibration_perplexity"], ".2f"),
    }
    caption = results.caption("tables/quantizations")
    return tables_html(results.table("quantizations"), columns, caption, ["model"])


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
    return f"{row['model']}, {row['task']}" if table["model"].nunique() > 1 else row["task"]


def _verdict_counts(verdicts: pd.Series) -> str:
    """Return "it was better in 1 of 5 comparisons, worse in 2 and inconclusive in 2"."""
    words = {"improved": "better", "harmed": "worse"}
    words |= {"equivalent": "equivalent", "inconclusive": "inconclusive"}
    counts = {words[v]: int((verdicts == v).sum()) for v in words if (verdicts == v).any()}
    first, *others = (f"{word} in {count}" for word, count in counts.items())
    return listed([f"it was {first} of {plural(len(verdicts), 'comparison')}", *others])


def _maker(row: Row) -> str:
    """Return which program made the weights, with its version."""
    quantizer, version = row["quantizer"], row["quantizer_version"]
    if pd.isna(quantizer):
        return "as distributed" if pd.isna(row["made"]) else row["made"]
    if pd.isna(version) or str(version) in quantizer:
        return quantizer
    return f"{quantizer} {version}"
