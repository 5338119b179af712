"""Measure what each layer does to the hidden state on a first and on a second pass.

The base runs over the prompts of some documents, and each of its layers a second time on its own
output. No answer is looked at: these numbers need no evaluation, and `analyse.prediction` asks how
well they tell what repeating a layer does to a task.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from frankenlab.config.experiment import PROBED_POSITIONS, TASKS_FOLDER
from frankenlab.engines.batches import MAKERS
from frankenlab.engines.cards import moved
from frankenlab.engines.protocol import Engine
from frankenlab.engines.token_tree import TokenRequest, token_tree
from frankenlab.evaluate.data import verify_data
from frankenlab.plans.plan import base
from frankenlab.plans.steps import PARTS, Step
from frankenlab.tasks.draws import DrawnTask
from frankenlab.tasks.encoding import Encoder
from frankenlab.tasks.index import TaskSettings

# A prompt is cut at so many tokens, as CircuitProbe cuts its texts.
MOST_TOKENS = 512
# A batch has so many tokens, as all states of the base are in memory at once.
BATCH_TOKENS = 1024
# The effective rank of fewer examples than this says nothing.
LEAST_EXAMPLES = 5


def probe_task(
    engine: Engine, encoder: Encoder, settings: TaskSettings, count: int, draw: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Probe a model with the prompts of the last `count` search documents of a task.

    A limit takes the first documents of the stage, so that the effects of plans are measured on
    others wherever the task has enough of them.

    Returns:
        `probe`'s tables, and one of the documents' numbers.

    Raises:
        UserError: as `EvaluationTask` and `Encoder.encode`.
    """
    verify_data(settings)
    task = DrawnTask(settings, TASKS_FOLDER, draw)
    documents = task.documents(task.indices("search")[-count:])
    first = [encoder.encode(document, task.rolling)[0][0] for document in documents]
    prompts = [r.context + r.continuation if task.rolling else r.context for r in first]
    layers, similarity = probe(engine, [prompt[-MOST_TOKENS:] for prompt in prompts])
    return layers, similarity, pd.DataFrame({"document": [each.index for each in documents]})


def probe(engine: Engine, prompts: Sequence[Sequence[int]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run the base over prompts, and each layer a second time on its own output.

    Args:
        prompts: the token ids of each.

    Returns:
        A table with a row for each layer, and one with a row for each pair of states (state 0 is
        the embedding, state s that after s layers).

        Of the first: `first_<part>` and `second_<part>` are the size of what a part ("block",
        "attn", "mlp") adds to the state, relative to the state, on the first pass and on the second
        one, medians over tokens. `turn_<part>` is the cosine between the two additions (NaN where
        one is nothing), and `cosine` that between the layer's input and output, means over tokens.
        `kl` is the mean divergence, in nats, of the next token's distribution with the layer
        repeated from the base's, at up to `PROBED_POSITIONS` places of each prompt. The rest is
        what CircuitProbe (Panuganti 2026) makes its scores of, from means over the tokens of each
        prompt: `change`, the norm of output minus input; `self_similarity`, their cosine;
        `variance` of the outputs over the prompts, a mean over the dimensions; `rank`, the
        effective rank (the exponential of the entropy of the normalized singular values) of the
        changes.

        Of the second: `cosine`, a mean over tokens, and `angle`, the mean angle over the last
        tokens as a share of half a turn, the angular distance of Gromov et al. (2024).
    """
    sums = _Sums(engine.n_layers)
    with torch.inference_mode():
        for group in _groups(prompts):
            _probe_batch(engine, group, sums)
    return sums.layers(), sums.similarity()


def _groups(prompts: Iterable[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Yield prompts together as long as they fit `BATCH_TOKENS` with all padded to the longest."""
    group: list[Sequence[int]] = []
    for prompt in sorted(prompts, key=len):
        if group and len(prompt) * (len(group) + 1) > BATCH_TOKENS:
            yield group
            group = []
        group.append(prompt)
    if group:
        yield group


class _Sums:
    """What the batches add up to."""

    def __init__(self, n_layers: int) -> None:
        self.n_layers = n_layers
        self.numbers: list[dict[str, list[torch.Tensor]]] = [{} for _ in range(n_layers)]
        # Of each prompt, [states, states]: sums over its tokens, and at its last one.
        self.cosines: list[torch.Tensor] = []
        self.last: list[torch.Tensor] = []
        self.tokens = 0
        # Of each prompt the mean of each state, [states, hidden size].
        self.means: list[np.ndarray] = []

    def add(self, layer: int, **values: torch.Tensor) -> None:
        for name, value in values.items():
            self.numbers[layer].setdefault(name, []).append(value.cpu())

    def layers(self) -> pd.DataFrame:
        def sized(name: str) -> bool:
            return name.startswith(("first_", "second_"))

        means = np.stack(self.means)
        table = pd.DataFrame(
            {
                # A few tokens grow to many times their size in one layer (Sun et al. 2024).
                name: float(torch.cat(parts).median() if sized(name) else torch.cat(parts).mean())
                for name, parts in own.items()
            }
            for own in self.numbers
        )
        table.insert(0, "layer", range(self.n_layers))
        return table.join(_examples(means))

    def similarity(self) -> pd.DataFrame:
        first, second = torch.triu_indices(self.n_layers + 1, self.n_layers + 1, 1)
        cosines = torch.stack(self.cosines).sum(0) / self.tokens
        angles = (torch.arccos(torch.stack(self.last).clamp(-1, 1)) / torch.pi).mean(0)
        found = {"cosine": cosines[first, second], "angle": angles[first, second]}
        pairs = pd.DataFrame({"first": first.numpy(), "second": second.numpy()})
        return pairs.assign(**{name: values.numpy() for name, values in found.items()})


@dataclass(frozen=True)
class _Prompts:
    """A batch on the device, and where its prompts' tokens are.

    Attributes:
        tokens: int64 [tokens]: places of all prompts' tokens in the batch, one prompt after the
            other.
        lengths: of each prompt.
        compared: int64: places at which the next token is predicted.
    """

    batch: Any
    tokens: torch.Tensor
    lengths: list[int]
    compared: torch.Tensor


def _place(engine: Engine, prompts: Sequence[Sequence[int]]) -> _Prompts:
    # A continuation's last token is only predicted and has no state, so there is one more.
    trees = [
        token_tree([TokenRequest(tuple(prompt[:1]), (*prompt[1:], prompt[-1]))])
        for prompt in prompts
    ]
    batch = MAKERS[engine.layout](trees, range(len(trees)))
    places = [batch.positions_scored[batch.target_positions[list(d[0])]] for d in batch.requests]
    spread = [
        np.linspace(len(p) - 1, 0, min(PROBED_POSITIONS, len(p)), endpoint=False) for p in places
    ]
    compared = [p[torch.from_numpy(s.astype(int))] for p, s in zip(places, spread, strict=True)]
    return _Prompts(
        engine.place(batch),
        torch.cat(places).to(engine.device),
        [len(p) for p in places],
        torch.cat(compared).to(engine.device),
    )


def _probe_batch(engine: Engine, prompts: Sequence[Sequence[int]], sums: _Sums) -> None:
    at = _place(engine, prompts)

    def own(hidden: torch.Tensor) -> torch.Tensor:
        """Return the prompts' tokens of a state, float32 [tokens, hidden size]."""
        return moved(hidden, at.tokens.device).reshape(-1, hidden.shape[-1])[at.tokens].float()

    def predicted(hidden: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities [compared, vocabulary] of the next tokens."""
        rows = moved(hidden, at.tokens.device).reshape(-1, hidden.shape[-1])[at.compared]
        return engine.logits(rows).float().log_softmax(-1)

    states = [engine.embed(at.batch)]
    for step in base(engine.n_layers).steps:
        states.append(engine.run(step, states[-1], at.batch))
    unchanged = predicted(states[-1])
    for layer in range(engine.n_layers):
        before, after = states[layer : layer + 2]
        half = engine.run(Step(layer, "attn"), before, at.batch)
        half_again = engine.run(Step(layer, "attn"), after, at.batch)
        again = engine.run(Step(layer, "mlp"), half_again, at.batch)
        sums.add(layer, **_updates(*map(own, (before, half, after, half_again, again))))
        for step in base(engine.n_layers).steps[layer + 1 :]:
            again = engine.run(step, again, at.batch)
        changed = predicted(again)
        sums.add(layer, kl=(unchanged.exp() * (unchanged - changed)).sum(-1))
    _compare_states(states, at, sums)


def _updates(
    before: torch.Tensor,
    half: torch.Tensor,
    after: torch.Tensor,
    half_again: torch.Tensor,
    again: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Return the numbers of a layer for each token, from the states between its parts."""
    ends = {
        "block": ((before, after), (after, again)),
        "attn": ((before, half), (after, half_again)),
        "mlp": ((half, after), (half_again, again)),
    }
    found = {}
    for part in PARTS:
        (start, stop), (start_again, stop_again) = ends[part]
        first, second = stop - start, stop_again - start_again
        found[f"first_{part}"] = first.norm(dim=-1) / start.norm(dim=-1)
        found[f"second_{part}"] = second.norm(dim=-1) / start_again.norm(dim=-1)
        found[f"turn_{part}"] = _cosine(first, second)
    return found | {"cosine": _cosine(before, after)}


def _cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the cosines [tokens]; NaN where a vector is nothing."""
    return (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))


def _compare_states(states: Sequence[torch.Tensor], at: _Prompts, sums: _Sums) -> None:
    """Add the cosines between all pairs of states, and each prompt's mean states."""
    device = at.tokens.device
    flat = [moved(state, device).reshape(-1, state.shape[-1]) for state in states]
    parts, means = [], []
    for places in at.tokens.split(at.lengths):
        own = torch.stack([state[places] for state in flat], dim=1).float()
        means.append(own.mean(0).cpu().numpy())
        unit = own / own.norm(dim=-1, keepdim=True)
        parts.append((unit @ unit.mT).cpu())
    sums.means += means
    sums.cosines += [part.sum(0).double() for part in parts]
    sums.last += [part[-1].double() for part in parts]
    sums.tokens += len(at.tokens)


def _examples(means: np.ndarray) -> pd.DataFrame:
    """Return CircuitProbe's statistics of each layer from [prompts, states, hidden size]."""
    means = means.astype(float)
    before, after = means[:, :-1], means[:, 1:]
    change = after - before
    size = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    return pd.DataFrame(
        {
            "change": np.linalg.norm(change, axis=-1).mean(axis=0),
            "self_similarity": ((before * after).sum(axis=-1) / size).mean(axis=0),
            "variance": after.var(axis=0).mean(axis=-1),
            "rank": [_effective_rank(own) for own in change.swapaxes(0, 1)],
        }
    )


def _effective_rank(rows: np.ndarray) -> float:
    """Return the effective rank of a matrix; 0 where it has too few rows or is nothing."""
    values = np.linalg.svd(rows, compute_uv=False)
    if len(rows) < LEAST_EXAMPLES or not values.any():
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
