"""Notes on comparisons between rows that different hardware computed."""

import math

import pandas as pd

from frankenlab.plans.plan import BASE
from frankenlab.report.text import listed, quantization_words

# The largest share of documents on which rounding to 16 bits changed a decision that float32 makes:
# measured on a model of 135 million parameters, over several tasks (the smallest was 1.0 %). Two
# kinds of hardware that compute in 16 bits round in different ways. float32 changed none.
CHANGED = {"float32": 0.0}
CHANGED_16_BITS = 0.023


def costs_hardware_note(costs: pd.DataFrame) -> str:
    """Return on which hardware the costs were measured; nothing where there are none."""
    if costs.empty:
        return ""
    cases = costs.groupby("hardware", sort=False)[["model", "quantization"]]
    if len(cases) == 1:
        return f"All were measured on {costs['hardware'].iloc[0]}."
    each = []
    for name, rows in cases:
        found = [
            f"{model} {quantization_words(quantization)}"
            for model, quantization in rows.drop_duplicates().to_numpy()
        ]
        each.append(f"on {name} {listed(found)}")
    text = f"These were measured on different hardware: {'; '.join(each)}. "
    return text + "Compare speeds only within the same hardware."


def hardware_note(comparisons: pd.DataFrame) -> str:
    """Return which hardware computed the comparisons, and what that can do to mixed ones; nothing
    where there are no comparisons."""
    if comparisons.empty:
        return ""
    rows = comparisons[comparisons["plan"] != BASE]
    names = sorted({name for text in comparisons["hardware"] for name in text.split("; ")})
    mixed = rows[rows["mixed"] > 0]
    if mixed.empty:
        return f"Every plan and its base were computed by the same hardware ({listed(names)})."
    parts = [
        f"In {len(own)} of {(rows['stage'] == stage).sum()} comparisons of the {stage} stage "
        f"a plan and its base were computed by different hardware{_changed(own)}."
        for stage, own in mixed.groupby("stage", sort=False)
    ]
    return " ".join([*parts, f"The hardware was {listed(names)}."])


def _changed(mixed: pd.DataFrame) -> str:
    """Return what different rounding can do to the decisions of comparisons that mix hardware."""
    said = []
    for precision, rows in mixed[mixed["kind"] == "mean"].groupby("precision", sort=False):
        share = CHANGED.get(precision, CHANGED_16_BITS)
        most = math.ceil(share * rows["mixed"].max())
        said.append(
            f"in {precision} that changes no decision"
            if most == 0
            else f"in {precision} that can change the decisions on up to {share:.1%} of these "
            f"documents, here at most {most} in one comparison"
        )
    return f"; {', '.join(said)}" if said else ""
