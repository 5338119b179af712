"""Which rows are missing, the sweep that computes them, the store that keeps them, measured cost.

`runner` is the way in; `model_spec` identifies a model and what its scores depend on.
"""
