import json

import pandas as pd
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.verdicts import DOMINANT
from frankenlab.report.figures.forest import confirm_forest, confirm_forest_finding
from frankenlab.report.figures.style import spec_of, svg_of
from tests.support import synthetic_tables as synthetic
from tests.support.charts import rows_of_spec, words_of

WHERE = {"model": synthetic.MODEL, "quantization": "none"}
LEVELS = Statistics()


@pytest.fixture(scope="module")
def verdicts():
    return synthetic.make_tables(step=9)[0]["verdicts"]


@pytest.fixture(scope="module")
def rows(verdicts):
    return drawn(verdicts)


def drawn(verdicts: pd.DataFrame) -> list[dict]:
    """The data of the forest of these verdicts."""
    return rows_of_spec(spec_of(confirm_forest({"verdicts": verdicts}, LEVELS, **WHERE)))


def texts(rows: list[dict]) -> list[str]:
    return [row["text"] for row in rows if "text" in row]


def changed(verdicts: pd.DataFrame, task: str, **columns) -> pd.DataFrame:
    """The verdicts, with other values of the frozen plan on a task."""
    table = verdicts.copy()
    mine = (table["task"] == task) & (table["group"] == "frozen")
    for column, value in columns.items():
        table.loc[mine, column] = value
    return table


def test_every_task_has_its_verdict_and_the_interval_of_the_verdict(verdicts, rows):
    said = texts(rows)
    own = verdicts[verdicts["group"] == "frozen"]
    for verdict, count in own["verdict"].replace("harmed", "got worse").value_counts().items():
        assert said.count(verdict) == count
    assert "+4.1 [−0.4, +8.6]" in said, "not the 95 % interval, which excludes 0"
    assert "−3.0 % [−5.0, −1.0]" in said, "a perplexity is in per cent"


def test_bars_are_the_intervals_at_the_level_of_the_verdict(verdicts, rows):
    marks = {row["task"]: row for row in rows if "verdict_low" in row and "verdict" in row}
    row = verdicts.iloc[0]
    for end in ("verdict_low", "verdict_high", "equivalence_low", "equivalence_high"):
        assert marks[row["task"]][end] == pytest.approx(row[end], abs=0.001)


@pytest.mark.slow
def test_a_row_says_why_an_interval_that_excludes_0_is_inconclusive(verdicts):
    why = "95 % interval excludes 0,"
    assert texts(drawn(verdicts)).count(why) == 1
    wide = changed(verdicts, "arc_easy", low=-1.0)
    assert why not in texts(drawn(wide))
    sure = changed(verdicts, "arc_easy", verdict="improved", verdict_low=0.2)
    assert why not in texts(drawn(sure))


@pytest.mark.slow
def test_one_passage_that_dominates_is_named(verdicts):
    def flags(share: float) -> list[str]:
        table = changed(verdicts, "boolq_passages", dominance=share)
        return [text for text in texts(drawn(table)) if text.startswith("one passage")]

    assert flags(DOMINANT) == ["one passage makes up 25 % of the variance"]
    assert flags(DOMINANT - 0.01) == []


@pytest.mark.slow
def test_controls_are_marks_without_verdicts_where_they_ran(verdicts, rows):
    controls = verdicts[verdicts["group"] == "control"]
    marks = {(r["plan"], r["task"]): r for r in rows if "verdict_low" in r and "verdict" not in r}
    assert set(marks) == set(zip(controls["plan"], controls["task"], strict=True))
    alone = drawn(verdicts[verdicts["group"] == "frozen"])
    assert not [row for row in alone if "verdict_low" in row and "verdict" not in row]


@pytest.mark.slow
def test_search_tasks_stand_first_and_each_unit_has_its_axis(verdicts):
    spec = spec_of(confirm_forest({"verdicts": verdicts.iloc[::-1]}, LEVELS, **WHERE))
    panels = {"percentage points": [], "change of perplexity": []}
    for part in spec["vconcat"][:-1]:
        (unit,) = [unit for unit in panels if unit in json.dumps(part)]
        panels[unit] = texts(rows_of_spec(spec, part))
    roles = [text.split()[0] for text in panels["percentage points"] if " task, n" in text]
    assert roles == ["search", "search", "guard", "guard"]
    assert "boolq_passages" in panels["change of perplexity"]


def test_the_finding_names_what_is_significant_first(verdicts):
    said = confirm_forest_finding({"verdicts": verdicts}, LEVELS, **WHERE)
    assert said.startswith("With layers 18–20 twice, boolq_passages improved (perplexity −3.0 %")
    assert said.endswith("arc_easy and sciq are inconclusive.")
    worse = changed(verdicts, "boolq_passages", verdict="harmed")
    assert "boolq_passages got worse" in confirm_forest_finding(
        {"verdicts": worse}, LEVELS, **WHERE
    )
    open_ = changed(verdicts, "boolq_passages", verdict="inconclusive")
    assert "no task changed significantly" in confirm_forest_finding(
        {"verdicts": open_}, LEVELS, **WHERE
    )


def test_a_plan_that_leaves_layers_out_is_named_in_good_english(verdicts):
    frozen = verdicts["group"] != "control"
    shorter = verdicts.assign(plan=verdicts["plan"].mask(frozen, "0:18,20:30"))
    said = confirm_forest_finding({"verdicts": shorter}, LEVELS, **WHERE)
    assert said.startswith("Without layers 18–19, boolq_passages")


@pytest.mark.slow
def test_without_verdicts_the_figure_says_so(verdicts):
    chart = confirm_forest({"verdicts": verdicts.head(0)}, LEVELS, **WHERE)
    assert "nothing was confirmed" in words_of(svg_of(spec_of(chart)))
    assert confirm_forest_finding({"verdicts": verdicts.head(0)}, LEVELS, **WHERE) == ""
