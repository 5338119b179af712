"""EXL2, ExLlamaV2's format of quantized weights: what its tensors mean, reading and writing them.

Engines use `reading`; quantizers use `format`, `limits`, `options`, `declaration` and `writing`.
"""

__all__ = ["declaration", "format", "limits", "options", "packing", "reading", "writing"]
