"""What a franken is, and how a config makes many of them: Python without torch.

`plan` says what a franken is, `steps` has the grammar of its text, `generators` the kinds of
entries that a config may list, `grid` the plans of all entries, `trie` what plans share, `shards`
how a grid is divided among jobs, and `words` says what a plan does.
"""

__all__ = ["generators", "grid", "plan", "shards", "steps", "trie", "words"]
