"""New plans that are grown from the best ones."""

import pytest

from frankenlab.plans.growth import grow
from frankenlab.plans.plan import Plan, base, parse

LAYERS = 12


def plans(*texts: str) -> list[Plan]:
    return [parse(text, LAYERS) for text in texts]


def grown(*ranked: str, width: int = 4, most: int = 100) -> list[str]:
    found = plans(*ranked)
    return [child.plan.text for child in grow(found, found, width, most)]


def test_a_block_gives_its_attention_and_its_mlp():
    assert grown("0:6,4:12") == ["0:6,4:6@attn,6:12", "0:6,4:6@mlp,6:12"]
    assert grown("0:6,4:6x2@attn,6:12") == []


def test_good_plans_are_joined_where_their_layers_do_not_overlap():
    near = grown("0:6,4:12", "0:7,5:12", "0:9,8:12", most=100)
    assert "0:6,4:9,8:12" in near and "0:7,5:9,8:12" in near
    # Layers 4 to 6 would run again from both.
    assert len([text for text in near if "@" not in text]) == 2


def test_the_best_take_turns_and_there_are_no_more_than_asked():
    first, second = "0:6,4:12", "0:9,8:12"
    assert grown(first, second, most=3) == [
        "0:6,4:6@attn,6:12",
        "0:9,8@attn,9:12",
        "0:6,4:6@mlp,6:12",
    ]
    assert all("4:6@" not in text for text in grown(second, first, width=1))


def test_two_blocks_grow_a_third_and_vary_one_by_one():
    found = grown("0:3,2:6,5:12", "0:9,8:12", width=1)
    assert "0:3,2:6,5:9,8:12" in found
    assert "0:3,2@attn,3:6,5:12" in found and "0:3,2:6,5@mlp,6:12" in found


def test_what_was_looked_at_is_not_made_again():
    found = plans("0:6,4:12", "0:9,8:12")
    known = [*found, *plans("0:6,4:6@attn,6:12")]
    texts = [child.plan.text for child in grow(found, known, 4, 100)]
    assert "0:6,4:6@attn,6:12" not in texts and len(texts) == len(set(texts)) == 4


@pytest.mark.parametrize("text", ["base", "0:4,(4:6)x2*0.5,6:12", "0:4,5,4,6:12"])
def test_plans_that_are_no_repeated_ranges_have_no_children(text: str):
    assert grown(text, "0:9,8:12", width=1) == grown("0:9,8:12")


def test_children_know_what_they_are_of_and_are_canonical():
    ranked = plans("0:6,4:6x2@mlp*0.5,6:12", "0:9,8:12", "0:2,3:12", "0:4,3,3:12")
    for _ in range(2):
        children = grow(ranked, ranked, 10, 1000)
        ranked = [*ranked, *(child.plan for child in children)]
    assert len(children) > 20
    for child in children:
        assert parse(child.plan.text, LAYERS) == child.plan != base(LAYERS)
        assert child.parent in ranked and (child.other is None or child.other in ranked)
