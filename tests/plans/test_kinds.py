"""Kinds of plans."""

import pytest

from frankenlab.plans.kinds import KINDS, kind_of
from frankenlab.plans.plan import parse

CASES = [
    ("0:6,4:8", "block", "repeated"),
    ("0:8,2@attn", "explicit", "repeated"),
    ("0:3,4:8,5", "explicit", "repeated"),
    ("0:6,4:6*0.5,6:8", "block", "damped"),
    ("0:6,4:6*1.5,6:8", "block", "repeated"),
    ("0:2,(2:4)*0.5,4:8", "window", "damped"),
    ("0:6,4:8", "random_block", "random"),
    ("0:6,4:6*0.5,6:8", "random_block", "random"),
    ("0x2,1:7,7x2", "spread", "spread"),
    ("0:3,5:8", "skip", "skipped"),
    ("0:3,3@mlp,4:8", "skip", "skipped"),
    ("0:2,3,2,4:8", "swap", "reordered"),
]


@pytest.mark.parametrize(("text", "group", "kind"), CASES)
def test_a_plan_is_of_one_kind(text, group, kind):
    assert kind_of(parse(text, 8), group) == kind


def test_every_kind_has_a_plan():
    assert {kind for _, _, kind in CASES} == set(KINDS)
