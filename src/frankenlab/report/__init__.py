"""The report: from an experiment's tables to figures, texts and one page.

Others use `page` (run and render a notebook), `results` (load what an experiment left), `sections`
(the parts of the page in their order) and `figures.catalogue` (which figures there are).
"""

__all__ = ["answer", "bitrates", "figures", "page", "results", "sections"]
