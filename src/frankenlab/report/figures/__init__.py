"""Pictures of the analysis: pure functions from its tables to matplotlib figures, and `save`."""

from frankenlab.report.figures.bits import bits
from frankenlab.report.figures.catalogue import Picture, bits_picture, pictures
from frankenlab.report.figures.effects import layer_effects, repetition_effect
from frankenlab.report.figures.forest import confirm_forest
from frankenlab.report.figures.maps import block_map
from frankenlab.report.figures.quality import (
    mean_over_tasks,
    pareto_front,
    quality_cost,
    quality_speed,
)
from frankenlab.report.figures.race import race
from frankenlab.report.figures.style import Levels, save

__all__ = [
    "Levels",
    "Picture",
    "bits",
    "bits_picture",
    "block_map",
    "confirm_forest",
    "layer_effects",
    "mean_over_tasks",
    "pareto_front",
    "pictures",
    "quality_cost",
    "quality_speed",
    "race",
    "repetition_effect",
    "save",
]
