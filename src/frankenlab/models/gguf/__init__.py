"""GGUF files, llama.cpp's format of a model in one file, become Hugging Face directories.

Use `conversion`: it reads a file and converts it, or refuses what would not be the same model.
"""

__all__ = ["conversion"]
