"""What a franken is, and how a config makes many of them: pure Python, without torch.

`plan` has the grammar, `grid` the generators, `trie` what plans share, `shards` how a grid is
divided among jobs.
"""
