"""The head of any engine: from the last hidden states to the targets' log-probabilities."""

from collections.abc import Callable

import torch

from frankenlab.engines.batches import Batch

# Scored positions whose logits are in memory at once: 50 MB for a vocabulary of 50k in 16 bits.
# With fewer the head's matrix product is slower.
CHUNK = 512

# How many of them a CPU holds in float32 at once: so few that they stay in its cache while their
# highest value and the sum of their exponentials are found, which is four times faster.
CACHED_ROWS = 8


def score_targets(
    logits: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score the targets of a batch, running the head on a chunk of positions at a time.

    Args:
        logits: final norm and head, [positions, hidden size] -> [positions, vocabulary].
        hidden: [scored positions, hidden size], in the order of `batch.positions_scored`.

    Returns:
        float64 [targets] log-probabilities, and bool [targets] whether greedy decoding picks the
        target, both on the CPU.
    """
    order = torch.argsort(batch.target_positions, stable=True)
    positions = batch.target_positions[order]
    logprobs = torch.empty(len(order), dtype=torch.float64)
    greedy = torch.empty(len(order), dtype=torch.bool)
    for start in range(0, len(hidden), CHUNK):
        chunk = logits(hidden[start : start + CHUNK])
        low, high = torch.searchsorted(positions, torch.tensor([start, start + CHUNK])).tolist()
        where = order[low:high]
        local = (positions[low:high] - start).to(hidden.device)
        targets = batch.targets[where].to(hidden.device)
        highest, total = _reduced(chunk)
        found = chunk[local, targets].float()
        logprobs[where] = (found - total[local]).double().cpu()
        greedy[where] = _is_argmax(chunk, local, targets, found == highest[local]).cpu()
    return logprobs, greedy


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

    `is_highest` says which targets have the highest value of their row. Finding that value is ten
    times cheaper than finding its place, so the place is looked up for these only: another token
    may have the same value, and come first.
    """
    greedy = is_highest.clone()
    tied = greedy.nonzero()[:, 0]
    greedy[tied] = logits[rows[tied]].argmax(dim=-1) == targets[tied]
    return greedy
