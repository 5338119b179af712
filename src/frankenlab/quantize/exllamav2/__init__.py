"""Run exllamav2's own converter (0.3.2) so that it fails aloud and leaves nothing half-made.

The converter is a script that is meant to be watched: several of its failures end with exit
status 0, an unattainable bitrate is exceeded without a word, and a directory in which a job of
other arguments was broken off goes on with those. Others use `converter.Exllamav2Quantizer`.
"""

__all__ = ["converter"]
