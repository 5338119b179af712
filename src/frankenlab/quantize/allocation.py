"""Choose the option each linear layer is stored with, so that a model meets its bits per weight."""

import math
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch

from frankenlab.io.errors import UserError
from frankenlab.models.exl2.options import OPTIONS, Option
from frankenlab.models.shape import HEAD, ModelShape

# The linear layers whose outputs are added to the hidden states.
ADDED = ("o_proj", "down_proj")

# How far a model may be from the bits that are asked for, as a share.
TOLERANCE = 0.01
# States of the search: what it keeps for each part of the budget. A hundredth of it, the
# tolerance, is 20 states wide.
BUCKETS = 2048


def choose_options(
    shape: ModelShape, measured: Mapping[str, Any], bits: float
) -> dict[str, Option]:
    """Return the option of each linear layer of the decoder that changes its hidden states least.

    That change is known for the layers that are added to them (o_proj, down_proj). A relative
    error before is taken to change what is added by as much.

    Args:
        measured: by name, `energy` and `errors` by option.
        bits: bits per weight asked for.

    Raises:
        UserError: see `allocate`.
    """
    names = [name for name in shape.linears if name != HEAD]
    sizes = [[option.size(*shape.linears[name]) for option in OPTIONS] for name in names]
    errors = []
    for name in names:
        parent = name.rpartition(".")[0]
        added = next(n for n in (f"{parent}.{last}" for last in ADDED) if n in measured)
        share = measured[added]["energy"] / (measured[name]["energy"] or 1.0)
        errors.append([error * share for error in measured[name]["errors"]])
    weights = sum(prod(shape.linears[name]) for name in names)
    chosen = allocate(sizes, errors, weights, bits)
    return {name: OPTIONS[number] for name, number in zip(names, chosen, strict=True)}


def allocate(
    sizes: Sequence[Sequence[int]],
    errors: Sequence[Sequence[float]],
    weights: int,
    bits: float,
) -> list[int]:
    """Choose an option for each layer: the least sum of errors within 0.99 to 1.00 of `bits`.

    A knapsack over exact sizes, solved by dynamic programming: of the choices whose sizes so far
    fall into one bucket, the one with the least error is kept. Choosing the least error below the
    budget alone could end far below it in a model of few layers.

    Args:
        sizes: bits on disk, [layers][options].
        errors: what is to be small, [layers][options].
        weights: number of weights in all layers.
        bits: bits per weight asked for.

    Returns:
        The number of the option of each layer.

    Raises:
        UserError: no choice meets the bits; the message says which bits are attainable.
    """
    table = torch.tensor(sizes, dtype=torch.int64)
    cost = torch.tensor(errors, dtype=torch.float64)
    budget, floor = int(bits * weights), math.ceil(bits * weights * (1 - TOLERANCE))
    still = _still_needed(table)
    size = torch.zeros(1, dtype=torch.int64)
    error = torch.zeros(1, dtype=torch.float64)
    history = []
    for layer in range(len(table)):
        size, error, parent, option = _extend(size, error, table[layer], cost[layer])
        kept = _best_per_bucket(size, error, budget - int(still[layer + 1]), budget)
        size, error = size[kept], error[kept]
        history.append((parent[kept], option[kept]))
    fits = (size >= floor).nonzero().flatten()
    if not len(fits):
        low, high = int(still[0]) / weights, int(table.max(1).values.sum()) / weights
        nearest = f"; the nearest below is {int(size.max()) / weights:.3f}" if len(size) else ""
        raise UserError(
            f"{bits} bits per weight: no choice for these shapes is within {TOLERANCE:.0%} of it"
            f"{nearest}; they allow {low:.3f} to {high:.3f}"
        )
    state = int(fits[error[fits].argmin()])
    chosen = []
    for parent, option in reversed(history):
        chosen.append(int(option[state]))
        state = int(parent[state])
    return chosen[::-1]


def _still_needed(sizes: torch.Tensor) -> torch.Tensor:
    """Return the least bits that each layer and those after it can take, [layers + 1]."""
    least = sizes.min(dim=1).values
    return torch.cat([least.flip(0).cumsum(0).flip(0), least.new_zeros(1)])


def _extend(
    size: torch.Tensor, error: torch.Tensor, sizes: torch.Tensor, errors: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return size, error, state before and option of every state with every option of a layer."""
    states, options = len(size), len(sizes)
    parent = torch.arange(states).repeat(options)
    option = torch.arange(options).repeat_interleave(states)
    return size[parent] + sizes[option], error[parent] + errors[option], parent, option


def _best_per_bucket(
    size: torch.Tensor, error: torch.Tensor, limit: int, budget: int
) -> torch.Tensor:
    """Return the numbers of the states below the limit with the least error of their bucket."""
    states = (size <= limit).nonzero().flatten()
    bucket = size[states] * BUCKETS // budget
    least = torch.full((BUCKETS + 1,), float("inf"), dtype=error.dtype)
    least.scatter_reduce_(0, bucket, error[states], "amin")
    best = error[states] == least[bucket]
    states, bucket = states[best], bucket[best]
    # Of equally good states the first is taken, on every run.
    order = bucket.argsort(stable=True)
    bucket = bucket[order]
    first = torch.ones_like(bucket, dtype=torch.bool)
    first[1:] = bucket[1:] != bucket[:-1]
    return states[order][first]
