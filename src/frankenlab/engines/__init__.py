"""Engines run a model one step of a plan at a time; the sweep does not know which one it has.

`protocol` says what an engine can do; `torch` and `exllamav2` are the two engines (another one is
one more module with a `make_engine`, listed in `evaluate.model_spec.ENGINES`). `token_tree`,
`packing` and `batches` turn a document's requests into what an engine runs, `devices` names the
hardware, `cards` handles several GPUs, `transfers` copies without waiting, and `exllamav2_loading`
says which models exllamav2 runs correctly.
"""

__all__ = [
    "batches",
    "cards",
    "devices",
    "exllamav2",
    "exllamav2_loading",
    "packing",
    "protocol",
    "token_tree",
    "torch",
    "transfers",
]
