from dataclasses import replace
from types import SimpleNamespace

import pytest
from docutils.core import publish_parts
from jinja2 import Environment
from snakemake.iocontainers import Wildcards

from frankenlab.report.figures.catalogue import CATALOGUE
from frankenlab.report.results import NAMES
from tests.report.test_sections import forbidden
from tests.support import synthetic_tables as synthetic
from tests.support.paths import ROOT

REPORT = ROOT / "workflow" / "report"
CAPTIONS = sorted(REPORT.rglob("*.rst"))
RACING = {"rounds": [25], "error": 0.1, "margin": 2}
# Tables that only such a search has.
NEEDED = {"race": "racing", "beam": "beam"}
BEAM = {"width": 4, "steps": 2, "most": 20}
STRICT = {"halt_level": 2, "report_level": 2}
# Read by the page's script alone.
NOT_SHOWN = {"flips", "documents"}
STATISTICS = {"fdr": 0.1, "alpha": 0.01, "margin": 2}


@pytest.mark.parametrize(
    "search",
    [{}, {"racing": RACING}, {"beam": BEAM}],
    ids=["no race", "race", "beam"],
)
@pytest.mark.parametrize("path", CAPTIONS, ids=lambda path: f"{path.parent.stem}/{path.stem}")
def test_captions_render_without_warnings(path, search):
    if NEEDED.get(path.stem, "") not in ("", *search):
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
    html = publish_parts(text, writer="html", settings_overrides=STRICT)["body"]
    assert "{" not in html and len(html) > 100
    assert "q <" not in text or "q < 0.1" in text


@pytest.mark.parametrize("path", CAPTIONS, ids=lambda path: f"{path.parent.stem}/{path.stem}")
def test_captions_are_in_plain_words(path):
    text = path.read_text(encoding="utf-8")
    assert forbidden(text.replace('"at "', "")) == []


@pytest.mark.parametrize("path", CAPTIONS, ids=lambda path: f"{path.parent.stem}/{path.stem}")
def test_no_line_of_a_caption_ends_with_a_tag_that_takes_the_space_before_the_next_word(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    glued = [line for line in lines if line.endswith("%}") and line[0] not in "{*"]
    assert glued == []


def test_snakemakes_report_opens_with_the_answer():
    source = (REPORT / "workflow.rst").read_text(encoding="utf-8")
    config = {
        "experiment": "e",
        "models": {"m": {}},
        "tasks": {"sst2": {"role": "search", "metric": "acc"}},
        "statistics": STATISTICS,
    }

    def rendered(**more) -> str:
        environment = Environment(trim_blocks=True, lstrip_blocks=True)
        snakemake = SimpleNamespace(config=config | more)
        text = environment.from_string(source).render(snakemake=snakemake)
        return publish_parts(text, writer="html", settings_overrides=STRICT)["body"]

    answer = ["No free lunch for this plan.", r"It raised a\_b\_ by 30 %.", "Nothing improved."]
    html = rendered(answer=answer)
    assert html.startswith("<p><strong>No free lunch for this plan.</strong></p>")
    assert "<p>It raised a_b_ by 30 %. Nothing improved.</p>" in html
    assert rendered().startswith("<p>Are frankenmodels") and rendered() == rendered(answer=[])


def test_every_figure_and_table_has_its_caption():
    found = {str(path.relative_to(REPORT)) for path in CAPTIONS}
    assert {f"figures/{entry.name}.rst" for entry in CATALOGUE} <= found
    assert {f"tables/{name}.rst" for name in set(NAMES) - NOT_SHOWN} <= found


def test_a_caption_says_what_was_not_recorded():
    results = replace(synthetic.results({}), provenance={})
    assert "q &lt; (not recorded)" in results.caption("tables/top_plans")
