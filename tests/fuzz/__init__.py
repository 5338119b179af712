"""The fuzzer: random inputs on which Frankenlab must agree with its references or say why not.

`python -m tests.fuzz` runs it; `docs/fuzzing.md` explains it.
"""
