"""The page as a whole: it is complete, it loads nothing, and everyone can read it."""

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.io.errors import UserError
from frankenlab.io.parquet import write_parquet
from frankenlab.report.elements import details, json_script, section
from frankenlab.report.figures.catalogue import Picture, pictures
from frankenlab.report.figures.style import save
from frankenlab.report.page import assemble, render_html, run_notebook
from frankenlab.report.results import load_tables
from tests.support import synthetic_bits
from tests.support import synthetic_tables as synthetic
from tests.support.paths import ROOT

NOTEBOOK = ROOT / "notebooks" / "report.ipynb"
MOST_BYTES = 8_000_000
# What loads, and where from.
LOADING = ("src", "href", "data", "srcset", "poster", "action", "xlink:href")
SILENT = ("script", "style", "title")


class Page(HTMLParser):
    """Collects what a page holds: elements with their attributes, headings, scripts and words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.scripts: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "script":
            self.scripts.append((dict(attrs).get("type") or "", ""))

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        elif not (self._open and self._open[-1] in SILENT):
            self.words.append(data)

    def handle_endtag(self, tag):
        if tag in self._open:
            del self._open[len(self._open) - 1 - self._open[::-1].index(tag) :]

    def attributes(self, name: str) -> list[str | None]:
        return [values[name] for _, values in self.elements if name in values]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [values for name, values in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def policy(self) -> dict[str, str]:
        """The security policy, by directive."""
        (policy,) = (v["content"] for v in self.all("meta") if "http-equiv" in v)
        parts = (part.strip().partition(" ") for part in policy.split(";"))
        return {name: value for name, _, value in parts}


SMALL = "\n".join(
    [
        "<h1>Free lunch?</h1>",
        section("layers", "Which <layers>?", "Late ones.", details("More", "<p>all of it</p>")),
        section("price", "At what price?", "", "<p>$title {braces} %s</p>"),
    ]
)


def test_the_contents_link_to_the_sections_and_nothing_of_the_body_is_taken_for_a_blank():
    text = assemble(SMALL, "Free & lunch?")
    assert '<li><a href="#layers">Which &lt;layers&gt;?</a></li>' in text
    assert '<li><a href="#price">At what price?</a></li>' in text
    assert "<title>Free &amp; lunch?</title>" in text and "$title {braces} %s" in text
    turned = SMALL.replace(' id="layers" aria-labelledby="layers-title"', ' class="a" id="layers"')
    assert turned != SMALL and 'href="#layers"' in assemble(turned, "t")


def test_only_the_scripts_of_the_page_may_run_and_nothing_may_be_reached():
    page = Page(assemble(SMALL, "t"))
    assert page.policy["default-src"] == "'none'"
    assert "connect-src" not in page.policy and "unsafe" not in page.policy["script-src"]
    assert page.policy["script-src"].split() == hashes(page)


def hashes(page: Page) -> list[str]:
    """The hashes, as a policy has them, of the scripts that run."""
    digests = (
        hashlib.sha256(text.encode()).digest()
        for kind, text in page.scripts
        if kind != "application/json"
    )
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]


def test_a_page_carries_only_the_libraries_that_it_uses():
    assert len(Page(assemble(SMALL, "t")).scripts) == 1
    assert "vegaEmbed=" not in assemble(SMALL, "t")


@pytest.mark.slow
def test_a_page_with_pictures_and_tables_carries_each_library_once():
    body = SMALL + json_script("spec", {}) * 2 + "<table></table>" * 2
    text = assemble(body, "t")
    running = [script for kind, script in Page(text).scripts if kind != "application/json"]
    assert len(running) == 3 and running[0].count("window.vegaEmbed") == 1
    assert running[1].count("window.tables=") == 1 and "export{" not in running[1]
    assert Page(text).policy["script-src"].split() == hashes(Page(text))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A report of invented results."""
    folder = tmp_path_factory.mktemp("experiment with {braces}")
    parameters = synthetic.write_experiment(folder, step=3)
    tables = load_tables(parameters["tables"])
    draw(pictures(tables, synthetic.MODEL, "none"), tables, parameters["figures"])
    run_notebook(NOTEBOOK, folder / "executed.ipynb", parameters)
    render_html(folder / "executed.ipynb", folder / "page.html", "Free & lunch?")
    return folder


def draw(found: list[Picture], tables: dict, figures: str) -> None:
    for picture in found:
        save(picture.draw(tables, Statistics()), f"{figures}/{picture.stem}")


@pytest.fixture(scope="module")
def page(rendered) -> Page:
    return Page((rendered / "page.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_page_loads_nothing_from_elsewhere(rendered, page):
    text = (rendered / "page.html").read_text(encoding="utf-8")
    links = [link for name in LOADING for link in page.attributes(name)]
    assert links and all(re.match(r"data:|#|\.\./tables/\w+\.csv$", link) for link in links)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    style = text[text.index("<style>") : text.index("</style>")]
    assert set(re.findall(r"url\((.{5})", style)) <= {"data:"} and "@import" not in style
    assert page.policy["script-src"].split() == hashes(page)
    assert len(text.encode()) < MOST_BYTES


@pytest.mark.slow
def test_the_page_is_complete_without_its_scripts(page):
    """Pictures, tables and all that is folded away are in the page before any script runs."""
    figures, pictures_ = page.all("figure"), [v for v in page.all("svg") if v.get("role") == "img"]
    assert len(figures) == len(pictures_) >= 7
    specs = [json.loads(text) for kind, text in page.scripts if kind == "application/json"]
    assert len([spec for spec in specs if "$schema" in spec]) == len(figures)
    assert "hidden" not in {name for _, values in page.elements for name in values}
    for part in ("layers 18–20 twice", "0:18,18:21x2,21:30", "arc_easy", "confirm", "b179c952"):
        assert part in page.text


@pytest.mark.slow
def test_headings_are_in_order_and_ids_are_unique(page):
    levels = page.headings
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    wanted = [link[1:] for link in page.attributes("href") if link.startswith("#")]
    assert len(wanted) >= 6 and set(wanted) <= set(ids)
    assert {name for text in page.attributes("aria-labelledby") for name in text.split()} <= set(
        ids
    )


@pytest.mark.slow
def test_tables_have_captions_and_pictures_say_what_they_show(page):
    tags = [tag for tag, _ in page.elements]
    assert tags.count("table") == tags.count("caption") > 5
    assert all("scope" in values for values in page.all("th"))
    said = [v["aria-label"] for v in page.all("svg") if v.get("role") == "img"]
    assert all(len(text) > 30 and " ".join(text.split()) in page.text for text in said)
    assert page.all("html") == [{"lang": "en"}] and page.elements[-1]
    assert page.all("a")[0] == {"class": "skip", "href": "#main"}


@pytest.mark.slow
def test_the_page_opens_with_the_answer_and_the_code_stays_in_the_executed_copy(rendered, page):
    text = page.text
    assert text.index("Are frankenmodels a free lunch?") < text.index("How it was made", 300)
    assert "Results.load" not in text
    executed = nbformat.read(rendered / "executed.ipynb", as_version=4)
    assert any("Results.load" in cell.source for cell in executed.cells)
    outputs = [out for cell in executed.cells for out in cell.get("outputs", [])]
    assert outputs and not [out for out in outputs if out.output_type == "stream"]
    assert sorted(p.name for p in rendered.iterdir() if p.name.startswith(".")) == []


@pytest.mark.slow
def test_the_notebook_copes_with_missing_tables_pictures_and_provenance(tmp_path):
    names = ("smollm2", "llama")
    parameters = synthetic.write_experiment(
        tmp_path / "e", names, ("none", "4.0bpw"), without=("costs", "ledger", "pairs"), step=9
    )
    Path(parameters["provenance"]).unlink()
    run_notebook(NOTEBOOK, tmp_path / "executed.ipynb", parameters)
    render_html(tmp_path / "executed.ipynb", tmp_path / "page.html", "t")
    words = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert words.count("Not drawn: ") >= 2 * 6, "of each model and quantization"
    assert "No provenance was recorded" in words
    for name in names:
        assert name in words


@pytest.mark.slow
def test_the_page_of_several_bitrates_shows_who_quantized_and_what_it_cost_the_base(tmp_path):
    parameters = synthetic.write_experiment(tmp_path, (synthetic.MODEL, "floats-only"), step=15)
    tables = synthetic_bits.make_bits(tasks=synthetic.TASKS[1::3])
    for name, table in tables.items():
        write_parquet(table, tmp_path / "tables" / f"{name}.parquet")
    draw(pictures(tables, synthetic.MODEL), tables, parameters["figures"])
    run_notebook(NOTEBOOK, tmp_path / "executed.ipynb", parameters)
    render_html(tmp_path / "executed.ipynb", tmp_path / "page.html", "t")
    words = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    for part in (
        "Quality against the bytes of weights",
        "frankenlab-gptq 1f2e3d",
        "rows 64, length 256, hash 77aa",
        "weights as distributed: Q4_1, dequantized",
    ):
        assert part in words


def small_notebook(path: Path, source: str) -> Path:
    cells = [
        nbformat.v4.new_code_cell("value = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(source),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.mark.slow
def test_notebooks_run_in_this_interpreter_whatever_kernels_the_user_has(tmp_path, monkeypatch):
    decoy = tmp_path / "data" / "kernels" / "python3" / "kernel.json"
    decoy.parent.mkdir(parents=True)
    decoy.write_text('{"argv": ["false"], "display_name": "decoy", "language": "python"}')
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "data"))
    notebook = small_notebook(tmp_path / "n.ipynb", "import sys\nprint(sys.executable, value)")
    run_notebook(notebook, tmp_path / "out.ipynb", {"value": 7})
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == f"{sys.executable} 7\n"


@pytest.mark.slow
def test_a_failing_cell_is_reported_in_one_line_and_kept_in_the_copy(tmp_path):
    notebook = small_notebook(tmp_path / "n.ipynb", "{}['key']")
    with pytest.raises(UserError, match=r"n\.ipynb: cell \d+ failed with KeyError: 'key'; see "):
        run_notebook(notebook, tmp_path / "out.ipynb", {})
    assert "KeyError" in (tmp_path / "out.ipynb").read_text()


@pytest.mark.slow
def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path):
    notebook = small_notebook(tmp_path / "n.ipynb", "print(value)")
    with pytest.raises(UserError, match="no parameter valu; it has value"):
        run_notebook(notebook, tmp_path / "out.ipynb", {"valu": 7})
    assert not (tmp_path / "out.ipynb").exists()
