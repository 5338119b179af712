"""The rounds of a race as a table of the page."""

from collections.abc import Mapping

import pandas as pd

from frankenlab.report.tables import by_case, count_text


def race_html(tables: Mapping[str, pd.DataFrame]) -> str:
    """The rounds of a race: who was left, who led, what it saved; nothing where there was none."""
    rounds = tables.get("race")
    if rounds is None or rounds.empty:
        return ""

    def records(rows: pd.DataFrame) -> list[dict[str, str]]:
        return [
            {
                "round": str(row.round),
                "documents seen": count_text(row.documents),
                "plans": count_text(row.plans),
                "dropped after it": count_text(row.dropped),
                "plan": row.leader,
                "layer passes so far": f"{row.share:.0%}",
            }
            for row in rows.itertuples()
        ]

    note = "plan: the one with the highest mean over the search tasks after the round. Documents "
    note += "are those of all search tasks together; layer passes are relative to a search that "
    note += "gives every plan every document, common prefixes of plans counted once. Which plans "
    note += "were dropped after which round, on how many documents, is in comparisons.csv "
    note += "(dropped, n), how far they were behind in the folder races."
    return "<h3>The race: which plans were dropped when</h3>" + by_case(
        rounds, records, note, ("plan",)
    )
