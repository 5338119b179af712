"""Controls: random plans of a plan's cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frankenlab.plans.controls import equal_cost_controls
from frankenlab.plans.plan import Change, from_steps, looped, parse
from frankenlab.plans.steps import Step


@pytest.mark.parametrize("text", ["0:6,3:8", "0:3,2x3,3:8", "0:6,2:8", "0:8,2@attn,4@mlp"])
def test_controls_cost_as_much_as_the_plan_and_are_not_it(text):
    plan = parse(text, 8)
    controls = equal_cost_controls(plan, count=3, seed=1)
    assert len(set(controls)) == 3 and plan not in controls
    assert {control.depth for control in controls} == {plan.depth}


def test_controls_of_a_loop_repeat_as_often():
    controls = equal_cost_controls(looped(2, 4, 3, 8), count=10, seed=1)
    assert {control.loop for control in controls} == {(i, i + 2, 3) for i in range(7) if i != 2}


@pytest.mark.parametrize(
    "change", [Change(2, 4, 3, "attn", 0.5), Change(2, 4, 0), Change(2, 4, 0, "mlp")]
)
def test_controls_of_a_changed_range_change_all_others_of_its_length_alike(change):
    controls = equal_cost_controls(change.plan(8), count=10, seed=1)
    assert {control.change for control in controls} == {
        change._replace(start=i, stop=i + 2) for i in range(7) if i != 2
    }


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("0,2,1,3:5", ["1,0,2:5", "0:2,3,2,4", "0:3,4,3"]),
        ("2,1,0,3:5", ["0,3,2,1,4", "0:2,4,3,2"]),
        ("0,1@attn,1:5", ["0@attn,0:5", "0:2,2@attn,2:5", "0:3,3@attn,3:5", "0:4,4@attn,4"]),
        ("0x2,1,2x2,3:5", ["0,1x2,2,3x2,4", "0:2,2x2,3,4x2"]),
        ("0,(1:4)x2*0.5,4", ["(0:3)x2*0.5,3:5", "0:2,(2:5)x2*0.5"]),
        ("0,(1:4)*0.5,4", ["(0:3)*0.5,3:5", "0:2,(2:5)*0.5"]),
    ],
)
def test_any_change_is_made_at_its_other_places(text, others):
    found = equal_cost_controls(parse(text, 5), count=len(others), seed=1)
    assert set(found) == {parse(other, 5) for other in others}


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("0x2,1:7,7x2", {Change(i, i + 2, 2) for i in range(7)}),
        ("0,0@mlp,1:8,7@mlp", {Change(i, i + 2, 2, "mlp") for i in range(7)}),
        ("0,0@mlp,1:8,7@attn", {Change(i, i + 1, 2) for i in range(8)}),
    ],
)
def test_a_plan_from_end_to_end_has_single_blocks_as_controls(text, others):
    found = equal_cost_controls(parse(text, 8), count=10, seed=1)
    assert {plan.change for plan in found} == others


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("1:7", {Change(i, i + 2, 0) for i in range(7)}),
        ("0@attn,1:7,7@attn", {Change(i, i + 2, 0, "mlp") for i in range(7)}),
        ("1:4,4x2,5:7", {Change(i, i + 1, 0) for i in range(8)}),
        ("1:7,7@attn", set()),
    ],
)
def test_a_plan_that_is_less_deep_from_end_to_end_has_blocks_left_out_as_controls(text, others):
    plan = parse(text, 8)
    found = equal_cost_controls(plan, count=10, seed=1)
    assert {control.change for control in found} == others
    assert all(control.depth == plan.depth for control in found)


steps = st.builds(
    Step, st.integers(0, 7), st.sampled_from(["block", "attn", "mlp"]), st.sampled_from([1.0, 0.5])
)


@given(st.lists(steps, max_size=5), st.integers(0, 8), st.integers(0, 8))
def test_controls_run_as_much_as_their_plan(inserted, start, stop):
    layers = [Step(layer) for layer in range(8)]
    kept = [*layers[:start], *inserted, *layers[max(start, stop) :]]
    if not kept:
        return
    plan = from_steps(kept, 8)
    controls = equal_cost_controls(plan, count=3, seed=1)
    assert len(set(controls)) == len(controls) <= 3 and plan not in controls
    deeper = round(plan.depth) if plan.changes is None else plan.depth
    assert all(control.depth in (plan.depth, deeper) for control in controls)


@pytest.mark.parametrize("text", ["base", "0:8x2,0:8", "4:8,0:4"])
def test_a_plan_that_no_block_costs_as_much_as_has_no_controls(text):
    assert equal_cost_controls(parse(text, 8), count=3, seed=1) == []
