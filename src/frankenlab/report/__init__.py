"""The report: from an experiment's tables to figures, texts and one page.

Others use `page` (run and render a notebook), `results` (load what an experiment left), `sections`
with `bitrates` and `hardware` (the parts of the page), `points` (what its script reads), `text`
(how numbers are written) and `figures.catalogue` (which figures there are).
"""

__all__ = ["bitrates", "figures", "hardware", "page", "points", "results", "sections", "text"]
