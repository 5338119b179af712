"""What every engine can do. The sweep knows an engine by this protocol only."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from frankenlab.engines.batches import Batch, Layout
from frankenlab.plans.plan import Plan
from frankenlab.plans.steps import Step


class Decoder(Protocol):
    """A plan that decodes one sequence.

    Two runs of one layer see different hidden states, so they must not share keys and values: a
    decoder has a KV cache for every occurrence of a layer.
    """

    @property
    def length(self) -> int:
        """Number of tokens read so far."""
        ...

    @property
    def capacity(self) -> int:
        """Most tokens that the caches hold."""
        ...

    def feed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read tokens; return the logits [vocabulary] of the token that follows the last."""
        ...


class Engine(Protocol):
    """A model that runs a step at a time.

    `DeviceBatch` below is each engine's own type: a batch on the device, with what every step
    needs (rotary tables, masks). Hidden states are tensors of `hidden size` numbers a token, in
    the order of the batch.

    Attributes:
        layout: of the batches that it takes (see `batches`).
        vocabulary: number of token ids.
        device: where the scores are made. Of a model that is split over GPUs it is the last one; a
            hidden state may be on any of them.

    On CUDA, none of the methods up to `score` waits for the device: it works through what they ask
    for while the host goes on.
    """

    n_layers: int
    vocabulary: int
    device: torch.device

    @property
    def layout(self) -> Layout: ...

    def place(self, batch: Batch) -> Any:
        """Return the batch on the device, a `DeviceBatch`."""
        ...

    def embed(self, batch: Any) -> torch.Tensor:
        """Return the hidden state before the first layer."""
        ...

    def run(
        self, step: Step, hidden: torch.Tensor, batch: Any, start: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the hidden state after one step, without changing `hidden`.

        Args:
            start: the hidden state before the first of the `step.span` steps that the step's scale
                damps together; by default `hidden`, which it is where `step.span` is 1.
        """
        ...

    def finish(
        self, step: Step, hidden: torch.Tensor, batch: Any, start: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run a plan's last step; return its result at the scored positions only.

        Args:
            start: as in `run`.

        Returns:
            [scored positions, hidden size], the same numbers as of `run` there.
        """
        ...

    def score(self, hidden: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the targets, given what `finish` returns.

        Returns:
            float64 [targets] log-probabilities, and bool [targets] whether greedy decoding picks
            the target, both on the device.
        """
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply the final norm and the head: [..., hidden size] -> [..., vocabulary]."""
        ...

    def decoder(self, plan: Plan, capacity: int) -> Decoder:
        """Return a decoder for one sequence of at most `capacity` tokens."""
        ...


def state_before(step: Step, hidden: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
    """Return the hidden state that a step's scale counts its update from (see `Engine.run`)."""
    before = hidden if step.span == 1 else start
    assert before is not None, "run() the last step of a window with the state before the window"
    return before


def recent_states(steps: Sequence[Step], hidden: torch.Tensor) -> "deque[torch.Tensor]":
    """Return a queue with the hidden state before the first of the steps, in which there is room
    for as many of the last states as any of the steps goes back."""
    return deque([hidden], maxlen=max((step.span for step in steps), default=1))


def walk(engine: Engine, steps: Sequence[Step], batch: Any) -> Iterator[torch.Tensor]:
    """Yield the hidden state before the first step and after each of the steps."""
    states = recent_states(steps, engine.embed(batch))
    yield states[-1]
    for step in steps:
        states.append(engine.run(step, states[-1], batch, states[-step.span]))
        yield states[-1]


def check_capacity(decoder: Decoder, new: int) -> None:
    """Check that `new` more tokens fit in the decoder's caches.

    Raises:
        ValueError: they do not.
    """
    if decoder.length + new > decoder.capacity:
        raise ValueError(
            f"{decoder.length} tokens and {new} more; the caches hold {decoder.capacity}"
        )
