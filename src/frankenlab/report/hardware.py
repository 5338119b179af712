"""Notes of the report on comparisons between rows that different hardware computed."""

import math
from collections.abc import Mapping

import pandas as pd

from frankenlab.plans.plan import BASE
from frankenlab.report.answer import listed
from frankenlab.report.tables import note_html

# The largest share of documents on which rounding to 16 bits turned a decision that float32 makes:
# measured on a model of 135 million parameters, over several tasks (the smallest was 1.0 %). Two
# kinds of hardware that compute in 16 bits round in different ways. In float32 none was turned.
TURNED = {"float32": 0.0}
TURNED_16_BITS = 0.023


def hardware_html(tables: Mapping[str, pd.DataFrame]) -> str:
    """A note of which hardware computed the comparisons, and what it can do to those that mix."""
    return note_html(hardware_note(tables))


def costs_hardware_html(tables: Mapping[str, pd.DataFrame]) -> str:
    """A note of the hardware on which the costs were measured; nothing where there are none."""
    table = tables.get("costs", pd.DataFrame())
    if table.empty:
        return ""
    cases = table.groupby("hardware", sort=False)[["model", "quantization"]]
    if len(cases) == 1:
        return note_html(f"All were measured on {table['hardware'].iloc[0]}.")
    each = [
        f"on {name} {listed([' at '.join(case) for case in rows.drop_duplicates().to_numpy()])}"
        for name, rows in cases
    ]
    text = f"These were measured on different hardware: {'; '.join(each)}. "
    return note_html(text + "Speeds are to be compared within one of them only.")


def hardware_note(tables: Mapping[str, pd.DataFrame]) -> str:
    """The note of `hardware_html` as text; nothing where there are no comparisons."""
    table = tables.get("comparisons", pd.DataFrame())
    if table.empty:
        return ""
    rows = table[table["plan"] != BASE]
    names = sorted({name for text in table["hardware"] for name in text.split("; ")})
    mixed = rows[rows["mixed"] > 0]
    if mixed.empty:
        return f"Every plan and its base were computed by the same hardware ({listed(names)})."
    parts = [
        f"In {len(own)} of {(rows['stage'] == stage).sum()} comparisons of the {stage} stage "
        f"a plan and its base were computed by different hardware{_turned(own)}."
        for stage, own in mixed.groupby("stage", sort=False)
    ]
    return " ".join([*parts, f"The hardware was {listed(names)}."])


def _turned(mixed: pd.DataFrame) -> str:
    """What different rounding can do to the decisions of comparisons that mix hardware."""
    decided = mixed[mixed["kind"] == "mean"]
    said = []
    for precision, rows in decided.groupby("precision", sort=False):
        share = TURNED.get(precision, TURNED_16_BITS)
        most = max(math.ceil(share * count) for count in rows["mixed"])
        said.append(
            f"{precision} turns no decision by that"
            if most == 0
            else f"in {precision} that can turn the decisions on up to {share:.1%} of these "
            f"documents, here {most} in a comparison"
        )
    return f"; {', '.join(said)}" if said else ""
