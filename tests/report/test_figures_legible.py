from dataclasses import replace

import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.catalogue import Picture, pictures
from frankenlab.report.figures.style import WIDTH, spec_of, svg_of
from tests.support import synthetic_bits
from tests.support import synthetic_tables as synthetic
from tests.support.charts import faults, rows_of_spec, size_of, words_of

pytestmark = pytest.mark.slow

MODEL = synthetic.MODEL
LEVELS = Statistics()
LONG = "an-organisation-with-a-long-name-Llama-3.1-70B-Instruct"
HOSTILE = 'a<b>&"c"\\ {{x}} <script>'


@pytest.fixture(scope="module")
def tables():
    return synthetic.make_tables(step=3)[0]


@pytest.fixture(scope="module")
def raced(tables):
    return synthetic.as_race(tables)


@pytest.fixture(scope="module")
def hard_tables():
    """Long names of model, task and control; a search task in perplexity, one in accuracy."""
    passages = replace(
        synthetic.TASKS[4], name="boolq_passages_in_full", role="search", search_n=90
    )
    tables, _ = synthetic.make_tables((LONG,), step=4, tasks=(passages, *synthetic.TASKS[:3]))
    control = ",".join(f"{i}x2" if i % 9 == 0 else str(i) for i in range(synthetic.LAYERS))
    return {name: table.replace("0:3,2:5,4:27,26:30", control) for name, table in tables.items()}


def assert_whole_and_legible(picture: Picture, tables) -> str:
    """The picture is as wide as all, nothing is cut off, no text lies over another."""
    spec = spec_of(picture.draw(tables, LEVELS))
    svg = svg_of(spec)
    assert faults(svg) == [], picture.stem
    assert size_of(svg)[0] <= WIDTH + 1, picture.stem
    assert spec["description"] == picture.finding(tables, LEVELS) != "", picture.stem
    return words_of(svg)


@pytest.mark.parametrize(("name", "number"), [("tables", 9), ("hard_tables", 10)])
def test_pictures_are_whole_and_legible_and_state_their_model(name, number, request):
    data = request.getfixturevalue(name)
    model = data["verdicts"]["model"].iloc[0]
    found = pictures(data, model, "none")
    assert len(found) == number
    for picture in found:
        words = assert_whole_and_legible(picture, data)
        assert f"{model} · unquantized" in words, picture.stem


def test_every_point_says_its_plan_in_words(tables):
    for picture in pictures(tables, MODEL, "none"):
        rows = rows_of_spec(spec_of(picture.draw(tables, LEVELS)))
        points = [row for row in rows if row.get("plan")]
        assert points, picture.stem
        assert all(row["words"] for row in points), picture.stem


def test_hostile_names_are_text_and_nothing_else():
    task = replace(synthetic.TASKS[0], name="<img>'\"")
    tables, _ = synthetic.make_tables((HOSTILE,), step=9, tasks=(task, *synthetic.TASKS[2:4]))
    for picture in pictures(tables, HOSTILE, "none"):
        svg = svg_of(spec_of(picture.draw(tables, LEVELS)))
        assert HOSTILE in words_of(svg), picture.stem
        assert "<script" not in svg and "<img" not in svg


@pytest.mark.parametrize(
    ("model", "quantizations", "count"),
    [
        (MODEL, ("none", "exl2-4.0"), 5),
        (MODEL, ("exl2-4.0", "exl2-4.25", "exl2-4.5", "exl2-5.0", "exl2-6.0"), 2),
        (LONG, synthetic_bits.QUANTIZATIONS, 1),
    ],
)
def test_the_picture_of_bits_is_whole_and_legible(model, quantizations, count):
    tables = synthetic_bits.make_bits((model,), quantizations, synthetic.TASKS[-count:])
    (picture,) = pictures(tables, model)
    assert model in assert_whole_and_legible(picture, tables)


def test_pictures_of_a_race_are_whole_and_say_how_many_documents(raced):
    found = {picture.entry.name: picture for picture in pictures(raced, MODEL, "none")}
    assert "race" in found
    for name in ("race", "block_map", "quality_cost"):
        words = assert_whole_and_legible(found[name], raced)
        if name == "block_map":
            assert "n = 25 to 100" in words
