"""What a franken is, and how a config makes many of them: Python without torch.

`plan` has the grammar, `generators` the kinds of entries that a config may list, `grid` the plans
of all entries, `trie` what plans share, `shards` how a grid is divided among jobs, and `words` says
what a plan does.
"""

__all__ = ["generators", "grid", "plan", "shards", "trie", "words"]
