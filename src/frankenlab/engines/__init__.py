"""Engines run a model one step at a time; the sweep does not know which one it has."""

from typing import Any, Protocol

import torch

from frankenlab.batches import Batch
from frankenlab.plans import Step


class Engine(Protocol):
    """A model that can be run a step at a time.

    `Placed` is whatever the engine makes of a batch once (device copies, rotary tables, masks);
    hidden states are tensors [rows, length, hidden size].
    """

    n_layers: int

    def place(self, batch: Batch) -> Any:
        """Moves a batch to the device and precomputes what all steps need."""
        ...

    def embed(self, placed: Any) -> torch.Tensor:
        """Hidden state before the first layer."""
        ...

    def run(self, step: Step, hidden: torch.Tensor, placed: Any) -> torch.Tensor:
        """Hidden state after one step. Does not change its input."""
        ...

    def score(self, hidden: torch.Tensor, placed: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(float64 [targets] log-probability, bool [targets] whether greedy decoding picks it)."""
        ...
