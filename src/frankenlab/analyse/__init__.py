"""This room turns scores into comparisons, selections, races, verdicts and the ledger of looks.

`comparisons` is where scores come in; `paired_tests` has the statistics that all of it rests on,
and docs/statistics.md says why they were chosen.
"""

__all__ = [
    "comparisons",
    "flips",
    "interaction",
    "ledger",
    "outcomes",
    "paired_tests",
    "race_rounds",
    "race_rule",
    "selection",
    "settings",
    "verdicts",
]
