import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures import catalogue
from frankenlab.report.figures.catalogue import pictures
from frankenlab.report.figures.effects import series_shown
from frankenlab.report.figures.maps import color_limit
from frankenlab.report.figures.quality import mean_over_tasks, pareto_front
from frankenlab.report.figures.style import floor_of, save
from frankenlab.report.text import interval
from tests.support import synthetic_bits
from tests.support import synthetic_tables as synthetic

MODEL = synthetic.MODEL
LEVELS = Statistics()


@pytest.fixture(scope="module")
def tables():
    return synthetic.make_tables(step=3)[0]


def draw(name: str, tables, levels: Statistics = LEVELS, **task: str) -> Figure:
    """A figure of the model at its only quantization."""
    return catalogue.draw(name, tables, {"model": MODEL, "quantization": "none", **task}, levels)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_visible())


def search_rows(tables, task="arc_easy"):
    table = tables["comparisons"]
    return table[(table["stage"] == "search") & (table["task"] == task)]


def polygons(axes, hatched):
    """The (start position, length position) of each drawn or hatched square."""
    return {
        tuple(path.vertices[:4].mean(axis=0).round(6))
        for collection in axes.collections
        if isinstance(collection, PolyCollection)
        and bool(collection.get_hatch()) == hatched
        and (hatched or collection.get_array() is not None)
        for path in collection.get_paths()
    }


@pytest.mark.slow
def test_block_map_draws_what_was_tried_and_hatches_the_rest_that_fits(tables):
    rows = search_rows(tables)
    tried = rows[(rows["times"] == 2).fillna(False)]
    lengths = sorted(set(tried["stop"] - tried["start"]))
    starts = sorted(set(tried["start"]))
    cells = {
        (starts.index(row.start), lengths.index(row.stop - row.start)) for row in tried.itertuples()
    }
    fitting = {
        (x, y)
        for x, start in enumerate(starts)
        for y, length in enumerate(lengths)
        if start + length <= synthetic.LAYERS
    }
    figure = draw("block_map", tables, task="arc_easy")
    for axes in figure.axes[:2]:
        assert polygons(axes, hatched=False) == cells
        assert polygons(axes, hatched=True) == fitting - cells != set()


@pytest.mark.slow
def test_block_map_marks_significant_cells_by_their_sign(tables):
    comparisons = tables["comparisons"].copy()
    better = (comparisons["stage"] == "search") & (comparisons["start"] == 18)
    better &= (comparisons["stop"] == 19) & (comparisons["times"] == 2)
    comparisons.loc[better, ["effect", "significant"]] = [9.0, True]
    rows = search_rows({"comparisons": comparisons})
    marked = rows[(rows["times"] == 2).fillna(False) & rows["significant"].astype(bool)]
    figure = draw("block_map", {"comparisons": comparisons}, task="arc_easy")
    lines = {line.get_marker(): len(line.get_xdata()) for line in figure.axes[0].lines}
    assert lines == {"^": (marked["effect"] > 0).sum(), "v": (marked["effect"] < 0).sum()}
    assert lines["^"] >= 1 and lines["v"] >= 1


def test_block_map_colours_are_symmetric_and_never_clip_a_gain():
    cells = pd.DataFrame({"effect": [-80.0] + [-2.0] * 30 + [7.0]})
    assert color_limit(cells) == 7.0
    worse = pd.DataFrame({"effect": [-80.0] + [-2.0] * 30})
    assert color_limit(worse) == 2.0


@pytest.mark.slow
def test_block_map_colour_range_is_centred_at_the_base(tables):
    figure = draw("block_map", tables, task="arc_easy")
    drawn = [c for c in figure.axes[0].collections if c.get_array() is not None]
    low, high = drawn[0].get_clim()
    assert low == -high < 0


def test_layer_effects_fill_only_significant_points(tables):
    rows = search_rows(tables)
    single = rows[(rows["stop"] - rows["start"] == 1).fillna(False)]
    figure = draw("layer_effects", tables)
    axes = figure.axes[0]
    filled = hollow = 0
    for line in axes.lines:
        if line.get_marker() in ("o", "s"):
            is_hollow = mpl.colors.same_color(line.get_markerfacecolor(), "white")
            hollow += len(line.get_xdata()) * is_hollow
            filled += len(line.get_xdata()) * (not is_hollow)
    assert filled == single["significant"].sum() > 0
    assert hollow == (~single["significant"].astype(bool)).sum() > 0


def test_repetitions_prefer_blocks_with_most_counts_then_highest_effect():
    rows = pd.DataFrame(
        [(0, 1, 2, 9.0), (0, 1, 3, 1.0), (5, 2, 2, -3.0), (5, 2, 3, 0.0), (5, 2, 4, 0.0)]
        + [(7, 1, 2, 4.0), (7, 1, 3, 4.0), (9, 1, 2, 50.0)],
        columns=["start", "length", "times", "effect"],
    )
    assert series_shown(rows) == ([(5, 2), (0, 1), (7, 1)], 3)
    assert series_shown(rows, most=2) == ([(5, 2), (0, 1)], 3)


def test_pareto_front_keeps_what_no_cheaper_or_equal_plan_reaches():
    cost = np.array([1.0, 1.1, 1.1, 1.2, 1.3, 0.9])
    effect = np.array([0.0, 2.0, 3.0, 3.0, 4.0, -5.0])
    assert pareto_front(cost, effect).tolist() == [5, 0, 2, 4]


def test_mean_over_tasks_adds_independent_errors_in_quadrature():
    rows = pd.DataFrame(
        {
            "plan": ["a", "a", "b"],
            "task": ["x", "y", "x"],
            "group": "block",
            "unit": "points",
            "relative_depth": 1.1,
            "effect": [2.0, 4.0, 9.0],
            "low": [-1.0, 0.0, 8.0],
            "high": [4.0, 12.0, 10.0],
            "n": [100, 50, 100],
            "dropped": pd.NA,
        }
    )
    mean = mean_over_tasks(rows)
    assert mean["plan"].tolist() == ["a"], "b lacks a task, so it has no mean"
    row = mean.iloc[0]
    assert (row["effect"], row["low"], row["n"]) == (3.0, 3.0 - 5.0 / 2, 150)
    assert row["high"] == pytest.approx(3.0 + np.hypot(2, 8) / 2)


@pytest.mark.slow
def test_quality_cost_has_no_mean_over_different_units(tables):
    comparisons = tables["comparisons"]
    both = draw("quality_cost", {"comparisons": comparisons})
    assert len(both.axes) == 3 and "mean of the 2 tasks" in texts(both)
    mixed = comparisons.copy()
    sciq = mixed["task"] == "sciq"
    mixed.loc[sciq, ["unit", "kind", "metric"]] = ["log-percent", "perplexity", "word_perplexity"]
    apart = draw("quality_cost", {"comparisons": mixed})
    assert len(apart.axes) == 2 and "mean of" not in texts(apart)


def test_ruinous_effects_are_cut_off_and_counted():
    effect = np.array([-300.0, -250.0] + [-3.0, 0.0, 3.0] * 10)
    rows = pd.DataFrame({"effect": effect, "low": effect - 2, "high": effect + 2})
    floor = floor_of(rows)
    assert -250 < floor < -3
    assert floor_of(rows[rows["effect"] > -10]) is None


def test_nothing_is_cut_off_when_intervals_of_ordinary_plans_reach_as_low():
    effect = np.array([-20.0, -8.0, -7.0, 0.0, 1.0, 2.0])
    rows = pd.DataFrame({"effect": effect, "low": effect - 14, "high": effect + 2})
    assert floor_of(rows) is None


def test_ruinous_plans_are_named_in_the_figure(tables):
    comparisons = tables["comparisons"].copy()
    first = (comparisons["start"] == 0) & (comparisons["stop"] == 1)
    comparisons.loc[first.fillna(False), ["effect", "low", "high"]] = [-900.0, -910.0, -890.0]
    figure = draw("layer_effects", {"comparisons": comparisons})
    assert "▼ 2 below the axis, worst −900" in texts(figure)
    assert figure.axes[0].get_ylim()[0] > -900


@pytest.mark.slow
def test_confirm_forest_says_every_verdict_with_its_interval(tables):
    verdicts = tables["verdicts"]
    words = texts(draw("confirm_forest", tables))
    for row in verdicts.to_dict("records"):
        assert interval(row) in words
    for verdict, count in verdicts["verdict"].value_counts().items():
        assert words.split("\n").count(verdict) == count


@pytest.mark.slow
def test_quality_speed_shows_the_range_of_repeats(tables):
    figure = draw("quality_speed", tables)
    frozen = tables["costs"].set_index("group").loc["block"]
    ends = {
        tuple(segment[:, 0])
        for collection in figure.axes[0].collections
        for segment in collection.get_segments()
    }
    assert any(np.allclose(end, (frozen["prefill_low"], frozen["prefill_high"])) for end in ends)


@pytest.fixture(scope="module")
def bits_tables():
    return synthetic_bits.make_bits()


@pytest.mark.slow
def test_bits_draws_the_base_through_its_bitrates_and_frankens_beside_it(bits_tables):
    figure = catalogue.draw("bits", bits_tables, {"model": MODEL}, LEVELS)
    table = bits_tables["bits"][bits_tables["bits"]["task"] == "arc_easy"]
    axes = figure.axes[0]
    stars = next(line for line in axes.lines if line.get_marker() == "*")
    base = table[table["plan"] == "base"].sort_values("read_bytes")
    assert stars.get_xdata().tolist() == base["read_bytes"].tolist()
    assert stars.get_ydata().tolist() == base["shift"].fillna(0).tolist()
    drawn = {
        (line.get_xdata()[0], round(line.get_ydata()[0], 9))
        for line in axes.lines
        if line.get_marker() == "o"
    }
    frozen = table[table["group"] == "frozen"].set_index("quantization")
    level = base.set_index("quantization")["shift"].fillna(0)
    assert drawn == {
        (row.read_bytes, round(level[quantization] + row.effect, 9))
        for quantization, row in frozen.iterrows()
    }
    words = texts(figure).split("\n")
    assert {"3.0", "4.0", "6.0", "none"} <= set(words)


def test_one_quantization_has_no_picture_of_bits(bits_tables):
    table = bits_tables["bits"]
    alone = {"bits": table[table["quantization"] == "none"]}
    assert pictures(alone, MODEL) == pictures({}, MODEL) == []
    assert pictures(bits_tables, "another") == []
    (picture,) = pictures(bits_tables, MODEL)
    assert picture.stem == f"{MODEL}/bits"


def test_pictures_are_named_by_model_quantization_and_task(tables):
    stems = [picture.stem for picture in pictures(tables, MODEL, "none")]
    assert stems == [
        f"{MODEL}/none/{name}"
        for name in (
            "confirm_forest",
            "quality_speed",
            "block_map.arc_easy",
            "block_map.sciq",
            "layer_effects",
            "repetition_effect",
            "quality_cost",
        )
    ]
    without = {name: table for name, table in tables.items() if name == "comparisons"}
    fewer = [picture.stem for picture in pictures(without, MODEL, "none")]
    assert fewer == stems[2:]
    assert pictures(tables, "another", "none") == []


@pytest.mark.slow
def test_levels_reach_the_figures(tables):
    words = texts(draw("block_map", tables, Statistics(fdr=0.1), task="sciq"))
    assert "q < 0.1" in words and "q < 0.05" not in words
    words = texts(draw("confirm_forest", tables, Statistics(alpha=0.01)))
    assert "α = 0.01" in words


@pytest.mark.parametrize("name", ["block_map", "layer_effects", "repetition_effect"])
def test_a_grid_without_such_plans_gives_a_figure_that_says_so(tables, name):
    comparisons = tables["comparisons"]
    only = comparisons[comparisons["group"].isin(["base", "random_block"])]
    more = {"task": "sciq"} if name == "block_map" else {}
    figure = draw(name, {"comparisons": only}, **more)
    assert MODEL in texts(figure) and "no " in texts(figure)


@pytest.mark.slow
def test_save_writes_both_formats_reproducibly(tables, tmp_path):
    for name in ("one", "two"):
        figure = draw("layer_effects", tables)
        save(figure, tmp_path / f"smollm2.4.0bpw.{name}")
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == [
        f"smollm2.4.0bpw.{name}.{suffix}" for name in ("one", "two") for suffix in ("png", "svg")
    ]
    first, second = ((tmp_path / f"smollm2.4.0bpw.{n}.svg").read_bytes() for n in ("one", "two"))
    assert first == second
    assert b"<dc:date>" not in first


def test_drawing_leaves_the_callers_settings_alone(tables):
    before = dict(mpl.rcParams)
    draw("layer_effects", tables)
    assert dict(mpl.rcParams) == before


@pytest.fixture(scope="module")
def raced(tables):
    return synthetic.as_race(tables)


@pytest.mark.slow
def test_block_map_dots_what_the_race_dropped(raced):
    task = "arc_easy"
    left, *_ = draw("block_map", raced, task=task).axes
    rows = search_rows(raced)
    rows = rows[(rows["times"] == 2).fillna(False) & rows["dropped"].notna()]
    dotted = [
        len(c.get_paths()) for c in left.collections if c.get_hatch() == "...." and c.get_paths()
    ]
    assert dotted == [len(rows.drop_duplicates(["start", "stop"]))]


@pytest.mark.slow
def test_no_dropped_plan_is_on_the_front(raced):
    table = raced["comparisons"].copy()
    dropped = table["dropped"].notna()
    table.loc[dropped, "effect"] = 99.0
    axes = draw("quality_cost", {"comparisons": table}).axes[0]
    front = max(
        (line for line in axes.get_lines()), key=lambda line: line.get_drawstyle() != "default"
    )
    assert front.get_drawstyle() == "steps-post" and max(front.get_ydata()) < 99.0


@pytest.mark.slow
def test_the_picture_of_a_race_shows_plans_left_and_last_rounds(raced):
    figure = draw("race", raced)
    words = texts(figure)
    assert "49 % of the layer passes" in words and MODEL in words
    for count in raced["race"]["plans"]:
        assert f"{count:,}" in words
    cells = figure.axes[1].collections[-1].get_array()
    assert set(np.asarray(cells)) == {1.0, 2.0, 3.0}
    nothing = draw("race", raced | {"race": raced["race"].head(0)})
    assert "no race" in texts(nothing)
