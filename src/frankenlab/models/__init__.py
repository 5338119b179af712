"""Weights on disk: where they come from, what shape they have, and how they leave again.

`sources` and `fetch` bring a model, `inspect` and `shape` describe it, `exl2` holds the format,
`franken` says what a plan makes of a model, and `export` writes that as a checkpoint.
"""
