"""What a franken is, and how a config makes many of them: Python without torch.

`plan` has the grammar, `generators` the kinds of entries that a config may list (`repeats` those
that run layers again, `rearrangements` those that do not, `numbers` what their keys may say),
`grid` the plans of all entries, `controls` random plans of the same cost as one, `trie` what plans
share, `shards` how a grid is divided among jobs, and `words` says what a plan does.
"""

__all__ = [
    "controls",
    "generators",
    "grid",
    "numbers",
    "plan",
    "repeats",
    "shards",
    "trie",
    "words",
]
