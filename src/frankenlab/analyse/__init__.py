"""Scores and what they mean: paired tests, comparisons, selection, races, bitrates, the ledger.

`comparisons` is the way in; `paired_tests` holds the statistics that it rests on.
"""
