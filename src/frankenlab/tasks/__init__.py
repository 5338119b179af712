"""Tasks of lm-evaluation-harness: their documents and requests, and metrics of the answers.

`index` finds tasks by name, `listing` lists them and `yaml_files` reads them, all without importing
lm-eval. `task` holds a loaded task with its stages, `draws` divides its documents otherwise,
`encoding` turns its requests into tokens, `excerpts` shows documents to people, `prompts` checks
other prompts, and `data_files` reads data in any usual format.
"""

__all__ = [
    "data_files",
    "draws",
    "encoding",
    "excerpts",
    "index",
    "listing",
    "prompts",
    "task",
    "yaml_files",
]
