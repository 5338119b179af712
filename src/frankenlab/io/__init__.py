"""Files and directories that are whole or absent, errors, progress, signals, code fingerprints.

This room knows nothing of models, and every other room may use all of its modules.
"""

__all__ = [
    "directories",
    "errors",
    "files",
    "fingerprints",
    "parquet",
    "progress",
    "records",
    "sections",
    "signals",
    "yaml_file",
]
