"""Make EXL2 directories of models at a bitrate, with the reference quantizer or exllamav2's.

Jobs use `choose`, evaluations use `calibration` (the text that no document may hold); `quantizer`
says what a quantizer is.
"""

__all__ = ["calibration", "choose", "quantizer"]
