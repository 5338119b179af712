"""This room turns scores into comparisons, selections, races, verdicts and the ledger of looks.

`comparisons` is where scores come in; `paired_tests` and `paired_effects` have the statistics that
all of it rests on, and docs/statistics.md says why they were chosen.
"""

__all__ = [
    "beam",
    "comparisons",
    "controls",
    "error_budget",
    "family",
    "flips",
    "gains",
    "interaction",
    "ledger",
    "oracle",
    "outcomes",
    "paired_effects",
    "paired_tests",
    "plane",
    "power",
    "prediction",
    "predictors",
    "profile",
    "prompts",
    "race_rounds",
    "race_rule",
    "repetitions",
    "search_test",
    "selection",
    "settings",
    "shrinkage",
    "sizes",
    "tradeoff",
    "transfer",
    "verdicts",
]
