"""What an experiment will cost, before it runs: work, memory, speed, and what jobs ask for.

`work` counts what is to be computed, `jobs` reads the jobs of a workflow, `resources` predicts the
time and memory of a job and says what it asks the scheduler for, `summary` puts the prediction of
an experiment into words, `asked` reads what a user asks of it, `throughput` keeps measured speeds,
and `memory` says what fits a GPU.
"""

__all__ = ["asked", "jobs", "memory", "resources", "summary", "throughput", "work"]
