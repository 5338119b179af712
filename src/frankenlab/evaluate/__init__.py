"""Evaluation: which rows are missing, the sweep that computes them, and the store that keeps them.

`runner` is the way in: it scores plans on a task's documents. `model_spec` says which model scores
and what identifies its scores, `sweep` computes rows, `store` keeps them on disk. `cost` measures
speed and memory, and `probe` what each layer does to the hidden state; `provenance` records what
results were made with.
"""

__all__ = ["cost", "model_spec", "probe", "provenance", "runner", "store", "sweep"]
