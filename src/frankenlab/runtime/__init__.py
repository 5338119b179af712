"""Code around the work of jobs and workflows: lock, logs, signals, orphans and clean-up.

`job` surrounds every script, and `meanwhile` imports for some; `command`, `lock`, `making`,
`orphans`, `processes` and `stamps` serve the workflow, and `clean` serves the command that clears
up after a kill.
"""

__all__ = ["clean", "command", "job", "lock", "meanwhile", "orphans", "processes", "stamps"]
