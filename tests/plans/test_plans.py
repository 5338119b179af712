"""The plan grammar: every list of steps has one text, and every wrong text a clear refusal."""

import random
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from frankenlab.io.errors import UserError
from frankenlab.plans.plan import (
    Change,
    Plan,
    Window,
    base,
    from_steps,
    looped,
    omissions,
    parse,
)
from frankenlab.plans.steps import MAX_STEPS, PARTS, Step, canonical, damped


def blocks(*layers: int) -> tuple[Step, ...]:
    return tuple(map(Step, layers))


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("base", blocks(0, 1, 2, 3)),
        ("0:4", blocks(0, 1, 2, 3)),
        ("2", blocks(2)),
        ("0:3,1:4", blocks(0, 1, 2, 1, 2, 3)),
        ("1:3x2", blocks(1, 2, 1, 2)),
        ("3x3", blocks(3, 3, 3)),
        ("0,3,1", blocks(0, 3, 1)),
        (" 0:2 , 1 ", blocks(0, 1, 1)),
        ("1@attn", (Step(1, "attn"),)),
        ("1:3@mlp", (Step(1, "mlp"), Step(2, "mlp"))),
        ("1@block", blocks(1)),
        ("2*0.5", (Step(2, scale=0.5),)),
        ("2*-.5e1", (Step(2, scale=-5.0),)),
        ("1:3x2@attn*2", (Step(1, "attn", 2.0), Step(2, "attn", 2.0)) * 2),
        ("(1:3)x2*0.5", (Step(1), Step(2, scale=0.5, span=2)) * 2),
        (" 0, ( 1 , 3@mlp )*-2", (Step(0), Step(1), Step(3, "mlp", -2.0, 2))),
        ("1@attn,(1@mlp,2)*2", (Step(1, "attn"), Step(1, "mlp"), Step(2, scale=2.0, span=2))),
    ],
)
def test_a_text_means_its_steps(text, steps):
    assert parse(text, 4).steps == steps


@pytest.mark.parametrize(
    ("spellings", "canonical"),
    [
        (("base", "0:4", "0,1,2,3", "0:2,2:4", "0@attn,0@mlp,1:4", "0:4*1", " base "), "base"),
        (("0:3,1:4", "0,1:3,1:3,3", "0,1:3x2,3", "0:1,1:3x2,3:4"), "0:3,1:4"),
        (("1,1", "1x2", "1:2x2", "1@attn,1@mlp,1"), "1x2"),
        (("0:2,0:2", "0:2x2", "0,1,0,1"), "0:2x2"),
        (("1*0.50", "1*5e-1", "1*+.5"), "1*0.5"),
        (("1@attn,2@attn", "1:3@attn"), "1:3@attn"),
        (("1@attn,1@attn,1@mlp", "1@attn,1"), "1@attn,1"),
        (("0:1,(1,2)*0.5,(1:3)*.5,3", "0,(1@attn,1@mlp,2)x2*5e-1,3:4"), "0,(1:3)x2*0.5,3"),
        (("(1:3)x2", "(1:3)x2*1", "(1:3)*1,(1,2)", "1:3x2"), "1:3x2"),
        (("(1)x3*0.5", "(1@attn,1@mlp)x3*0.5", "1x3*0.5"), "1x3*0.5"),
        (("0:2,(2:4)*1", "(0:4)", "(0,1),(2,3)"), "base"),
        (("(0:2x2)*0.5", "(0,1,0:2)*0.5"), "(0:2x2)*0.5"),
        (("(0,1@attn)*0.5,1@mlp",), "(0,1@attn)*0.5,1@mlp"),
    ],
)
def test_every_spelling_of_the_same_steps_is_one_plan(spellings, canonical):
    plans = {parse(text, 4) for text in spellings}
    assert len(plans) == 1
    (plan,) = plans
    assert plan.text == str(plan) == canonical


@pytest.mark.parametrize("text", ["1@mlp,1@attn", "1@attn*0.5,1@mlp*0.5", "1@attn,2@mlp"])
def test_only_attention_followed_by_the_same_layers_mlp_is_a_block(text):
    assert all(step.part != "block" for step in parse(text, 4).steps)


@pytest.mark.parametrize(
    ("text", "caret", "reason"),
    [
        ("", 0, "expected here"),
        ("0:2,,3", 4, "expected here"),
        ("0:2,", 4, "expected here"),
        ("bas", 0, "expected here"),
        ("-1", 0, "expected here"),
        ("0:2 3", 3, "unexpected text"),
        ("0:2-3", 3, "unexpected text"),
        ("1*2@attn", 3, "unexpected text"),
        ("1x", 1, "unexpected text"),
        ("1*nan", 1, "unexpected text"),
        ("0:2,4", 4, "4 is too large, at most 3"),
        ("0:2, 4:5", 5, "4 is too large, at most 3"),
        ("0:5", 2, "5 is too large, at most 4"),
        ("0:2,3:1", 6, "empty"),
        ("2:2", 2, "empty"),
        ("1x0", 2, "times must be 1 or more"),
        ("1@mpl", 2, "block, attn, mlp"),
        ("0,1*0", 4, "finite and not 0"),
        ("1*1e999", 2, "finite and not 0"),
        ("1*-0", 2, "finite and not 0"),
        ("1*1e-320", 2, "in size from 1e-09 to 1e+06"),
        ("1*-1e7", 2, "in size from 1e-09 to 1e+06"),
        ("0:4x2501", 4, "at most 10,000 layers"),
        ("0x999999999", 2, "at most 10,000 layers"),
        ("1,0:4x2500", 6, "at most 10,000 layers"),
        ("1x9999,1,1", 9, "at most 10,000 layers"),
        ("٣", 0, "expected here"),
        ("0:٣", 1, "unexpected text"),
        ("1x٣", 1, "unexpected text"),
        ("1*٣", 1, "unexpected text"),
        ("²", 0, "expected here"),
        ("0,(1:3", 2, "never closed"),
        ("(1:3,0)x2)", 9, "unexpected text"),
        ("(0,(1:3)*2)*3", 3, "no window stands inside another"),
        ("((1:3)x2,0)*2", 1, "no window stands inside another"),
        ("0,()*2", 3, "expected here"),
        ("(0, 1*0.5)x2", 5, "no scale stands inside a window"),
        ("(1:3)@attn", 5, "unexpected text"),
        ("(1:3)*2x2", 7, "unexpected text"),
        ("0(1:3)", 1, "unexpected text"),
        ("(0,1:5)*2", 5, "5 is too large, at most 4"),
        ("(1:3)x0*2", 6, "times must be 1 or more"),
        ("(1:3)*0", 6, "finite and not 0"),
        ("0,(0:4)x2500*2", 8, "at most 10,000 layers"),
    ],
)
def test_a_wrong_plan_is_refused_with_a_caret_under_the_fault(text, caret, reason):
    with pytest.raises(UserError) as error:
        parse(text, 4)
    message, repeated, pointer = str(error.value).split("\n")
    assert message.startswith(f'plan "{text}": ') and reason in message
    assert "4 layers, 0 to 3" in message
    assert repeated == f"  {text}" and pointer == f"  {' ' * caret}^"


def random_steps(generator: random.Random, n_layers: int) -> list[Step]:
    """Steps of which neighbours are often equal or consecutive, where the text folds them."""
    steps: list[Step] = []
    for _ in range(generator.randrange(1, 12)):
        fresh = Step(
            generator.randrange(n_layers),
            generator.choice(PARTS),
            generator.choice([1.0, 1.0, 0.5, -2.0, 1e-7, 1 / 3]),
        )
        before = steps[-1] if steps else fresh
        following = Step(min(before.layer + 1, n_layers - 1), before.part, before.scale)
        steps.append(generator.choice([fresh, before, following]))
    return steps


@pytest.mark.parametrize("seed", range(300))
def test_any_steps_survive_the_way_through_their_text(seed):
    generator = random.Random(seed)
    n_layers = generator.randrange(1, 7)
    plan = from_steps(random_steps(generator, n_layers), n_layers)
    again = parse(plan.text, n_layers)
    assert again == plan and again.text == plan.text and again.key == plan.key


layers, parts = st.integers(0, 3), st.sampled_from(PARTS)
plain = st.lists(st.builds(Step, layers, parts), min_size=1, max_size=4)
scaled = st.builds(
    lambda *given: [Step(*given)], layers, parts, st.sampled_from([0.5, -2.0, 1 / 3])
)
windows = st.builds(
    lambda steps, scale, times: [*damped(canonical(steps), scale)] * times,
    plain,
    st.sampled_from([1.0, 0.5, -2.0, 1 / 3]),
    st.integers(1, 3),
)


@given(st.lists(st.one_of(plain, scaled, windows), min_size=1, max_size=5))
def test_any_steps_and_windows_survive_the_way_through_their_text(items):
    plan = from_steps([step for item in items for step in item], 4)
    again = parse(plan.text, 4)
    assert again == plan and again.text == plan.text and again.key == plan.key
    assert from_steps(plan.steps, 4) == plan
    assert plan.depth == sum(step.depth for item in items for step in item)


@pytest.mark.parametrize(
    "steps",
    [
        [Step(0), Step(1, scale=0.5, span=3)],
        [Step(0, scale=0.5), Step(1, scale=0.5, span=2)],
        [Step(0), Step(1, scale=0.5, span=2), Step(2, scale=0.5, span=3)],
        [Step(0), Step(1, span=2)],
    ],
)
def test_steps_that_are_no_window_are_a_programming_error(steps):
    with pytest.raises(ValueError, match="ends no window"):
        from_steps(steps, 4)


def test_every_window_is_recognized():
    found = 0
    for start, stop, times, beta in product(range(4), range(1, 5), (1, 2, 3), (0.5, -2.0)):
        if start < stop:
            plan = Window(start, stop, times, beta).plan(4)
            assert plan.window == (start, stop, times, beta)
            assert plan.change is None and plan.depth == 4 + (stop - start) * (times - 1)
            found += 1
    assert found == 60


@pytest.mark.parametrize(
    "text",
    ["base", "0:3,1:4", "0,(1:3)*0.5,2:4", "0:3,(1:3)*0.5,3", "0,(1:3@attn)*0.5,1:4"]
    + ["0,(1:3)*0.5,(1:3)*0.25,3", "0:3*0.5,1:4", "(1:3)*0.5,3", "(0,2)*0.5,3"],
)
def test_plans_with_another_window_or_none_say_so(text):
    assert parse(text, 4).window is None


def test_a_window_that_is_not_damped_is_a_loop():
    assert Window(1, 3, 3, 1.0).plan(4) == looped(1, 3, 3, 4)


def test_a_window_of_too_many_layers_is_refused():
    with pytest.raises(UserError, match="would run 10,004 layers, at most 10,000 can be"):
        Window(0, 4, 2501, 0.5).plan(4)


def test_every_short_list_of_steps_has_a_text_of_its_own():
    alphabet = [Step(n, part, s) for n, part, s in product(range(2), PARTS, (1.0, 0.5))]
    plans = {
        from_steps(steps, 2) for length in (1, 2, 3) for steps in product(alphabet, repeat=length)
    }
    assert len(plans) > 1000
    assert len({plan.text for plan in plans}) == len(plans)


def loops(plan: Plan) -> set[tuple[int, int, int]]:
    """By trying all of them."""
    n = plan.n_layers
    return {
        (start, stop, times)
        for start in range(n)
        for stop in range(start + 1, n + 1)
        for times in range(2, 5)
        if looped(start, stop, times, n) == plan
    }


def test_every_loop_is_recognized():
    found = 0
    for start, stop, times in product(range(5), range(1, 6), (2, 3, 4)):
        if start < stop:
            assert looped(start, stop, times, 5).loop == (start, stop, times)
            found += 1
    assert found == 45


@pytest.mark.parametrize("seed", range(200))
def test_nothing_else_is_taken_for_a_loop(seed):
    generator = random.Random(seed)
    n = generator.randrange(2, 6)
    layers = [step.layer for step in looped(generator.randrange(n), n, 2, n).steps]
    for _ in range(generator.randrange(3)):
        layers[generator.randrange(len(layers))] = generator.randrange(n)
    plan = from_steps(map(Step, layers), n)
    assert {plan.loop} - {None} == loops(plan)


@pytest.mark.parametrize("text", ["base", "0:3,1:3@attn,3", "0:3*0.5,1:4", "0:3", "0,2,1,3"])
def test_plans_that_loop_no_block_say_so(text):
    assert parse(text, 4).loop is None


@given(
    st.integers(0, 4),
    st.integers(1, 5),
    st.integers(0, 4),
    st.sampled_from(PARTS),
    st.sampled_from([1.0, 0.5, -2.0]),
    st.booleans(),
)
def test_every_change_of_one_range_is_recognized(start, length, times, part, scale, in_place):
    change = Change(start, min(start + length, 5), times, part, scale if times else 1.0)
    assume(times != 1 and (times or part != "block" or change[:2] != (0, 5)))
    # The runs of one layer, or of its MLP, follow each other anyway.
    several = change.stop > change.start + 1 or part == "attn"
    change = change._replace(in_place=in_place and several and times > 1)
    plan = change.plan(5)
    assert plan.change == change
    assert from_steps(plan.steps, 5) == plan


@given(st.lists(st.builds(Step, st.integers(0, 3), st.sampled_from(PARTS)), min_size=1))
def test_a_change_gives_the_plan_back(steps):
    plan = from_steps(steps, 4)
    assert plan.change is None or plan.change.plan(4) == plan


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("base", None),
        ("0:3,1:4", (1, 3, 2, "block", 1, False)),
        ("0:3,1:3x2@attn*0.5,3", (1, 3, 3, "attn", 0.5, False)),
        ("0,2:4", (1, 2, 0, "block", 1, False)),
        ("0:2", (2, 4, 0, "block", 1, False)),
        ("0,1@mlp,2:4", (1, 2, 0, "attn", 1, False)),
        ("0,1@attn,1:4", (1, 2, 2, "attn", 1, True)),
        ("0,1x2,2x2,3", (1, 3, 2, "block", 1, True)),
        ("0:3,1:3@attn,2:4", None),
        ("0,1*0.5,2:4", None),
        ("0,2:4,3", None),
        ("1,0,2:4", None),
    ],
)
def test_a_change_says_which_range_runs_how_often(text, change):
    assert parse(text, 4).change == change


def test_a_part_counts_as_half_a_layer():
    assert base(4).depth == 4
    assert parse("0:4,1:3@attn,2@mlp,3*0.5", 4).depth == 6.5


def test_the_key_is_short_and_depends_on_plan_and_depth():
    keys = {base(4).key, base(5).key, parse("0:3", 4).key, parse("0:3", 5).key}
    assert len(keys) == 4
    assert all(len(key) == 8 and int(key, 16) >= 0 for key in keys)


def test_the_mlp_alone_needs_no_key_value_cache():
    assert [step.attends for step in parse("0,1@attn,2@mlp", 4).steps] == [True, True, False]


@pytest.mark.parametrize(
    "text", ["0:4x2500", "1x9999,1", "0" * 5000 + "1", "0x" + "0" * 5000 + "1"]
)
def test_what_is_large_but_allowed_is_taken(text):
    plan = parse(text, 4)
    assert len(plan.steps) in (1, MAX_STEPS) and parse(plan.text, 4) == plan


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("9" * 5000, "too large, at most 3"),
        ("0:" + "9" * 5000, "too large, at most 4"),
        ("0x" + "9" * 5000, "at most 10,000 layers"),
        ("0," * 10**6, "at most 10,000 layers"),
        ("1," * 2000 + "1@part", "unknown part"),
        ("1@" + "a" * 10**5, "unknown part"),
        ("1*" + "9" * 5000, "finite and not 0"),
    ],
)
def test_a_long_text_is_shown_around_its_fault(text, fault):
    with pytest.raises(UserError) as error:
        parse(text, 4)
    message, shown, caret = str(error.value).split("\n")
    assert fault in message and len(message) < 350 and len(shown) <= len("  ......") + 80
    assert len(caret) <= len(shown)


def test_the_caret_of_a_long_text_is_under_its_fault():
    with pytest.raises(UserError) as error:
        parse("1," * 2000 + "2@part" + ",1" * 2000, 4)
    _, shown, caret = str(error.value).split("\n")
    assert shown[caret.index("^") :].startswith("part,1,1")


@pytest.mark.parametrize("text", ["0:2\n,9", "0:2,\ud8009", "\x00", "\x1b[31m"])
def test_what_no_terminal_shows_is_not_printed(text):
    with pytest.raises(UserError) as error:
        parse(text, 4)
    lines = str(error.value).split("\n")
    assert len(lines) == 3 and all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base", ""),
        ("0:3,1:4", ""),
        ("3,0:4", ""),
        ("0:4,3@mlp", ""),
        ("0:3@attn,0:3@mlp,3", ""),
        ("0:3", "never runs the layer 3 and ends with layer 2"),
        ("0,3", "never runs the layers 1:3"),
        ("1:4", "never runs the layer 0"),
        ("0:4,2", "ends with layer 2"),
        ("0,2,3@attn", "never runs the layer 1 and never runs the MLP of layer 3"),
        ("0:3@mlp,3", "never runs the attention of layers 0:3"),
        ("0,(1:3)x2*0.5,3", ""),
        ("(0:2@attn)*0.5,1:4", "never runs the MLP of layer 0"),
    ],
)
def test_a_plan_says_what_it_leaves_out(text, words):
    said = omissions(parse(text, 4))
    assert said == (f"{words} (the model has 4 layers, 0 to 3)" if words else "")


def test_a_plan_of_a_smaller_model_says_so():
    assert omissions(parse("0:20,10:30", 32)).startswith(
        "never runs the layers 30:32 and ends with layer 29 (the model has 32 layers"
    )
