"""The exllamav2 engine: EXL2 directories on CUDA, through exllamav2's modules one at a time.

A step runs the attention module of a layer, its MLP module, or both, as exllamav2's own forward
pass does (model.py, `forward_chunk`). Its kernels add to the hidden state in place, so each step
works on a copy, and they know no mask but the causal one, so batches are causal.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from frankenlab.engines.batches import Batch, Layout
from frankenlab.engines.devices import usable_device
from frankenlab.engines.exllamav2_loading import load
from frankenlab.engines.protocol import check_capacity, recent_states, state_before, walk
from frankenlab.engines.scoring import Targets, place_targets, score_targets
from frankenlab.io.errors import UserError
from frankenlab.models.directory import model_shape
from frankenlab.models.memory import pass_tokens
from frankenlab.plans.plan import Plan, base
from frankenlab.plans.steps import Step

# The activation kernel takes two blocks of 32 columns at a time and leaves an odd one out.
ACTIVATION_WIDTH = 64

# Pairs of tokens that the check of causality compares.
CAUSAL_PAIRS = 8
# How much a later token may change the logits of an earlier one, plus this share of the change in
# the other direction: kernels add in no fixed order, in float16.
CAUSAL_NOISE, CAUSAL_SHARE = 0.02, 0.25


@dataclass
class DeviceBatch:
    """Rows of tokens, on the CPU, where exllamav2 has its embeddings.

    Attributes:
        tokens: int64 [rows, length].
        past: tokens of each row that a cache holds.
        targets: None for tokens that are not to be scored.
        params: exllamav2's attention parameters, by the number of rows of a pass.
    """

    tokens: torch.Tensor
    past: int = 0
    targets: Targets | None = None
    params: dict[int, Any] = field(default_factory=dict)


class Exllamav2Engine:
    """The engine (see `protocol.Engine`) whose kernels dequantize weights as they are used.

    Args:
        directory: an EXL2 directory.
        device: "cuda" or "cuda:N".
        max_tokens: most tokens of a pass, padding included; larger batches take several passes.

    Raises:
        UserError: CUDA or exllamav2 is absent, exllamav2 does not run such a model, it does not
            fit, or the installed attention sees later tokens.
    """

    layout: Layout = "causal"
    precision = "float16"

    def __init__(
        self, directory: str | Path, device: str = "cuda:0", max_tokens: int = 8192
    ) -> None:
        if not device.startswith("cuda"):
            raise UserError(
                f'device "{device}": exllamav2 runs on CUDA only; engine torch reads EXL2 '
                "directories anywhere"
            )
        self.device = usable_device(device)
        self.directory, self.max_tokens = Path(directory), max_tokens
        self.model = load(self.directory, device, max_tokens)
        embedding, *layers, norm, head = self.model.modules
        self._embedding, self._norm, self._head = embedding, norm, head
        self._layers = list(zip(layers[::2], layers[1::2], strict=True))
        config = self.model.config
        self.n_layers: int = config.num_hidden_layers
        self.max_length: int = config.original_max_seq_len
        self.vocabulary: int = config.vocab_size
        self._mlp_kernel = config.intermediate_size % ACTIVATION_WIDTH == 0
        self._check_causal()

    def place(self, batch: Batch) -> DeviceBatch:
        """Return a causal batch as this engine takes it.

        Raises:
            UserError: a row is longer than a pass can take.
        """
        length = batch.tokens.shape[1]
        if length > self.max_tokens:
            raise UserError(
                f"{self.directory}: a text of {length} tokens; engine exllamav2 was loaded for "
                f"{self.max_tokens} at a time"
            )
        return DeviceBatch(batch.tokens, targets=place_targets(batch, self.device))

    def embed(self, batch: DeviceBatch) -> torch.Tensor:
        """Return the embeddings, float16 [rows, length, hidden size]."""
        with _surfacing_memory():
            _use_its_stream()
            return self._embedding.forward(batch.tokens).to(self.device)

    def run(
        self,
        step: Step,
        hidden: torch.Tensor,
        batch: DeviceBatch,
        start: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the hidden state after a step, in passes of as many rows as fit the buffers."""
        rows = max(self.max_tokens // hidden.shape[1], 1)
        attention = self._layers[step.layer][0]
        before = state_before(step, hidden, start)
        with _surfacing_memory():
            passes = [
                self._step(step, attention, h, batch, b)
                for h, b in zip(hidden.split(rows), before.split(rows), strict=True)
            ]
            return passes[0] if len(passes) == 1 else torch.cat(passes)

    def finish(
        self,
        step: Step,
        hidden: torch.Tensor,
        batch: DeviceBatch,
        start: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the scored positions after a step, which runs all: modules take whole rows."""
        assert batch.targets is not None, "place() a batch to score it"
        after = self.run(step, hidden, batch, start).flatten(0, 1)
        return after[batch.targets.positions]

    def score(self, hidden: torch.Tensor, batch: DeviceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the targets (see `score_targets`), given what `finish` returns."""
        assert batch.targets is not None, "place() a batch to score it"
        with _surfacing_memory():
            return score_targets(self.logits, hidden, batch.targets)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply the final norm and the head: [..., hidden size] -> float16 [..., vocabulary].

        The head is stored wider than the vocabulary.
        """
        return self._head.forward(self._norm.forward(hidden))[..., : self.vocabulary]

    def decoder(self, plan: Plan, capacity: int) -> "Exllamav2Decoder":
        """Return a decoder for one sequence of at most `capacity` tokens."""
        return Exllamav2Decoder(self, plan, capacity)

    def close(self) -> None:
        """Free the model's memory. The engine cannot be used afterwards."""
        self.model.unload()
        self._embedding = self._norm = self._head = None
        self._layers = []
        torch.cuda.empty_cache()

    def _step(
        self,
        step: Step,
        attention: Any,
        hidden: torch.Tensor,
        batch: DeviceBatch,
        before: torch.Tensor,
        cache: Any = None,
    ) -> torch.Tensor:
        """Run one pass.

        Args:
            attention: the layer's module, or a copy with a slot in the cache.
            before: the hidden state that the step's scale counts its update from.
        """
        from exllamav2.attn import ExLlamaV2Attention

        rows, length, _ = hidden.shape
        if rows not in batch.params:
            batch.params[rows] = ExLlamaV2Attention.Params(rows, length, batch.past, None, None)
        params = batch.params[rows]
        after = hidden.clone()
        if step.part != "mlp":
            after = attention.forward(after, cache=cache, attn_params=params, past_len=batch.past)
        if step.part != "attn":
            mlp = self._layers[step.layer][1]
            after = mlp.forward(after) if self._mlp_kernel else mlp.forward_torch(after)
        return after if step.scale == 1 else torch.lerp(before, after, step.scale)

    @torch.inference_mode()
    def _check_causal(self) -> None:
        """Check on rows of two tokens that the later one does not change the earlier one's logits.

        Raises:
            UserError: it does.
        """
        draw = torch.Generator().manual_seed(1)
        first, second, other = torch.randint(self.vocabulary, (3, CAUSAL_PAIRS), generator=draw)
        rows = [(first, second), (first, other), (other, second)]
        batch = DeviceBatch(torch.cat([torch.stack(pair, dim=1) for pair in rows]))
        *_, hidden = walk(self, base(self.n_layers).steps, batch)
        logits = self.logits(hidden.flatten(0, 1)).float().view(3, CAUSAL_PAIRS, 2, -1)
        forward = (logits[0, :, 0] - logits[1, :, 0]).abs().mean().item()
        backward = (logits[0, :, 1] - logits[2, :, 1]).abs().mean().item()
        # Not "greater than": NaN must not pass either.
        if not forward <= CAUSAL_NOISE + CAUSAL_SHARE * backward:
            raise UserError(
                f"{self.directory}: in exllamav2 as installed here a later token changes an "
                f"earlier one's logits (by {forward:.3g}, an earlier one those of a later one by "
                f"{backward:.3g}); every score would be wrong"
            )


class Exllamav2Decoder:
    """A decoder (see `protocol.Decoder`) on exllamav2's cache, with a slot for each attending step.

    The steps of a layer share its weights.
    """

    def __init__(self, engine: Exllamav2Engine, plan: Plan, capacity: int) -> None:
        if capacity > engine.max_length:
            raise UserError(
                f"{engine.directory}: {capacity} tokens to read and decode; its context is "
                f"{engine.max_length}"
            )
        self.engine, self.plan, self.capacity = engine, plan, capacity
        self.attentions: list[Any] = []
        slots = 0
        for step in plan.steps:
            attention = copy.copy(engine._layers[step.layer][0]) if step.attends else None
            if attention is not None:
                attention.layer_idx = slots
                slots += 1
            self.attentions.append(attention)
        with _surfacing_memory():
            _use_its_stream()
            self.cache = _cache(engine.model, slots, capacity, engine.device)

    @property
    def length(self) -> int:
        return self.cache.current_seq_len

    @torch.inference_mode()
    def feed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read tokens, as many at a time as fit exllamav2's buffers."""
        check_capacity(self, len(tokens))
        size = self.engine.max_tokens
        for start in range(0, len(tokens), size):
            hidden = self._read(tokens[start : start + size])
        with _surfacing_memory():
            return self.engine.logits(hidden[0, -1:])[0]

    def _read(self, tokens: Sequence[int]) -> torch.Tensor:
        batch = DeviceBatch(torch.tensor([list(tokens)]), past=self.length)
        states = recent_states(self.plan.steps, self.engine.embed(batch))
        with _surfacing_memory():
            for step, attention in zip(self.plan.steps, self.attentions, strict=True):
                hidden, before = states[-1], states[-step.span]
                states.append(self.engine._step(step, attention, hidden, batch, before, self.cache))
        self.cache.current_seq_len += len(tokens)
        return states[-1]


def _cache(model: Any, slots: int, capacity: int, device: torch.device) -> Any:
    """Return a cache of `slots` slots.

    exllamav2 makes as many as the model has layers, so the config says `slots` for the moment.
    """
    from exllamav2 import ExLlamaV2Cache

    # It hands the device on to torch, though it declares it as a number.
    where: Any = device
    layers, model.config.num_hidden_layers = model.config.num_hidden_layers, slots
    try:
        return ExLlamaV2Cache(model, max_seq_len=capacity, fixed_device=where)
    finally:
        model.config.num_hidden_layers = layers


def _use_its_stream() -> None:
    """Make this thread work on exllamav2's own CUDA stream from here on."""
    from exllamav2.device import set_device_streams

    set_device_streams()


@contextmanager
def _surfacing_memory() -> Iterator[None]:
    """Raise `torch.OutOfMemoryError` where exllamav2's extension or cuBLAS has only a text."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if "out of memory" in str(error) or "ALLOC_FAILED" in str(error):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


def make_engine(
    directory: str | Path, precision: str, device: str, token_budget: int
) -> Exllamav2Engine:
    """Return the engine for batches of `token_budget` tokens.

    Raises:
        UserError: as `Exllamav2Engine` and `check_precision`.
    """
    check_precision(precision)
    context = model_shape(directory).max_position_embeddings
    return Exllamav2Engine(directory, device, pass_tokens(token_budget, context))


def check_precision(precision: str) -> None:
    """Check that exllamav2 computes in a precision.

    Raises:
        UserError: it does not.
    """
    if precision != Exllamav2Engine.precision:
        raise UserError(
            f'precision "{precision}": engine exllamav2 computes in '
            f"{Exllamav2Engine.precision} only"
        )
