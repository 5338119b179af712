"""Greedy decoding.

Two runs of one layer see different hidden states, so they must not share keys and values: every
engine's decoder keeps a cache for every occurrence.
"""

from collections.abc import Sequence

from frankenlab.engines import Engine
from frankenlab.plans.plan import Plan


def generate(engine: Engine, plan: Plan, prompt: Sequence[int], n_new: int) -> list[int]:
    """`n_new` greedily decoded tokens after a prompt of at least one token."""
    decoder = engine.decoder(plan, len(prompt) + max(n_new - 1, 0))
    logits = decoder.feed(prompt)
    tokens: list[int] = []
    for _ in range(n_new):
        tokens.append(int(logits.argmax()))
        if len(tokens) < n_new:
            logits = decoder.feed(tokens[-1:])
    return tokens
