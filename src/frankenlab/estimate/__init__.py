"""What an experiment will cost, before it runs: work, memory, speed, and what jobs ask for.

`workload` predicts jobs, `resources` says what they ask the scheduler for, and `summary` prints it.
"""
