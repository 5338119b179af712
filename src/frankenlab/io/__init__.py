"""Files that are whole or not there, errors, progress, signals and fingerprints of code.

This room knows nothing of models. Every other room may use all of it.
"""
