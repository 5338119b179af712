"""Which comparisons are between rows that different hardware computed."""

from collections.abc import Mapping

import pandas as pd

from frankenlab.plans.plan import BASE


def with_hardware(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Add to comparisons with the base what the rows compared were computed with.

    Args:
        table: a row per plan of `scores`.
        scores: rows of one (stage, model, quantization, task).

    Returns:
        The table with the columns `precision`, `hardware` (names of the plan's and of the base's,
        separated by "; ") and `mixed`: on how many documents the two differ.
    """
    sides = _by_plan(scores)
    found = [_compared(sides[plan], sides[BASE]) for plan in table["plan"]]
    return table.assign(
        precision=scores["precision"].iloc[0],
        hardware=[names for names, _ in found],
        mixed=[count for _, count in found],
    )


def with_pair_hardware(
    table: pd.DataFrame, scores: Mapping[tuple[str, str], pd.DataFrame]
) -> pd.DataFrame:
    """Add the column `mixed` to pairs of plans: on how many of the documents that both saw the
    hardware differs.

    Args:
        table: as `comparisons.pairs` makes it.
        scores: (model, quantization) -> its scores.
    """
    sides = {key: _by_plan(frame) for key, frame in scores.items()}

    def side(row: Mapping[str, str], end: str) -> pd.Series:
        return sides[row[f"model_{end}"], row[f"quantization_{end}"]][row[f"plan_{end}"]]

    rows = table.to_dict("records")
    return table.assign(mixed=[_compared(side(r, "a"), side(r, "b"))[1] for r in rows])


def _by_plan(scores: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the hardware of each document's row, by plan."""
    plain = scores.assign(hardware=scores["hardware"].astype(str)).set_index("document")
    return {plan: rows["hardware"] for plan, rows in plain.groupby("plan", observed=True)}


def _compared(one: pd.Series, other: pd.Series) -> tuple[str, int]:
    """Return the names of the hardware on both sides, and on how many documents it differs."""
    shared = one.index.intersection(other.index)
    one, other = one.loc[shared], other.loc[shared]
    return "; ".join(sorted({*one, *other})), int((one != other).sum())
