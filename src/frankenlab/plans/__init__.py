"""What a franken is, and how a config makes many of them: Python without torch.

`plan` says what a franken is, `steps` has the grammar of its text, `generators` the kinds of
entries that a config may list (`repeats` those that run layers again, `windows` those that damp
them, `rearrangements` those that do neither, `numbers` what their keys may say), `grid` the plans
of all entries, `kinds` what kind each is, `growth` new plans from the best of these, `controls`
random plans of the same cost as one, `relative` a plan at another depth, `designs` what models of
several depths share, `trie` what plans share, `shards` how a grid is divided among jobs, `words`
says what a plan does, and `strip` draws it.
"""

__all__ = [
    "controls",
    "designs",
    "generators",
    "grid",
    "growth",
    "kinds",
    "numbers",
    "plan",
    "relative",
    "repeats",
    "shards",
    "steps",
    "strip",
    "trie",
    "words",
]
