"""Figures: pure functions from the analysis' tables to Vega-Lite charts and their findings.

`catalogue` lists them: to add one, add its entry and its drawing there, and its caption to
`workflow/report/figures/`. `style` has what they share, and `save`.
"""

__all__ = [
    "bitrates",
    "catalogue",
    "effects",
    "forest",
    "key",
    "maps",
    "oracle",
    "path",
    "predictors",
    "probe",
    "profile",
    "prompts",
    "quality",
    "race",
    "speed",
    "style",
]
