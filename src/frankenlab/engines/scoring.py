"""Log-probabilities of the targets of a batch from its last hidden states: any engine's head."""

from collections.abc import Callable

import torch

from frankenlab.batches import Batch

# Scored positions whose logits are in memory at once: 100 MB of a 50k vocabulary. Fewer make the
# head's matrix product slower.
CHUNK = 512


def score_targets(
    logits: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the head at scored positions only, a chunk of them at a time.

    Args:
        logits: final norm and head, [positions, hidden size] -> [positions, vocabulary].
        hidden: [..., hidden size], the tokens of the batch in its order.

    Returns:
        float64 [targets] log-probabilities and bool [targets] whether greedy decoding picks the
        target, both on the CPU.
    """
    rows = hidden.reshape(-1, hidden.shape[-1])[batch.positions_scored.to(hidden.device)]
    order = torch.argsort(batch.target_positions, stable=True)
    positions = batch.target_positions[order]
    logprobs = torch.empty(len(order), dtype=torch.float64)
    greedy = torch.empty(len(order), dtype=torch.bool)
    for start in range(0, len(rows), CHUNK):
        chunk = logits(rows[start : start + CHUNK]).float()
        low, high = torch.searchsorted(positions, torch.tensor([start, start + CHUNK])).tolist()
        where = order[low:high]
        local = (positions[low:high] - start).to(hidden.device)
        targets = batch.targets[where].to(hidden.device)
        found = chunk[local, targets]
        scores = found - torch.logsumexp(chunk, dim=-1)[local]
        logprobs[where] = scores.double().cpu()
        greedy[where] = _is_argmax(chunk, local, targets, found).cpu()
    return logprobs, greedy


def _is_argmax(
    logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor, found: torch.Tensor
) -> torch.Tensor:
    """Whether logits[rows].argmax(-1) == targets, where `found` is logits[rows, targets].

    Finding the highest value is ten times cheaper than finding its place, so the place is looked
    up only for the targets that have that value: another token may have it too, and come first.
    """
    greedy = found == logits.amax(dim=-1)[rows]
    tied = greedy.nonzero()[:, 0]
    greedy[tied] = logits[rows[tied]].argmax(dim=-1) == targets[tied]
    return greedy
