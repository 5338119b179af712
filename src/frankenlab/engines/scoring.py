"""Log-probabilities of the targets of a batch from its last hidden states: any engine's head."""

from collections.abc import Callable

import torch

from frankenlab.batches import Batch

# Scored positions whose logits are in memory at once. On a CPU 128 rows of a 50k vocabulary stay
# in its last-level cache; a GPU wants fewer and larger products.
CPU_CHUNK, GPU_CHUNK = 128, 1024


def score_targets(
    logits: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the head at scored positions only, a chunk of them at a time.

    Args:
        logits: final norm and head, [positions, hidden size] -> [positions, vocabulary].
        hidden: [rows, length, hidden size].

    Returns:
        float64 [targets] log-probabilities and bool [targets] whether greedy decoding picks the
        target, both on the CPU.
    """
    rows = hidden.flatten(0, 1)[batch.positions_scored.to(hidden.device)]
    order = torch.argsort(batch.target_positions, stable=True)
    positions = batch.target_positions[order]
    logprobs = torch.empty(len(order), dtype=torch.float64)
    greedy = torch.empty(len(order), dtype=torch.bool)
    chunk_rows = CPU_CHUNK if hidden.device.type == "cpu" else GPU_CHUNK
    for start in range(0, len(rows), chunk_rows):
        chunk = logits(rows[start : start + chunk_rows]).float()
        low, high = torch.searchsorted(
            positions, torch.tensor([start, start + chunk_rows])
        ).tolist()
        where = order[low:high]
        local = (positions[low:high] - start).to(hidden.device)
        targets = batch.targets[where].to(hidden.device)
        normalizer = torch.logsumexp(chunk, dim=-1)
        scores = chunk[local, targets] - normalizer[local]
        logprobs[where] = scores.double().cpu()
        greedy[where] = (chunk.argmax(dim=-1)[local] == targets).cpu()
    return logprobs, greedy
