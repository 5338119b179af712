"""The report: from an experiment's tables to figures, texts and one page.

Others use `page` (run and render a notebook), `results` (load what an experiment left), `answer`
(the answer in plain speech), `sections` with `bitrates` (the parts of the page) and
`figures.catalogue` (which figures there are). Inside, `findings` has the sentences, `tables` and
`search_tables` the tables, `elements` their HTML, `points` what the page's script reads, and `text`
how numbers are written.
"""

__all__ = ["answer", "bitrates", "figures", "page", "points", "results", "sections"]
