"""Engines run a model one step at a time; the sweep does not know which one it has."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from frankenlab.engines.batches import Batch
from frankenlab.plans.plan import Plan, Step


class Decoder(Protocol):
    """A plan decoding one sequence, with a KV cache for every occurrence of a layer.

    Attributes:
        length: tokens read so far; capacity: most that it can read.
    """

    length: int
    capacity: int

    def feed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Reads tokens; logits [vocabulary] for the token that follows the last of them."""
        ...


class Engine(Protocol):
    """A model that can be run a step at a time.

    `DeviceBatch` is what the engine makes of a batch once (device copies, rotary tables, masks);
    hidden states are tensors of `hidden size` numbers a token, in the order of the batch.

    Attributes:
        token_trees: the engine takes batches of `make_batch`, else of `make_causal_batch`.
        vocabulary: number of token ids.
    """

    token_trees: bool
    n_layers: int
    vocabulary: int
    device: torch.device

    def place(self, batch: Batch) -> Any:
        """Moves a batch to the device and precomputes what all steps need."""
        ...

    def embed(self, placed: Any) -> torch.Tensor:
        """Hidden state before the first layer."""
        ...

    def run(self, step: Step, hidden: torch.Tensor, placed: Any) -> torch.Tensor:
        """Hidden state after one step. Does not change its input."""
        ...

    def finish(self, step: Step, hidden: torch.Tensor, placed: Any) -> torch.Tensor:
        """Hidden state after a plan's last step at scored positions only, [scored positions,
        hidden size]: what `run` gives there, without what nothing reads any more."""
        ...

    def score(self, hidden: torch.Tensor, placed: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Of what `finish` gives: (float64 [targets] log-probability, bool [targets] whether
        greedy decoding picks it)."""
        ...

    def decoder(self, plan: Plan, capacity: int) -> Decoder:
        """For one sequence of at most `capacity` tokens."""
        ...


def check_capacity(decoder: Decoder, new: int) -> None:
    """
    Raises:
        ValueError: `new` tokens more do not fit in the decoder's caches.
    """
    if decoder.length + new > decoder.capacity:
        raise ValueError(
            f"{decoder.length} tokens and {new} more; the caches hold {decoder.capacity}"
        )
