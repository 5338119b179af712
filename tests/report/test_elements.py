"""Elements of the page: what they escape, how tables sort, what pictures say to a reader's ear."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest

from frankenlab.report import elements
from frankenlab.report.elements import (
    LEAST,
    Html,
    details,
    figure,
    inline_svg,
    json_script,
    plan_cell,
    section,
    sort_keys,
    table,
)
from frankenlab.report.figures.catalogue import CATALOGUE, Picture
from tests.support import synthetic_tables as synthetic

HOSTILE = "</script><script>alert(1)</script>&\"'"


def test_titles_findings_captions_and_cells_are_text():
    html = section(HOSTILE, HOSTILE, HOSTILE, details(HOSTILE, "<p>part</p>"))
    html += table(pd.DataFrame({HOSTILE: [HOSTILE]}), HOSTILE, HOSTILE)
    html += str(plan_cell(HOSTILE, 30)) + elements.definitions({HOSTILE: HOSTILE})
    assert "<script" not in html and "</script" not in html and "<p>part</p>" in html
    assert "&amp;&quot;" in html


def test_a_section_is_named_by_its_heading():
    html = section("layers", "Which layers?", "Late ones.", "<p>more</p>", "")
    assert html.startswith('<section id="layers" aria-labelledby="layers-title">')
    assert '<h2 id="layers-title">Which layers?</h2>' in html
    assert html.index("Late ones.") < html.index("<p>more</p>")
    assert 'class="finding"' not in section("a", "b", "")


def test_nothing_is_folded_away_where_there_is_nothing():
    assert details("More", "", "") == "" and table(pd.DataFrame({"a": []}), "c") == ""


def test_a_plan_is_said_in_words_beside_its_text():
    assert str(plan_cell("0:24,23:30", 30)) == (
        '<span class="words">layer 23 twice</span> '
        '<code class="plan" data-plan="0:24,23:30">0:24,<wbr>23:30</code>'
    )
    assert "words" not in str(plan_cell("0:24,23:30", None))
    assert str(plan_cell("0:24,23:30; 0:10,7:30", 30)).count("<code") == 2


def test_the_frozen_plan_comes_first_and_the_others_keep_their_order():
    frame = pd.DataFrame({"n": ["1", "2", "3", "4"], "plan": list("abcd")})
    html = table(frame, "Plans.", "verdicts", first="plan", frozen=[False, True, False, True])
    assert re.findall(r'<th scope="row">(.)</th>', html) == ["b", "d", "a", "c"]
    assert re.findall(r"<tr class=\"frozen\"><th scope=\"row\">(.)", html) == ["b", "d"]
    assert re.findall(r'<th scope="col"[^>]*>(\w+)', html) == ["plan", "n"]
    assert "<caption><span>Plans.</span></caption>" in html and 'href="../tables/verdicts.csv"' in html


def test_a_plan_stays_html_in_a_table_of_pandas():
    frame = pd.DataFrame({"plan": [plan_cell("0:24,23:30", 30), Html("<b>x</b>")]})
    html = table(frame, "Plans.")
    assert "layer 23 twice</span>" in html and "<b>x</b>" in html


@pytest.mark.parametrize(
    ("texts", "keys"),
    [
        (["+1.2 [−0.8, +3.1]", "−38.0 [−47.0, −29.0]"], ["1.2", "-38.0"]),
        (["1,838", "–", "< 0.001"], ["1838", LEAST, "0.001"]),
        (["3 (10 %)", "1.03× (0.56 to 2.43)"], ["3", "1.03"]),
        (["0:24,23:30", "0:10,7:30"], []),
        (["12 documents", "none"], []),
        (["–", ""], []),
        ([plan_cell("3", 4)], []),
    ],
)
def test_a_column_sorts_by_the_numbers_that_its_cells_begin_with(texts, keys):
    assert sort_keys(texts) == keys


def test_a_long_table_shows_its_first_rows_and_says_so(monkeypatch):
    frame = pd.DataFrame({"name": [f"row {n}" for n in range(50)]})
    html = table(frame, "Rows.", "comparisons")
    assert html.count("<tr>") == 51 and "The first 40 of 50 rows are printed." in html
    monkeypatch.setattr(elements, "MOST_ROWS", 30)
    html = table(frame, "Rows.", "comparisons")
    assert html.count("<tr>") == 31 and "The first 30 of 50 rows are shown." in html
    assert "printed" not in html


def test_json_cannot_end_its_element():
    html = json_script("spec", {"text": HOSTILE, "line": "\u2028"})
    text = html.removeprefix('<script type="application/json" class="spec">')
    text = text.removesuffix("</script>")
    assert "<" not in text and json.loads(text) == {"text": HOSTILE, "line": "\u2028"}


SVG = (
    '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" role="img" class="marks" '
    'aria-label="old"><defs><clipPath id="clip0"/></defs><g role="graphics-symbol" '
    'aria-label="x: 1" clip-path="url(#clip0)"><text>arc_easy</text></g></svg>'
)


def test_a_picture_is_one_image_that_says_its_finding_and_has_ids_of_its_own():
    html = inline_svg(SVG, "figure-a", 'Layer 23 costs "least" & <layer 0> most.')
    assert html.startswith("<svg ") and html.count("aria-label") == html.count("role=") == 1
    assert 'aria-label="Layer 23 costs &quot;least&quot; &amp; &lt;layer 0&gt; most."' in html
    assert 'id="figure-a-clip0"' in html and "url(#figure-a-clip0)" in html
    assert "<text>arc_easy</text>" in html


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A picture whose finding is given, and results that have its files."""
    picture = Picture(CATALOGUE[0], {"model": synthetic.MODEL, "quantization": "none"})
    results = replace(synthetic.results({}), figures=tmp_path)
    path = tmp_path / f"{picture.stem}.svg"
    path.parent.mkdir(parents=True)
    path.write_text(SVG)
    path.with_suffix(".json").write_text(json.dumps({"mark": HOSTILE}))

    def show(finding: str, saved: bool = True) -> str:
        monkeypatch.setattr(Picture, "finding", lambda *_: finding)
        if not saved:
            path.unlink()
        return figure(results, picture)

    return show


def test_a_figure_has_its_finding_before_it_and_its_specification_for_the_script(drawn):
    html = drawn("Nothing <changed>.")
    assert html.index("Nothing &lt;changed&gt;.") < html.index("<svg")
    assert f'data-model="{synthetic.MODEL}" data-quantization="none"' in html
    assert html.count("</script>") == 1 and "How to read this picture" in html


def test_a_figure_without_a_finding_is_left_out_and_one_without_a_file_is_named(drawn):
    assert drawn("") == ""
    assert "Not drawn: " in drawn("Found.", saved=False)
