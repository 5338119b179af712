"""Plans at another depth, and designs that models of several depths share."""

import pytest

from frankenlab.plans.designs import LINE, SINGLE, shared
from frankenlab.plans.plan import parse
from frankenlab.plans.relative import transferred
from frankenlab.plans.repeats import Blocks, Layers


@pytest.mark.parametrize(
    ("plan", "n_layers", "there"),
    [
        ("0:24,23:30", 24, "0:19,18:24"),
        ("0:12,12:15x3,15:30", 10, "0:5,4,4:10"),
        ("0:10,8:10@attn*0.5,10:30", 60, "0:20,16:20@attn*0.5,20:60"),
        ("0:5,7:30", 60, "0:10,14:60"),
        ("0:10,(10:14)x3*0.5,14:30", 60, "0:20,(20:28)x3*0.5,28:60"),
        ("0:3,2:6,5:30", 60, "0:6,4:12,10:60"),
        ("0:30,29", 10, "0:10,9"),
        ("0:24,23:30", 30, "0:24,23:30"),
        ("base", 24, "base"),
    ],
)
def test_a_plan_keeps_its_shares_of_the_depth(plan, n_layers, there):
    assert str(transferred(parse(plan, 30), n_layers)) == there


def test_it_lands_where_the_config_puts_the_same_shares():
    for n in (16, 24, 32, 80):
        design = Blocks(generator="block", start=0.2, length=0.1)
        (here,), (there,) = design.make(30), design.make(n)
        assert transferred(here, n) == there


@pytest.mark.parametrize("plan", ["0:2,1,0,2:30", "0:2,4,3,2,5:30", "0:3,2:6,5:30"])
def test_what_has_no_counterpart_has_none(plan):
    assert transferred(parse(plan, 30), 2) is None


def test_ranges_that_touch_do_not_overlap_at_another_depth():
    # A quarter of 6 layers is rounded up to 2, and the second quarter begins with layer 1.
    plan = transferred(parse("0x2,1x3,2:4", 4), 6)
    assert plan == parse("0x2,1:3,1:3,1:3,3:6", 6)


LINES = [Layers(generator="layer"), Blocks(generator="block", start=(0.25, 0.5), length=0.25)]


def test_a_line_is_shared_and_its_plans_where_they_are_shares():
    found = shared({"a": LINES, "b": LINES}, {"a": 4, "b": 8})
    assert [design.kind for design in found] == [LINE, LINE, SINGLE, SINGLE]
    assert found[0].label == "the mean over layer" and len(found[0].plans["b"]) == 8
    assert found[1].label == "the mean over block (start 0.25, 0.5, length 0.25)"
    assert found[2].plans == {"a": ("0:2,1:4",), "b": ("0:4,2:8",)}
    assert found[2].label == "25 to 50 % of the depth, 2 times"


def test_models_of_one_depth_share_every_plan():
    found = shared({"a": LINES[:1], "b": LINES[:1]}, {"a": 4, "b": 4})
    assert [design.kind for design in found] == [LINE, *[SINGLE] * 4]


def test_a_line_of_one_model_alone_is_not_shared():
    assert shared({"a": LINES[:1], "b": LINES[1:]}, {"a": 4, "b": 4}) == []
