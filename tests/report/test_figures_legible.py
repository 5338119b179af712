from dataclasses import replace
from itertools import combinations

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.catalogue import Picture, pictures
from tests.support import synthetic_bits
from tests.support import synthetic_tables as synthetic

pytestmark = pytest.mark.slow

MODEL = synthetic.MODEL
LEVELS = Statistics()


@pytest.fixture(scope="module")
def tables():
    return synthetic.make_tables(step=3)[0]


@pytest.fixture(scope="module")
def raced(tables):
    return synthetic.as_race(tables)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_visible())


LONG = "an-organisation-with-a-long-name-Llama-3.1-70B-Instruct"


@pytest.fixture(scope="module")
def hard_tables():
    """Long names of model, task and control; a search task in perplexity, one in accuracy."""
    passages = replace(
        synthetic.TASKS[4], name="boolq_passages_in_full", role="search", search_n=90
    )
    tables, _ = synthetic.make_tables((LONG,), step=4, tasks=(passages, *synthetic.TASKS[:3]))
    control = ",".join(f"{i}x2" if i % 9 == 0 else str(i) for i in range(synthetic.LAYERS))
    return {name: table.replace("0:3,2:5,4:27,26:30", control) for name, table in tables.items()}


def inside(box, frame) -> bool:
    return (
        frame.x0 - 1 <= box.x0
        and frame.y0 - 1 <= box.y0
        and box.x1 <= frame.x1 + 1
        and box.y1 <= frame.y1 + 1
    )


def drawn_texts(figure: Figure) -> list[Text]:
    """All texts of a drawn figure but those of ticks beyond their axis, which are not drawn."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    hidden |= {tick.label1, tick.label2}
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


def assert_whole_and_legible(picture: Picture, tables, model: str) -> None:
    """Nothing is cut off, no text lies over another, and the basics are said."""
    figure = picture.draw(tables, LEVELS)
    renderer = figure.canvas.get_renderer()
    whole = figure.get_tightbbox(renderer).transformed(figure.dpi_scale_trans)
    assert inside(whole, figure.bbox), picture.stem
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in drawn_texts(figure)]
    assert [words for words, box in boxes if not inside(box, figure.bbox)] == [], picture.stem
    overlapping = [
        (one, two)
        for (one, box), (two, other) in combinations(boxes, 2)
        if min(box.x1, other.x1) - max(box.x0, other.x0) > 1
        and min(box.y1, other.y1) - max(box.y0, other.y0) > 1
    ]
    assert overlapping == [], picture.stem
    words = texts(figure)
    assert "n = " in words and "95 % interval" in words and model in words, picture.stem


@pytest.mark.parametrize(("name", "number"), [("tables", 7), ("hard_tables", 8)])
def test_pictures_are_whole_and_legible_and_state_n_interval_and_model(name, number, request):
    data = request.getfixturevalue(name)
    model = data["verdicts"]["model"].iloc[0]
    found = pictures(data, model, "none")
    assert len(found) == number
    for picture in found:
        assert_whole_and_legible(picture, data, model)


@pytest.mark.parametrize(
    ("model", "quantizations", "count"),
    [
        (MODEL, ("none", "exl2-4.0"), 5),
        (MODEL, ("exl2-4.0", "exl2-4.25", "exl2-4.5", "exl2-5.0", "exl2-6.0"), 2),
        (LONG, synthetic_bits.QUANTIZATIONS, 1),
    ],
)
def test_the_picture_of_bits_is_whole_and_legible(model, quantizations, count):
    tasks = synthetic.TASKS[-count:]
    tables = synthetic_bits.make_bits((model,), quantizations, tasks)
    (picture,) = pictures(tables, model)
    assert_whole_and_legible(picture, tables, model)


def test_pictures_of_a_race_are_whole_and_say_how_many_documents(raced):
    found = pictures(raced, MODEL, "none")
    names = [picture.stem.rpartition("/")[2] for picture in found]
    assert "race" in names
    for picture, name in zip(found, names, strict=True):
        if name != "race":
            assert_whole_and_legible(picture, raced, MODEL)
        if name.startswith(("block_map", "quality_cost")):
            assert "n = 25 to 100" in texts(picture.draw(raced, LEVELS)), name
