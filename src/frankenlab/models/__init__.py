"""Weights on disk: where they come from, what shape they have, what a plan makes of them, and how
they leave again.

`sources`, `data_sets` and `fetch` bring models and data; `directory`, `files`, `tensor_files` and
`tokenizer` read a model, and `shape` describes it; `exl2` and `gguf` are formats; `franken`,
`footprint` and `memory` say what a plan or a quantization costs, `split` which GPU holds which
layers, and `export` writes a plan as a checkpoint.
"""

__all__ = [
    "data_sets",
    "directory",
    "exl2",
    "export",
    "fetch",
    "files",
    "footprint",
    "franken",
    "gguf",
    "memory",
    "model_config",
    "quantization",
    "shape",
    "sources",
    "split",
    "tensor_files",
    "tokenizer",
]
