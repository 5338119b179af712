"""Which GPU of several holds which layers of a model that is split over them."""

from bisect import bisect_left
from collections.abc import Sequence


def cards_of_layers(layers: Sequence[int], before: int, after: int, cards: int) -> tuple[int, ...]:
    """Return the card of each layer, 0 and up; no other split has a less full fullest card.

    A card holds layers that follow each other, or none. The last card may hold less than the
    others, which leaves it room for the logits.

    Args:
        layers: bytes of each layer.
        before: bytes that the first card has besides, of the embeddings.
        after: bytes that the last card has besides, of norm and head.
    """

    def filled(limit: int) -> tuple[int, ...] | None:
        """Return the cards if each takes as many layers as the limit allows, None if some are
        left."""
        found, card, held = [], 0, own[0]
        for size in layers:
            while held + size > limit:
                card += 1
                if card == cards:
                    return None
                held = own[card]
            held += size
            found.append(card)
        return tuple(found)

    own = [0] * cards
    own[0] += before
    own[-1] += after
    least, most = max(own), sum(own) + sum(layers)
    limit = least + bisect_left(range(least, most), True, key=lambda at: filled(at) is not None)
    found = filled(limit)
    assert found is not None, "one card has room for all layers"
    return found


def fullest_card(layers: Sequence[int], before: int, after: int, cards: int) -> int:
    """Return the bytes on the fullest card of this split."""
    held = [0] * cards
    held[0] += before
    held[-1] += after
    for card, size in zip(cards_of_layers(layers, before, after, cards), layers, strict=True):
        held[card] += size
    return max(held)
