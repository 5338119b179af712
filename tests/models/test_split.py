"""Layers on cards: each once, in their order, the fullest card as little full as can be."""

import random
from itertools import combinations_with_replacement, pairwise

import pytest

from frankenlab.models.split import cards_of_layers, fullest_card


def held(stops: tuple[int, ...], layers: list[int], before: int, after: int) -> int:
    """The bytes on the fullest card, if each ends at its stop."""
    parts = [sum(layers[start:stop]) for start, stop in pairwise((0, *stops, len(layers)))]
    parts[0] += before
    parts[-1] += after
    return max(parts)


@pytest.mark.parametrize("seed", range(40))
def test_no_other_split_has_a_fullest_card_that_is_less_full(seed):
    draw = random.Random(seed)
    layers = [draw.choice((3, 3, draw.randint(1, 20))) for _ in range(draw.randint(1, 7))]
    before, after, cards = draw.choice((0, 5, 40)), draw.choice((0, 7, 40)), draw.randint(1, 4)
    found = cards_of_layers(layers, before, after, cards)
    assert len(found) == len(layers) and list(found) == sorted(found)
    assert set(found) <= set(range(cards))
    every = combinations_with_replacement(range(len(layers) + 1), cards - 1)
    least = min(held(stops, layers, before, after) for stops in every)
    stops = tuple(sum(other < card for other in found) for card in range(1, cards))
    assert held(stops, layers, before, after) == least
    assert fullest_card(layers, before, after, cards) == least


def test_the_head_takes_the_place_of_a_layer():
    assert cards_of_layers([10] * 6, 0, 0, 2) == (0, 0, 0, 1, 1, 1)
    assert cards_of_layers([10] * 6, 0, 20, 2) == (0, 0, 0, 0, 1, 1)
    assert cards_of_layers([10] * 6, 20, 0, 2) == (0, 0, 1, 1, 1, 1)
    assert cards_of_layers([10] * 3, 5, 5, 1) == (0, 0, 0)
