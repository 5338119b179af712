"""exllamav2's own converter (0.3.2), run as a job that fails aloud and leaves nothing half-made.

The converter is a script that is meant to be watched: several of its failures end with exit
status 0, an unattainable bitrate is exceeded without a word, a directory in which a job of other
arguments was broken off goes on with those. Here each is checked, and the result is read back.
"""

from frankenlab.quantize.exllamav2.inputs import CONVERTER, exllamav2_usable
from frankenlab.quantize.exllamav2.jobs import attainable, measure, quantize

__all__ = ["CONVERTER", "attainable", "exllamav2_usable", "measure", "quantize"]
