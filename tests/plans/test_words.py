"""Plans in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frankenlab.plans.plan import from_steps, parse
from frankenlab.plans.steps import Step
from frankenlab.plans.words import layer_counts, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base", "the unmodified model"),
        ("0:24,23:30", "layer 23 twice"),
        ("0:20,10:30", "layers 10–19 twice"),
        ("0:12,12:15x3,15:30", "layers 12–14 three times"),
        ("0x12,1:30", "layer 0 12 times"),
        ("0:3,3x2,4:9,9x2,10:30", "each of layers 3 and 9 twice"),
        ("0:10,8:10@attn,10:30", "the attention of layers 8–9 twice"),
        ("0:5,4@mlp,5:30", "the MLP of layer 4 twice"),
        (
            "0:4,3@attn,4:14,13@mlp,14:24",
            "the attention of layer 3 twice and the MLP of layer 13 twice, without layers 24–29",
        ),
        ("0:24,6:20", "layers 6–19 twice, without layers 24–29"),
        ("0:5,7:30", "without layers 5–6"),
        ("0:5,5@mlp,6:30", "without the attention of layer 5"),
        ("0:20,10:20*0.5,20:30", "layers 10–19 twice, with updates scaled by 0.5 where it repeats"),
        ("0:20,10:20x2@attn,20:30", "the attention of layers 10–19 three times"),
        ("0:5,5x2@attn,5:30", "the attention of layer 5 three times before its MLP"),
        ("0:5,5@attn,5,6@attn,6:30", "the attention of each of layers 5–6 twice before its MLP"),
        ("0:6,5@attn,6:16,15@attn,16:30", "the attention of each of layers 5 and 15 twice"),
        ("0:5,3:12,8:30", "layers 3–4 and 8–11 twice"),
        ("0:5,3:7,5:30", "layers 3–4 and 5–6 twice"),
        ("0:5,3:7,6:12,8:30", "layers 3–4, 6 and 8–11 twice"),
        ("0:2,1:6,7:30", "layer 1 twice, without layer 6"),
        ("0:4,5,4,6:30", "layers 4 and 5 swapped"),
        ("0:4,6:8,4:6,8:30", "layers 4–5 and 6–7 swapped"),
        ("15:30,0:15", "layers 0–14 and 15–29 swapped"),
        ("0:4,7,6,5,4,8:30", "layers 4–7 in reverse order"),
        ("0:4,6,4,7,5,8:30", "layers 4–7 in another order"),
        ("0:4,4@mlp,4@attn,5:30", "31 steps in another order"),
        ("0:10,(10:14)x3*0.5,14:30", "layers 10–13 three times, each pass damped by 0.5"),
        ("0:10,10x2*0.5,11:30", "layer 10 twice, each pass damped by 0.5"),
        ("0:10,(10:13)*0.3333333333333333,13:30", "layers 10–12 once, damped by 0.333"),
        ("0:14,(10:14)*0.5,14:30", "layers 10–13 twice, with windows damped by 0.5"),
        ("0:10,(10:14)*0.5,(14:18)*2,18:30", "each layer once, with damped windows"),
    ],
)
def test_a_plan_is_said_in_words(text, expected):
    assert words(parse(text, 30)) == expected


steps = st.builds(Step, st.integers(0, 7), st.sampled_from(["block", "attn", "mlp"]))


@given(st.lists(steps, min_size=1, max_size=30))
def test_every_plan_has_words_and_its_counts_add_up_to_its_depth(steps):
    plan = from_steps(steps, 8)
    assert words(plan)
    assert sum(layer_counts(plan)) == plan.depth
