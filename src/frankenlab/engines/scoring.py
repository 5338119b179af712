"""The head of any engine: from the last hidden states to the targets' log-probabilities."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

from frankenlab.engines.batches import Batch
from frankenlab.engines.transfers import to_device

# Scored positions whose logits are in memory at once: 50 MB for a vocabulary of 50k in 16 bits.
# With fewer the head's matrix product is slower.
CHUNK = 512

# How many of them a CPU holds in float32 at once: so few that they stay in its cache while their
# highest value and the sum of their exponentials are found, which is four times faster.
CACHED_ROWS = 8

Score = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Targets:
    """The scored targets of a batch, on the device, sorted by position and cut into chunks.

    Attributes:
        positions: int64 [scored positions]: see `Batch.positions_scored`.
        rows: int64 [targets]: place of each target's position in its chunk.
        tokens: int64 [targets]: token ids.
        places: int64 [targets]: where each target of the batch stands in the order of these.
        chunks: (start, stop) of each chunk's targets.
    """

    positions: torch.Tensor
    rows: torch.Tensor
    tokens: torch.Tensor
    places: torch.Tensor
    chunks: tuple[tuple[int, int], ...]


def place_targets(batch: Batch, device: torch.device) -> Targets:
    """Return what of a batch is scored, on the device."""
    order = torch.argsort(batch.target_positions, stable=True)
    positions = batch.target_positions[order]
    starts = torch.arange(0, len(batch.positions_scored) + CHUNK, CHUNK)
    bounds = torch.searchsorted(positions, starts).tolist()
    return Targets(
        positions=to_device(batch.positions_scored, device),
        rows=to_device(positions % CHUNK, device),
        tokens=to_device(batch.targets[order], device),
        places=to_device(torch.argsort(order), device),
        chunks=tuple(pairwise(bounds)),
    )


def score_targets(
    logits: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    targets: Targets,
    score: Score,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score the targets of a batch, running the head on a chunk of positions at a time.

    Nothing in it waits for a GPU.

    Args:
        logits: final norm and head, [positions, hidden size] -> [positions, vocabulary].
        hidden: [scored positions, hidden size], in the order of `Targets.positions`.
        score: `score_rows`, or what gives its results on a device.

    Returns:
        float64 [targets] log-probabilities, and bool [targets] whether greedy decoding picks the
        target, both in the batch's order and on the device.
    """
    logprobs = torch.empty(len(targets.tokens), dtype=torch.float64, device=hidden.device)
    greedy = torch.empty(len(targets.tokens), dtype=torch.bool, device=hidden.device)
    for part, (low, high) in zip(hidden.split(CHUNK), targets.chunks, strict=True):
        chunk = logits(part)
        rows, tokens = targets.rows[low:high], targets.tokens[low:high]
        logprobs[low:high], greedy[low:high] = score(chunk, rows, tokens)
    return logprobs[targets.places], greedy[targets.places]


def score_rows(
    logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score targets after the positions that the rows of logits are of.

    Args:
        logits: [positions, vocabulary].
        rows, targets: int64 [targets]: the row of each, and its token id.

    Returns:
        float32 [targets] log-probabilities, and bool [targets] whether the target is the first of
        its row's highest logits.
    """
    highest, total = _reduced(logits)
    found = logits[rows, targets].float()
    return found - total[rows], _is_argmax(logits, rows, targets, found == highest[rows])


def _reduced(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's highest value and the logarithm of its summed exponentials, in float32."""
    size = CACHED_ROWS if logits.device.type == "cpu" else len(logits)
    highest, total = [], []
    for block in logits.split(size):
        # A copy even of float32 logits: they are still needed, and the rest is done in place.
        values = block.to(torch.float32, copy=True)
        most = values.amax(dim=-1, keepdim=True)
        highest.append(most[:, 0])
        total.append((values.sub_(most).exp_().sum(dim=-1, keepdim=True).log_() + most)[:, 0])
    return torch.cat(highest), torch.cat(total)


def _is_argmax(
    logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor, is_highest: torch.Tensor
) -> torch.Tensor:
    """Return whether logits[rows].argmax(-1) == targets.

    `is_highest` says which targets have the highest value of their row. On a CPU, finding that
    value is ten times cheaper than finding its place, so the place is looked up for these only:
    another token may have the same value, and come first. To know which these are, the host would
    have to wait for a GPU, where both cost the same.
    """
    if logits.device.type != "cpu":
        return logits.argmax(dim=-1)[rows] == targets
    greedy = is_highest.clone()
    tied = greedy.nonzero()[:, 0]
    greedy[tied] = logits[rows[tied]].argmax(dim=-1) == targets[tied]
    return greedy
