"""The report's part on what the run took, and how far the predictions were off."""

from collections.abc import Mapping
from html import escape

import pandas as pd

from frankenlab.report.elements import html_table
from frankenlab.report.text import listed


def resources_html(tables: Mapping[str, pd.DataFrame]) -> str:
    """A sentence on the predictions and the table `resources`."""
    rows = tables.get("resources", pd.DataFrame())
    if rows.empty:
        return html_table(rows)
    frame = pd.DataFrame(
        {
            "rule": row.rule,
            "jobs": f"{row.jobs:,}",
            "runs": f"{row.runs:,}" + (f" ({row.ended})" if row.ended else ""),
            "hours predicted": _hours(row.predicted_hours),
            "asked": _hours(row.asked_hours),
            "used": _hours(row.used_hours),
            "MB asked": _megabytes(row.asked_mem_mb),
            "used at most": _megabytes(row.used_mem_mb),
            "GPU hours asked": _hours(row.asked_gpu_hours),
            "GPU hours used": _hours(row.used_gpu_hours),
            "from": row.source or "–",
        }
        for row in rows.itertuples()
    )
    note = "Predicted and asked for are all jobs of a run from nothing, at their first attempt; "
    note += "memory is that of the largest job. From sacct comes the time of every run, the "
    note += "retried and the cancelled too; from benchmark files that of the last run of each job."
    return f"<p>{escape(prediction(rows))}</p>" + html_table(frame, note)


def prediction(rows: pd.DataFrame) -> str:
    """How far predicted hours were off, in a sentence."""
    known = rows[(rows["predicted_hours"] > 0) & (rows["used_hours"] > 0)]
    if known.empty:
        return "Nothing was predicted that could be compared with what was used."
    each = [
        f"{row.rule} {_times(row.used_hours / row.predicted_hours)}" for row in known.itertuples()
    ]
    whole = known["used_hours"].sum() / known["predicted_hours"].sum()
    partly = known.loc[known["runs"] < known["jobs"], "rule"].tolist()
    text = f"The jobs used {_times(whole)} the predicted time ({listed(each)})"
    if partly:
        text += f"; not all jobs of {listed(partly)} ran here"
    text += ". Jobs that found rows in the store, or whose plans a race dropped, had less to do "
    return text + "than was predicted."


def _times(ratio: float) -> str:
    return f"{ratio:.2g} times"


def _hours(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:,.2f}"


def _megabytes(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:,.0f}"
