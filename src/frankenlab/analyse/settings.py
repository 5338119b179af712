"""How comparisons are judged: the `statistics` section of a config."""

from pydantic import Field

from frankenlab.io.sections import Section
from frankenlab.plans.repeats import Seed


class Statistics(Section):
    """How the comparisons are judged."""

    fdr: float = Field(default=0.05, gt=0, lt=1)
    """False discovery rate of the marks on maps (Benjamini-Hochberg)."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Chance that any claim of the page is false, over all of them."""
    margin: float = Field(default=3.0, gt=0, le=1000)
    """Largest change that still counts as equivalent (points; 100 x log-perplexity)."""
    resamples: int = Field(default=10_000, ge=100, le=1_000_000)
    """Resamples of the bootstrap, and random sign flips."""
    seed: Seed = 1
    """Seed of resampling and of random controls."""
