"""Frankenlab: are frankenmodels (LLaMA-family models with repeated layers) a free lunch?"""

__version__ = "0.1.0"
