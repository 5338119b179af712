"""The generator of damped windows, and the controls of such plans."""

import pytest
from pydantic import ValidationError

from frankenlab.io.errors import UserError
from frankenlab.plans.controls import equal_cost_controls
from frankenlab.plans.grid import expand
from frankenlab.plans.plan import Window, parse
from frankenlab.plans.windows import Windows


def texts(*generators: Windows, n_layers: int = 4) -> list[str]:
    return [item.plan.text for item in expand(generators, n_layers).plans[1:]]


@pytest.mark.parametrize(
    ("generator", "expected"),
    [
        (Windows(length=3), ["(0:3)x2*0.5,3", "0,(1:4)x2*0.5"]),
        (Windows(length=2, start=1, times=[2, 4]), ["0,(1:3)x2*0.5,3", "0,(1:3)x4*0.25,3"]),
        (Windows(length=2, start=[1, 3], beta=[0.3, 2]), ["0,(1:3)x2*0.3,3", "0,(1:3)x2*2,3"]),
        (Windows(length=0.5, start=0.25, times=1, beta=-0.5), ["0,(1:3)*-0.5,3"]),
        (Windows(length=1, start=2, times=3, beta=0.5), ["0:2,2x3*0.5,3"]),
        (Windows(length=2, start=1, beta=1.0), ["0:3,1:4"]),
    ],
)
def test_windows_are_damped_by_one_part_in_as_many_as_they_run_unless_told(generator, expected):
    assert texts(generator) == expected


def test_windows_have_a_group_of_their_own_and_run_once_they_are_the_base():
    grid = expand([Windows(length=2, start=1, times=[1, 2])], 4)
    assert [(item.plan.text, item.group) for item in grid.plans[1:]] == [
        ("0,(1:3)x2*0.5,3", "window")
    ]
    assert grid.folded == (("base", "window"),)


@pytest.mark.parametrize("beta", [0, 0.0, 1e-10, float("nan"), float("inf"), [], "0.5", [0.5, 0]])
def test_a_damping_that_no_plan_can_have_is_refused(beta):
    with pytest.raises(ValidationError):
        Windows(length=2, beta=beta)


@pytest.mark.parametrize(
    ("generator", "fault"),
    [
        (Windows(length=5), "length 5: the model has 4"),
        (Windows(length=2, start=4), "start 4: the model has 4 layers, 0 to 3"),
        (Windows(length=2, times=0), "times must be 1 or more"),
        (Windows(length=4, times=2501), "would run 10,004 layers"),
    ],
)
def test_what_a_model_cannot_run_is_refused_with_its_place(generator, fault):
    with pytest.raises(UserError, match=fault) as error:
        expand([generator], 4)
    assert str(error.value).startswith("config: plans.0 (window): ")


@pytest.mark.parametrize("window", [(2, 5, 3, 0.5), (0, 3, 1, 0.5), (4, 8, 2, -0.25)])
def test_controls_of_a_window_are_the_same_window_at_other_places(window):
    start, stop, times, beta = window
    controls = equal_cost_controls(Window(*window).plan(8), count=10, seed=1)
    others = {s for s in range(8 - (stop - start) + 1) if s != start}
    expected = {(s, s + stop - start, times, beta) for s in others}
    assert {control.window for control in controls} == expected


@pytest.mark.parametrize("text", ["0,(1:4)*0.5,4:8", "0:2,(0:3)x2*0.5,3:8", "0:4,(1@mlp,2)*2,4:8"])
def test_an_edit_has_the_whole_of_each_window(text):
    plan = parse(text, 8)
    start, stop, steps = plan.edit
    whole = parse("base", 8).steps
    assert (*whole[:start], *steps, *whole[stop:]) == plan.steps
    assert all(number + 1 >= step.span for number, step in enumerate(steps))
