import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from frankenlab.report.figures.catalogue import CATALOGUE, entry_of, names, picture_of, pictures
from frankenlab.report.figures.style import (
    blank,
    cut_axis,
    floor_of,
    plan_looks,
    point_data,
    save,
    spec_of,
    svg_of,
    zero_rule,
)
from tests.support import synthetic_bits
from tests.support import synthetic_tables as synthetic
from tests.support.charts import words_of

MODEL = synthetic.MODEL


@pytest.fixture(scope="module")
def tables():
    return synthetic.make_tables(step=6)[0]


def test_pictures_are_named_by_model_quantization_and_task(tables):
    stems = [picture.stem for picture in pictures(tables, MODEL, "none")]
    assert stems == [
        f"{MODEL}/none/{name}"
        for name in (
            "confirm_forest",
            "profile",
            "block_map.arc_easy",
            "block_map.sciq",
            "layer_effects",
            "repetition_effect",
            "quality_speed",
            "quality_cost",
            "path",
        )
    ]
    without = {name: table for name, table in tables.items() if name == "comparisons"}
    fewer = [picture.stem.rpartition("/")[2] for picture in pictures(without, MODEL, "none")]
    assert fewer == ["block_map.arc_easy", "block_map.sciq", "layer_effects", "quality_cost"]
    assert pictures(tables, "another", "none") == []


def test_ten_models_have_the_same_pictures_each(tables):
    models = [f"model-{number}" for number in range(10)]
    ten = {
        name: pd.concat([table.assign(model=model) for model in models])
        for name, table in tables.items()
    }
    for model in models:
        found = pictures(ten, model, "none")
        assert len(found) == 9
        assert {picture.where["model"] for picture in found} == {model}


def test_one_quantization_has_no_picture_of_bits():
    tables = synthetic_bits.make_bits(tasks=synthetic.TASKS[:1])
    alone = {"bits": tables["bits"][tables["bits"]["quantization"] == "none"]}
    assert pictures(alone, MODEL) == pictures({}, MODEL) == []
    assert pictures(tables, "another") == []
    (picture,) = pictures(tables, MODEL)
    assert picture.stem == f"{MODEL}/bits"


def test_a_declared_file_names_its_picture(tables):
    """What the rules declare is what the page looks for."""
    for stage in ("search", "confirm"):
        for name in names(stage, tables, ["arc_easy", "sciq"]):
            picture = picture_of(name, model=MODEL, quantization="none")
            assert picture.stem == f"{MODEL}/none/{name}"
            assert picture in pictures(tables, MODEL, "none")
    assert picture_of("bits", model=MODEL).stem == f"{MODEL}/bits"
    assert entry_of("block_map.arc_easy").name == "block_map"


def test_categories_are_in_the_order_of_the_page():
    categories = [entry.category for entry in CATALOGUE]
    assert categories == sorted(categories)
    assert len(set(categories)) == 8


def test_a_plan_looks_the_same_in_every_figure():
    whole, _ = synthetic.make_tables(quantizations=("none", "exl2-4.0"), step=15)
    looks = plan_looks(whole, MODEL)
    groups = [look.group for look in looks.values()]
    assert groups == ["base", "frozen", "control", "control", "runner-up"]
    assert len({(look.color, look.shape) for look in looks.values()}) == 5
    for left_out in ("costs", "path"):
        fewer = plan_looks({k: t for k, t in whole.items() if k != left_out}, MODEL)
        assert fewer.items() <= looks.items()
    mixed = whole | {"costs": whole["costs"].iloc[::-1]}
    assert plan_looks(mixed, MODEL) == looks


def test_data_of_points_say_the_plan_in_words_and_its_interval(tables):
    rows = tables["comparisons"]
    row = rows[(rows["stage"] == "confirm") & (rows["task"] == "arc_easy")].iloc[1:2]
    (point,) = point_data(row, "n").to_dict("records")
    assert point["words"] == "layers 18–20 twice"
    assert point["effect_text"] == "+4.1 points [+0.9, +7.3]"
    assert (point["plan"], point["task"], point["n"]) == ("0:18,18:21x2,21:30", "arc_easy", 342)


def test_ruinous_effects_are_cut_off_marked_and_counted():
    effect = np.array([-300.0, -250.0] + [-3.0, 0.0, 3.0] * 10)
    rows = pd.DataFrame({"effect": effect, "low": effect - 2, "high": effect + 2})
    floor = floor_of(rows)
    assert -250 < floor < -3
    assert floor_of(rows[rows["effect"] > -10]) is None
    cut = cut_axis(rows)
    assert cut.domain[0] == pytest.approx(floor)
    assert cut.data["below"].sum() == 2 and cut.data["shown"].min() == floor
    assert cut.note == "▼ 2 below the axis, worst −300.0"
    assert cut_axis(rows[rows["effect"] > -10]).note == ""


def test_nothing_is_cut_off_when_intervals_of_ordinary_plans_reach_as_low():
    effect = np.array([-20.0, -8.0, -7.0, 0.0, 1.0, 2.0])
    rows = pd.DataFrame({"effect": effect, "low": effect - 14, "high": effect + 2})
    assert floor_of(rows) is None


def test_the_line_of_no_change_is_drawn_once():
    spec = spec_of(zero_rule())
    assert spec["datasets"][spec["data"]["name"]] == [{}]


@pytest.mark.slow
def test_save_writes_three_formats_that_depend_on_the_tables_alone(tables, tmp_path):
    for name in ("one", "two"):
        picture = picture_of("confirm_forest", model=MODEL, quantization="none")
        chart = picture.draw(tables, synthetic_bits.RULES)
        save(chart, tmp_path / f"smollm2.4.0bpw.{name}")
    written = sorted(path.name for path in tmp_path.iterdir())
    suffixes = ("json", "png", "svg")
    assert written == [f"smollm2.4.0bpw.{n}.{s}" for n in ("one", "two") for s in suffixes]
    for suffix in suffixes:
        first, second = (tmp_path / f"smollm2.4.0bpw.{n}.{suffix}" for n in ("one", "two"))
        assert first.read_bytes() == second.read_bytes(), suffix
    spec = json.loads((tmp_path / "smollm2.4.0bpw.one.json").read_text())
    svg = (tmp_path / "smollm2.4.0bpw.one.svg").read_text()
    assert spec["description"].startswith("With layers 18–20 twice, ")
    assert f'role="img" aria-label="{spec["description"]}"' in svg
    assert "arc_easy" in words_of(svg), "the words of an SVG are text"


@pytest.mark.slow
def test_empty_tables_give_figures_that_say_so(tables):
    empty = {name: table.head(0) for name, table in tables.items()}
    for entry in CATALOGUE:
        where = {"model": MODEL, "quantization": "none"}
        if entry.stage == "bits":
            del where["quantization"]
        if entry.stage == "models":
            where = {}
        picture = picture_of(f"{entry.name}{'.sciq' * entry.each_task}", **where)
        data = empty | {name: pd.DataFrame() for name in ("race", "bits")}
        words = words_of(svg_of(spec_of(picture.draw(data, synthetic_bits.RULES))))
        assert where.get("model", "model") in words
        assert picture.finding(data, synthetic_bits.RULES) == "", entry.name


@pytest.mark.slow
def test_a_blank_figure_says_why():
    message = f"{MODEL}: no <plan> & nothing."
    assert words_of(svg_of(spec_of(blank(message)))) == message


def test_entries_without_their_functions_are_noticed():
    for entry in CATALOGUE:
        assert callable(entry.function()) and callable(entry.function("_finding")), entry.name
    with pytest.raises((StopIteration, AttributeError)):
        replace(CATALOGUE[0], name="another").function()
