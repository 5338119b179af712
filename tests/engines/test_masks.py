"""Attention over long rows: the same scores, in memory that grows with the length only."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from frankenlab.engines import masks
from frankenlab.engines.batches import make_batch
from frankenlab.engines.token_tree import TokenRequest, token_tree
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate.sweep import arrived, sweep
from frankenlab.plans.plan import base
from frankenlab.plans.trie import plan_trie
from tests.support.models import parse_all


def tokens(seed: int, length: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(2, 384, (length,), generator=generator).tolist())


def text(length: int) -> list[TokenRequest]:
    return [TokenRequest((0,), tokens(length, length))]


def choices(seed: int, shots: tuple[int, ...] = ()) -> list[TokenRequest]:
    """Three choices, of which one begins another and two have one ending."""
    context, ending = (*shots, *tokens(seed, 5 + seed)), tokens(seed + 1, 4)
    return [
        TokenRequest(context, ending),
        TokenRequest(context, ending[:2]),
        TokenRequest(context[:-1], ending),
    ]


DOCUMENTS = {
    "text": [text(100)],
    "choices": [choices(seed) for seed in range(12)],
    "choices after shots": [choices(seed, tokens(99, 40)) for seed in range(12)],
    "long and short": [text(150), *(choices(seed) for seed in range(20)), text(3)],
}


def scores(engine: TorchEngine, documents: list[list[TokenRequest]]) -> list:
    batch = make_batch([token_tree(requests) for requests in documents], range(len(documents)))
    plans = parse_all(["base", "0:3,1:4"])
    found = [one for _, one in arrived(sweep(engine, plan_trie(plans), batch))]
    return [s.loglikelihood for plan in found for document in plan for s in document]


@pytest.mark.slow
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_few_tokens_at_a_time_see_what_all_at_once_do(tiny, monkeypatch, kind):
    engine = TorchEngine(tiny(), "float32")
    expected = scores(engine, DOCUMENTS[kind])
    for elements in (1, 3000, 20_000):
        monkeypatch.setattr(masks, "MASK_ELEMENTS", elements)
        assert scores(engine, DOCUMENTS[kind]) == pytest.approx(expected, abs=1e-3)


def test_a_few_tokens_at_a_time_are_decoded_alike(tiny, monkeypatch):
    engine, given = TorchEngine(tiny(), "float32"), tokens(1, 90)
    found = []
    for elements in (1 << 20, 500):
        monkeypatch.setattr(masks, "MASK_ELEMENTS", elements)
        decoder = engine.decoder(base(4), 90)
        found.append(torch.stack([decoder.feed(given[:30]), decoder.feed(given[30:])]))
    assert (found[0] - found[1]).abs().max() < 1e-4


@pytest.mark.parametrize("multiple", [1, 16])
def test_blocks_hold_every_token_once_and_end_at_multiples(monkeypatch, multiple):
    """The keys of every block are a multiple where those of the row are: it is faster."""
    monkeypatch.setattr(masks, "MASK_ELEMENTS", 2000)
    monkeypatch.setattr(masks, "KEY_MULTIPLE", multiple)
    ends = torch.arange(1, 58).repeat(3, 1)
    mask = masks.Mask(ends, torch.float32, padding=3, before=4)
    blocks = list(mask.blocks())
    order = [place for tokens, _ in blocks for place in range(tokens.start, tokens.stop)]
    assert order == list(range(57)) and len(blocks) > 3
    for tokens_, block in blocks:
        assert block.shape == (3, 1, tokens_.stop - tokens_.start, 7 + tokens_.stop)
        assert block.shape[-1] % multiple == 0 and (mask.keys == 64)
        assert block.numel() <= max(2000, 3 * multiple * 64)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() for x in tree_leaves(made) if torch.is_tensor(x)]
        self.bytes = max(self.bytes, *sizes, 0)
        return made


def largest(engine: TorchEngine, documents: list[list[TokenRequest]]) -> int:
    with Largest() as noted:
        scores(engine, documents)
    return noted.bytes


@pytest.mark.slow
@pytest.mark.parametrize("beside", [0, 40])
def test_memory_grows_with_the_length_and_not_with_its_square(tiny, monkeypatch, beside):
    """Also with many short documents beside the long one. With a mask of the whole row, bytes would
    be sixteen times as many for four times the length."""
    monkeypatch.setattr(masks, "MASK_ELEMENTS", 1 << 14)
    engine, others = TorchEngine(tiny(), "float32"), [choices(seed) for seed in range(beside)]
    lengths = (500, 2000)
    short, long = (largest(engine, [text(n), *others]) for n in lengths)
    assert long <= 4.2 * short
    assert long < 2000**2, "not even as many bytes as there are pairs of tokens"


@pytest.mark.slow
def test_memory_of_a_long_prompt_grows_with_its_length(tiny, monkeypatch):
    monkeypatch.setattr(masks, "MASK_ELEMENTS", 1 << 14)
    engine = TorchEngine(tiny(), "float32")
    with Largest() as noted:
        engine.decoder(base(4), 2000).feed(tokens(1, 2000))
    assert noted.bytes <= 2048 * 2 * 96 * 4
