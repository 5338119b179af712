"""A model as EXL2 at a bitrate, by the reference quantizer or by exllamav2's converter.

`choose` is the way in, and `calibration` holds the text that a quantizer sees.
"""
