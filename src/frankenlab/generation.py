"""Greedy decoding with a KV cache for every occurrence of a layer.

Two runs of one layer see different hidden states, so they must not share keys and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from frankenlab.engines.torch import KeyValues, TorchEngine
from frankenlab.plans import Plan


@dataclass
class Decoder:
    """A plan decoding one sequence.

    Attributes:
        caches: keys and values, one per step (unused for `mlp` steps).
        length: tokens seen so far.
    """

    engine: TorchEngine
    plan: Plan
    caches: list[KeyValues] = field(init=False)
    length: int = 0

    def __post_init__(self) -> None:
        self.caches = [KeyValues() for _ in self.plan.steps]

    def feed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Reads tokens; logits [vocabulary] for the token that follows the last of them."""
        new = len(tokens)
        positions = torch.arange(self.length, self.length + new)
        visible = torch.arange(self.length + new) <= positions[:, None]
        with torch.inference_mode():
            placed = self.engine.place_tokens(
                torch.tensor([list(tokens)]), positions[None], visible[None]
            )
            hidden = self.engine.embed(placed)
            for step, cache in zip(self.plan.steps, self.caches, strict=True):
                hidden = self.engine.run(step, hidden, placed, cache if step.attends else None)
            self.length += new
            return self.engine.logits(hidden[0, -1])


def generate(engine: TorchEngine, plan: Plan, prompt: Sequence[int], n_new: int) -> list[int]:
    """`n_new` greedily decoded tokens after a prompt of at least one token."""
    decoder = Decoder(engine, plan)
    logits = decoder.feed(prompt)
    tokens: list[int] = []
    for _ in range(n_new):
        tokens.append(int(logits.argmax()))
        if len(tokens) < n_new:
            logits = decoder.feed(tokens[-1:])
    return tokens
