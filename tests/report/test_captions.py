from dataclasses import replace
from types import SimpleNamespace

import pytest
from docutils.core import publish_parts
from jinja2 import Environment
from snakemake.iocontainers import Wildcards

from frankenlab.report.figures.catalogue import CATALOGUE
from frankenlab.report.results import NAMES
from tests.support import synthetic_tables as synthetic
from tests.support.paths import ROOT

REPORT = ROOT / "workflow" / "report"
CAPTIONS = sorted(REPORT.rglob("*.rst"))
RACING = {"rounds": [25], "error": 0.1, "margin": 2}
STATISTICS = {"fdr": 0.1, "alpha": 0.01, "margin": 2}


@pytest.mark.parametrize("search", [{}, {"racing": RACING}], ids=["no race", "race"])
@pytest.mark.parametrize("path", CAPTIONS, ids=lambda path: f"{path.parent.stem}/{path.stem}")
def test_captions_render_without_warnings(path, search):
    if path.stem == "race" and not search:
        return
    config = {
        "experiment": "e",
        "models": {"m": {"description": "a *model*"}, "k": {}},
        "tasks": {"sst2": {"role": "search", "metric": "acc"}},
        "statistics": STATISTICS,
        "stages": {"search": search},
    }
    wildcards = Wildcards(fromdict={"model": "m-1", "quantization": "none"})
    snakemake = SimpleNamespace(wildcards=wildcards, config=config)
    # As Snakemake's report does.
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(path.read_text(encoding="utf-8")).render(snakemake=snakemake)
    strict = {"halt_level": 2, "report_level": 2}
    html = publish_parts(text, writer="html", settings_overrides=strict)["body"]
    assert "{" not in html and len(html) > 100
    assert "q <" not in text or "q < 0.1" in text


def test_every_figure_and_table_has_its_caption():
    found = {str(path.relative_to(REPORT)) for path in CAPTIONS}
    assert {f"figures/{entry.name}.rst" for entry in CATALOGUE} <= found
    assert {f"tables/{name}.rst" for name in NAMES} <= found


def test_a_caption_says_what_was_not_recorded():
    results = replace(synthetic.results({}), provenance={})
    assert "q &lt; (not recorded)" in results.caption("tables/top_plans")
