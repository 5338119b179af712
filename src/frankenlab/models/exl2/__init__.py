"""EXL2, ExLlamaV2's format of quantized weights: reading, writing, and a quantizer in torch.

Import from the modules: what only reads the format does not depend on the quantizer's code.
"""
