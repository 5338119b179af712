"""A frozen plan against the mean of its controls."""

import pandas as pd
import pytest

from frankenlab.analyse.controls import against_controls
from tests.analyse.test_comparisons import RULES, TASKS, accuracy_scores

FRANKEN, CONTROLS = "0:3,1:4", ("0:2,0:4", "0:4,2:4")


def answers(franken, *controls):
    plans = {"base": [0] * 100, FRANKEN: franken} | dict(zip(CONTROLS, controls, strict=False))
    return accuracy_scores(plans, stage="confirm")


def test_the_frozen_plan_is_compared_with_the_mean_of_its_controls():
    scores = answers([1] * 60 + [0] * 40, [1] * 10 + [0] * 90, [0] * 90 + [1] * 10)
    (row,) = against_controls(scores, TASKS, {"m": FRANKEN}, RULES).to_dict("records")
    assert row["effect"] == pytest.approx(50)
    assert row["controls"] == "; ".join(sorted(CONTROLS)) and row["plan"] == FRANKEN
    assert row["low"] < 50 < row["high"] and row["verdict_low"] > 0
    assert row["verdict"] == "better"
    assert row["level"] == pytest.approx(0.05 * 0.08)
    assert row["p_corrected"] == pytest.approx(row["p"] / 0.08)


def test_cells_without_controls_have_no_row_and_no_share():
    worse = answers([0] * 100, [1] * 30 + [0] * 70)
    alone = answers([1] * 50 + [0] * 50).assign(quantization="exl2-4.0")
    table = against_controls(pd.concat([worse, alone]), TASKS, {"m": FRANKEN}, RULES)
    assert table["quantization"].tolist() == ["none"] and table["verdict"].tolist() == ["worse"]
    assert table["level"].tolist() == pytest.approx([0.05 * 0.08])
    assert len(against_controls(alone, TASKS, {"m": FRANKEN}, RULES)) == 0


def test_the_table_says_what_is_not_significant():
    scores = answers([1] * 5 + [0] * 95, [0] * 95 + [1] * 5)
    table = against_controls(scores, TASKS, {"m": FRANKEN}, RULES)
    assert table["verdict"].tolist() == ["inconclusive"] and table["p_corrected"][0] == 1
