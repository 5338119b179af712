"""Tasks of lm-evaluation-harness: their documents and requests, and metrics of the answers.

`index` knows tasks by name without importing lm-eval, `task` holds a loaded one, and `encoding`
turns its requests into tokens.
"""
