"""Turns a config file into a checked experiment, or says in one line what is wrong with it.

`experiment` reads and checks a config, and its Experiment knows the folders, stages and limits that
follow from one; `command_line` gives values of Snakemake's `--config` their types; `settings` has
every key with its type, bounds and default, `model_settings` and `task_settings` what the keys of a
model and of a task mean, `stages` the stages and the rounds of a race, and `cards` GPUs by their
data sheets.
"""

__all__ = ["cards", "command_line", "experiment", "model_settings", "settings", "stages"]
