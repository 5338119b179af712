"""Engines that tests put between the sweep and a real one, and what tests have engines do."""

from collections.abc import Sequence

import torch

from frankenlab.engines.batches import Batch, make_batch
from frankenlab.engines.protocol import Engine, walk
from frankenlab.engines.token_tree import TokenRequest, token_tree
from frankenlab.engines.torch import TorchEngine
from frankenlab.plans.plan import Plan

# A text.
TOKENS = torch.randint(2, 384, (60,), generator=torch.Generator().manual_seed(1)).tolist()


def tokens(seed: int, length: int) -> tuple[int, ...]:
    """Return random tokens of the tiny models' vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(2, 384, (length,), generator=generator).tolist())


# Documents as real tasks make them: choices of a question of which one begins another, one-token
# choices, one ending after two contexts, a long text alone, consecutive windows.
QUESTION, ENDING, TEXT = tokens(1, 20), tokens(2, 9), tokens(3, 150)
DOCUMENTS = [
    [TokenRequest(QUESTION, ENDING[:n]) for n in (9, 4, 1)] + [TokenRequest(QUESTION, (7, 8))],
    [TokenRequest(tokens(4, 11), (n,)) for n in (5, 6, 7)],
    [TokenRequest(tokens(5, 8) + tokens(n, 1 + n), ENDING) for n in (1, 2)],
    [TokenRequest(TEXT[:1], TEXT[1:])],
    [TokenRequest(TEXT[:1], TEXT[1:12]), TokenRequest(TEXT[11:12], TEXT[12:30])],
    [TokenRequest((3,), (4,))],
]


class Wrapped:
    """An engine that hands everything on; the base of the spies and saboteurs of the tests."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.layout = engine.layout
        self.n_layers = engine.n_layers
        self.device = engine.device

    def place(self, batch):
        return self.engine.place(batch)

    def embed(self, batch):
        return self.engine.embed(batch)

    def run(self, step, hidden, batch, start=None):
        return self.engine.run(step, hidden, batch, start)

    def finish(self, step, hidden, batch, start=None):
        return self.engine.finish(step, hidden, batch, start)

    def score(self, hidden, batch):
        return self.engine.score(hidden, batch)


def generate(engine: Engine, plan: Plan, prompt: Sequence[int], n_new: int) -> list[int]:
    """Return `n_new` greedily decoded tokens after a prompt of at least one token."""
    decoder = engine.decoder(plan, len(prompt) + max(n_new - 1, 0))
    logits = decoder.feed(prompt)
    tokens: list[int] = []
    for _ in range(n_new):
        tokens.append(int(logits.argmax()))
        if len(tokens) < n_new:
            logits = decoder.feed(tokens[-1:])
    return tokens


def one_document(tokens: Sequence[int]) -> Batch:
    """Return a batch of one text, whose tokens are all scored but for the first."""
    return make_batch([token_tree([TokenRequest((tokens[0],), tuple(tokens[1:]))])], [0])


@torch.inference_mode()
def hidden_states(engine: TorchEngine, plan: Plan, tokens=TOKENS) -> torch.Tensor:
    """Return the hidden state [tokens, hidden size] after the plan."""
    batch = engine.place(one_document([*tokens, 0]))
    *_, hidden = walk(engine, plan.steps, batch)
    return hidden[: len(tokens)]


def logprobs(engine: TorchEngine, plan: Plan) -> torch.Tensor:
    """Return the log-probabilities [tokens, vocabulary] of each next token."""
    with torch.inference_mode():
        return engine.logits(hidden_states(engine, plan)).log_softmax(-1)
