"""The report's part on bits and duplication: two sentences, and what they rest on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.report.answer import MOST_NAMED, listed, signed
from frankenlab.report.tables import Picture, gallery, html_table, native_text, note_html, p_text

MB = 1e6
BITS_QUESTION = "Does a repeated layer cost more when it is quantized?"
COST_QUESTION = "Is a franken ever better than the base at the bitrate that costs the same?"


def bits_answer(tables: Mapping[str, pd.DataFrame], confidence: float = 0.95) -> list[str]:
    """Two sentences, on the frozen frankens of the table `bits`; none where it is absent.

    The first counts the interactions with the reference quantization, the second the comparisons
    with the base at the cheapest quantization of at least the same cost. Both name the comparisons
    that say most.
    """
    table = tables.get("bits")
    if table is None or table.empty:
        return []
    return [_interaction_sentence(table, confidence), _rival_sentence(table)]


def _interaction_sentence(table: pd.DataFrame, confidence: float) -> str:
    rows = _with_reference(table[table["group"] == "frozen"])
    if rows.empty:
        return f"{BITS_QUESTION} No franken was confirmed at a second quantization."
    # Against a reference of fewer bits, a better change here is a higher cost there.
    turned = np.where(rows["bits_per_weight"] < rows["reference_bits"], -1, 1)
    told = rows["interaction_verdict"].isin(["improved", "harmed"])
    costlier = int((told & (turned * rows["interaction"] > 0)).sum())
    cheaper = int(told.sum()) - costlier
    same = int((rows["interaction_verdict"] == "equivalent").sum())
    total = len(rows)
    if costlier and cheaper:
        opening = "It depends"
    elif costlier:
        opening = "Yes" if costlier == total else f"Yes, in {costlier} of {_comparisons(total)}"
    elif cheaper:
        opening = f"No, it costs less, in {cheaper} of {_comparisons(total)}"
    else:
        opening = "No, or by less than the margin" if same == total else "Not told"
    counts = {
        "cost more at fewer bits": costlier,
        "cost less at fewer bits": cheaper,
        "cost the same within the margin": same,
        "could not be told": total - costlier - cheaper - same,
    }
    counted = listed([f"{words} in {count}" for words, count in counts.items() if count])
    ranked = rows.assign(size=-rows["interaction"].abs()).sort_values(["interaction_p", "size"])
    named = [
        f"{_where(table, row)} {signed(row.reference_effect)} {row.unit} at {row.reference} and "
        f"{signed(row.effect)} at {row.quantization}, a difference of "
        f"{_change(row.interaction, row.interaction_low, row.interaction_high)} (n = {row.n})"
        for row in ranked.head(MOST_NAMED).itertuples()
    ]
    chosen = "the clearest" if total > MOST_NAMED else "namely"
    return (
        f"{BITS_QUESTION} {opening}: over {_comparisons(total)} of the frozen franken's change "
        f"between bitrates it {counted} (after Holm's correction); {chosen}: {'; '.join(named)}; "
        f"brackets are {100 * confidence:g}\N{NO-BREAK SPACE}% intervals."
    )


def _rival_sentence(table: pd.DataFrame) -> str:
    own = table[table["group"] == "frozen"]
    rows = own[own["read_verdict"].notna()]
    if rows.empty:
        return f"{COST_QUESTION} It cannot be asked here: no bitrate of the base costs as much."
    held = own[own["memory_verdict"].notna()]
    better, total = (rows["read_verdict"] == "improved").sum(), len(rows)
    if better:
        opening = "Yes" if better == total else f"Yes, in {better} of {_comparisons(total)}"
    elif (rows["read_verdict"] == "inconclusive").any():
        opening = "Not as far as these documents tell"
    else:
        opening = "No"
    by_memory = "by the memory of a standalone checkpoint "
    if held.empty:
        by_memory += "no bitrate of the base costs as much"
    elif held.index.equals(rows.index) and (held["memory_rival"] == rows["read_rival"]).all():
        by_memory += "these are the same comparisons"
    else:
        by_memory += _verdict_words(held["memory_verdict"])
    evidence = np.sign(rows["read_effect"]) * (1 - rows["read_p"])
    best = rows.loc[evidence.idxmax()]
    ratio = best["read_rival_bytes"] / best["read_bytes"]
    text = (
        f"{COST_QUESTION} {opening}: against the base at its cheapest quantization that reads at "
        f"least as many bytes of weights for a token {_verdict_words(rows['read_verdict'])}; "
        f"{by_memory}; the most favourable: {_where(table, best)} at {best['quantization']} "
        f"against the base at {best['read_rival']}, which reads {ratio:.2f} times the bytes, "
        f"{_change(best['read_effect'], best['read_low'], best['read_high'])} {best['unit']} "
        f"(n = {best['n']})"
    )
    most = own["relative_compute"].max()
    if own["relative_compute"].min() > 1:
        text += f"; in multiplications, of which a franken takes up to {most:.2f} times the base's "
        text += "and which bits leave as they are, no bitrate of the base costs as much"
    return text + "."


def bits_html(
    tables: Mapping[str, pd.DataFrame],
    pictures: Iterable[Picture],
    folder: str | Path,
    confidence: float = 0.95,
) -> str:
    """The section: sentences, pictures, tables. Empty where nothing is quantized."""
    table, weights = tables.get("bits"), tables.get("quantizations")
    parts = []
    if table is not None and len(table):
        parts += [f"<p>{escape(sentence)}</p>" for sentence in bits_answer(tables, confidence)]
        parts += [
            gallery(pictures, folder),
            "<h3>What quantizing adds to what repeating costs</h3>",
            interactions_html(table),
            "<h3>Against the base that costs the same</h3>",
            rivals_html(table),
            "<h3>The base at each quantization</h3>",
            bases_html(table),
        ]
    if weights is not None and len(weights):
        parts += ["<h3>The weights at each quantization</h3>", weights_html(weights)]
    return "\n".join(['<h2 id="bits">Bits and duplication</h2>', *parts]) if parts else ""


def interactions_html(table: pd.DataFrame) -> str:
    """Every franken's and control's change at each bitrate beside that at the reference."""

    def records(rows: pd.DataFrame) -> list[dict[str, str]]:
        return [
            {
                "task": f"{row.task} ({row.role})",
                "plan": f"{row.group} {row.plan}",
                "n": f"{row.n:,}",
                "quantization": row.quantization,
                "change here": signed(row.effect),
                f"at {row.reference}": signed(row.reference_effect),
                "difference [interval]": _change(
                    row.interaction, row.interaction_low, row.interaction_high
                ),
                "unit": row.unit,
                "p": p_text(row.interaction_p),
                "p (Holm)": p_text(row.interaction_p_holm),
                "the change is": _words(row.interaction_verdict, "better", "worse", "the same"),
            }
            for row in _with_reference(rows).itertuples()
        ]

    note = "Each change is against the base at the same quantization. The difference is taken "
    note += "document by document, over those that were scored at every quantization. Changes are "
    note += "on the scale of the metric: near chance they have less room, so that a difference "
    note += "close to 0 at few bits can mean that nothing was left to lose. The same: the 90 % "
    note += "interval of the difference lies within the margin."
    left = ("task", "plan", "quantization", "unit", "the change is")
    return _by_model(table, records, note, left)


def rivals_html(table: pd.DataFrame) -> str:
    """Frankens and controls against the base at its cheapest quantization of their cost or more."""

    def against(row: Any, kind: str, size: int) -> dict[str, str]:
        value = {
            name: getattr(row, f"{kind}_{name}")
            for name in ("rival", "rival_bytes", "effect", "low", "high", "p_holm", "verdict")
        }
        if pd.isna(value["effect"]):
            return {"base": "–", "change": "–", "p": "–", "verdict": "–"}
        return {
            "base": f"{value['rival']} ({value['rival_bytes'] / size:.2f}×)",
            "change": _change(value["effect"], value["low"], value["high"]),
            "p": p_text(value["p_holm"]),
            "verdict": _words(value["verdict"], "better", "worse", "equivalent"),
        }

    def records(rows: pd.DataFrame) -> list[dict[str, str]]:
        asked = rows[rows["read_effect"].notna() | rows["memory_effect"].notna()]
        found = []
        for row in asked.itertuples():
            record = {
                "task": f"{row.task} ({row.role})",
                "plan": f"{row.group} {row.plan}",
                "quantization": row.quantization,
                "unit": row.unit,
            }
            for kind, words, size in (
                ("read", "read", row.read_bytes),
                ("memory", "memory", row.materialized_bytes),
            ):
                texts = against(row, kind, size)
                record |= {
                    f"base, by {words}": texts["base"],
                    f"change, by {words}": texts["change"],
                    f"p (Holm), by {words}": texts["p"],
                    f"by {words}": texts["verdict"],
                }
            found.append(record)
        return found

    note = "By read: the base at its cheapest quantization that reads at least as many bytes of "
    note += "weights to decode a token as the plan does. By memory: that holds at least as many as "
    note += "the plan's standalone checkpoint. In brackets, how many times the plan's bytes it "
    note += "takes: the further above 1, the more the comparison favours the base. A franken that "
    note += "shares its base's weights holds no more than the base at the same quantization; the "
    note += "verdicts below are that comparison. Keys and values come on top of the weights."
    left = ("task", "plan", "quantization", "unit")
    left += tuple(
        f"{column} {kind}" for kind in ("read", "memory") for column in ("base, by", "by")
    )
    return _by_model(table, records, note, left)


def bases_html(table: pd.DataFrame) -> str:
    """What quantizing costs the base alone: its metrics at each quantization."""

    def records(rows: pd.DataFrame) -> list[dict[str, str]]:
        found = []
        for task, part in rows[rows["plan"] == "base"].groupby("task", sort=False):
            first = part.iloc[0]
            record = {
                "task": f"{task} ({first['role']})",
                "metric": first["metric"],
                "n": f"{first['n']:,}",
            }
            for row in part.sort_values("bits_per_weight", ascending=False).itertuples():
                text = native_text(row.value, row.kind)
                if row.quantization != row.reference:
                    text += f" ({_change(row.shift, row.shift_low, row.shift_high)})"
                record[row.quantization] = text
            found.append(record | {"unit of changes": first["unit"]})
        return found

    references = ", ".join(table["reference"].unique())
    note = f"In brackets, the change against the base at the reference quantization ({references}) "
    note += "with its interval; none is the model as distributed."
    return _by_model(table, records, note, ("task", "metric", "unit of changes"))


def weights_html(weights: pd.DataFrame) -> str:
    """Who made the weights at each quantization, from which text, and what they take."""

    def records(rows: pd.DataFrame) -> list[dict[str, str]]:
        return [
            {
                "quantization": row.quantization,
                "made by": _maker(row),
                "calibration": row.calibration if _known(row.calibration) else "–",
                "bits per weight": f"{row.bits_per_weight:.2f}",
                "attainable": f"{row.attainable_low:.2f} to {row.attainable_high:.2f}"
                if _known(row.attainable_low)
                else "–",
                "head bits": f"{row.head_bits:.2f}",
                "weights": f"{row.weight_bytes / MB:,.1f} MB",
                "read a token": f"{row.read_bytes / MB:,.1f} MB",
                "calibration perplexity": f"{row.calibration_perplexity:.2f}"
                if _known(row.calibration_perplexity)
                else "–",
            }
            for row in rows.itertuples()
        ]

    note = "Bits per weight are those of the layers' linear weights as stored, scales included. "
    note += "Weights that are not quantized here count the 16 bits that they are run with, also "
    note += "where what was distributed held less."
    return _by_model(weights, records, note, ("quantization", "made by", "calibration"))


def _by_model(
    table: pd.DataFrame,
    records: Callable[[pd.DataFrame], list[dict[str, str]]],
    note: str,
    left: Sequence[str],
) -> str:
    """A table for each model, headed by its name where there are several; then the note."""
    several = table["model"].nunique() > 1
    parts = [
        f"<h4>{escape(model)}</h4>" * several + html_table(pd.DataFrame(records(rows)), "", left)
        for model, rows in table.groupby("model", sort=False)
    ]
    return "\n".join(parts) + note_html(note)


def _with_reference(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that have an interaction, with the effect and the bits of the same plan at the
    reference as `reference_effect` and `reference_bits`."""
    keys = ["model", "task", "plan"]
    there = rows[rows["quantization"] == rows["reference"]]
    there = there[[*keys, "effect", "bits_per_weight"]].rename(
        columns={"effect": "reference_effect", "bits_per_weight": "reference_bits"}
    )
    return rows[rows["interaction"].notna()].merge(there, on=keys, how="left")


def _where(table: pd.DataFrame, row: Any) -> str:
    """The task, with the model where there are several."""
    return f"{row.model}, {row.task}" if table["model"].nunique() > 1 else row.task


def _verdict_words(verdicts: pd.Series) -> str:
    """ "it was better in 1 of 5 comparisons, worse in 2 and not told apart in 2"."""
    words = {"improved": "better", "harmed": "worse", "equivalent": "equivalent"}
    words["inconclusive"] = "not told apart"
    counts = {words[v]: int((verdicts == v).sum()) for v in words if (verdicts == v).any()}
    first, *others = (f"{word} in {count}" for word, count in counts.items())
    total = _comparisons(len(verdicts))
    return listed([f"it was {first} of {total}", *others])


def _comparisons(count: int) -> str:
    return f"{count} comparison{'s' * (count != 1)}"


def _words(verdict: str, improved: str, harmed: str, equivalent: str) -> str:
    words = {"improved": improved, "harmed": harmed, "equivalent": equivalent}
    return words.get(verdict, "not told")


def _change(effect: float, low: float, high: float) -> str:
    return f"{signed(effect)} [{signed(low)}, {signed(high)}]"


def _known(value: Any) -> bool:
    return not pd.isna(value)


def _maker(row: Any) -> str:
    if not _known(row.quantizer):
        return row.made if _known(row.made) else "as distributed"
    version = row.quantizer_version
    if _known(version) and str(version) not in row.quantizer:
        return f"{row.quantizer} {version}"
    return row.quantizer
