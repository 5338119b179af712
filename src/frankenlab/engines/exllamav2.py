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

from frankenlab.engines import check_capacity
from frankenlab.engines.batches import Batch
from frankenlab.engines.devices import usable_device
from frankenlab.engines.exllamav2_loading import load
from frankenlab.engines.scoring import score_targets
from frankenlab.io.errors import UserError
from frankenlab.models.directory import model_shape
from frankenlab.models.memory import pass_tokens
from frankenlab.plans.plan import Plan, Step, base

# The activation kernel takes two blocks of 32 columns at a time and leaves an odd one out.
ACTIVATION_WIDTH = 64

# Pairs of tokens that the check of causality compares.
CAUSAL_PAIRS = 8
# How much a later token may change the earlier one's logits, beside a share of what the earlier
# one changes in the later one's: kernels add in no fixed order, in float16.
CAUSAL_NOISE, CAUSAL_SHARE = 0.02, 0.25


@dataclass
class DeviceBatch:
    """Tokens (on the CPU, where exllamav2 has its embeddings) and attention parameters by the
    number of rows that a pass takes; `batch` is None for tokens that are not to be scored."""

    tokens: torch.Tensor
    past: int = 0
    batch: Batch | None = None
    params: dict[int, Any] = field(default_factory=dict)


class Exllamav2Engine:
    """See `frankenlab.engines.Engine`. Weights are dequantized by its kernels as they are used.

    Args:
        directory: an EXL2 directory.
        device: "cuda" or "cuda:N".
        max_tokens: tokens of a pass, padding counted; larger batches go in several.

    Raises:
        UserError: CUDA or exllamav2 is absent, exllamav2 does not run such a model, it does not
            fit, or the installed attention sees later tokens.
    """

    token_trees = False
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
        """Keeps the tokens of a causal batch.

        Raises:
            UserError: a row longer than a pass can take.
        """
        length = batch.tokens.shape[1]
        if length > self.max_tokens:
            raise UserError(
                f"{self.directory}: a text of {length} tokens; engine exllamav2 was loaded for "
                f"{self.max_tokens} at a time"
            )
        return DeviceBatch(batch.tokens, batch=batch)

    def embed(self, placed: DeviceBatch) -> torch.Tensor:
        """float16 [rows, length, hidden size]"""
        with _surfacing_memory():
            _use_its_stream()
            return self._embedding.forward(placed.tokens).to(self.device)

    def run(self, step: Step, hidden: torch.Tensor, placed: DeviceBatch) -> torch.Tensor:
        """As many rows at a time as fit exllamav2's buffers."""
        rows = max(self.max_tokens // hidden.shape[1], 1)
        attention = self._layers[step.layer][0]
        with _surfacing_memory():
            passes = [self._step(step, attention, h, placed) for h in hidden.split(rows)]
            return passes[0] if len(passes) == 1 else torch.cat(passes)

    def finish(self, step: Step, hidden: torch.Tensor, placed: DeviceBatch) -> torch.Tensor:
        """See `frankenlab.engines.Engine`. exllamav2's modules take whole rows, so all positions
        run."""
        assert placed.batch is not None, "place() a batch to score it"
        after = self.run(step, hidden, placed).flatten(0, 1)
        return after[placed.batch.positions_scored.to(after.device)]

    def score(self, hidden: torch.Tensor, placed: DeviceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `score_targets`; `hidden` is what `finish` gives."""
        assert placed.batch is not None, "place() a batch to score it"
        with _surfacing_memory():
            return score_targets(self.logits, hidden, placed.batch)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[positions, hidden size] -> float16 [positions, vocabulary]; the head is stored wider."""
        return self._head.forward(self._norm.forward(hidden))[..., : self.vocabulary]

    def decoder(self, plan: Plan, capacity: int) -> "Exllamav2Decoder":
        """For one sequence of at most `capacity` tokens."""
        return Exllamav2Decoder(self, plan, capacity)

    def close(self) -> None:
        """Frees the model's memory; the engine is of no use afterwards."""
        self.model.unload()
        self._embedding = self._norm = self._head = None
        self._layers = []
        torch.cuda.empty_cache()

    def _step(
        self,
        step: Step,
        attention: Any,
        hidden: torch.Tensor,
        placed: DeviceBatch,
        cache: Any = None,
    ) -> torch.Tensor:
        """One pass. `attention` is the layer's own module, or a copy with a slot in the cache."""
        from exllamav2.attn import ExLlamaV2Attention

        rows, length, _ = hidden.shape
        if rows not in placed.params:
            placed.params[rows] = ExLlamaV2Attention.Params(rows, length, placed.past, None, None)
        params = placed.params[rows]
        after = hidden.clone()
        if step.part != "mlp":
            after = attention.forward(after, cache=cache, attn_params=params, past_len=placed.past)
        if step.part != "attn":
            mlp = self._layers[step.layer][1]
            after = mlp.forward(after) if self._mlp_kernel else mlp.forward_torch(after)
        return after if step.scale == 1 else torch.lerp(hidden, after, step.scale)

    @torch.inference_mode()
    def _check_causal(self) -> None:
        """Rows of two tokens: the later one must not change the earlier one's logits."""
        draw = torch.Generator().manual_seed(1)
        first, second, other = torch.randint(self.vocabulary, (3, CAUSAL_PAIRS), generator=draw)
        rows = [(first, second), (first, other), (other, second)]
        placed = DeviceBatch(torch.cat([torch.stack(pair, dim=1) for pair in rows]))
        hidden = self.embed(placed)
        for step in base(self.n_layers).steps:
            hidden = self.run(step, hidden, placed)
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
    """See `frankenlab.engines.Decoder`. exllamav2's cache with a slot for every attending step;
    the steps of a layer share its weights."""

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
        """As many tokens at a time as fit exllamav2's buffers."""
        check_capacity(self, len(tokens))
        size = self.engine.max_tokens
        for start in range(0, len(tokens), size):
            hidden = self._read(tokens[start : start + size])
        with _surfacing_memory():
            return self.engine.logits(hidden[0, -1:])[0]

    def _read(self, tokens: Sequence[int]) -> torch.Tensor:
        placed = DeviceBatch(torch.tensor([list(tokens)]), past=self.length)
        hidden = self.engine.embed(placed)
        with _surfacing_memory():
            for step, attention in zip(self.plan.steps, self.attentions, strict=True):
                hidden = self.engine._step(step, attention, hidden, placed, self.cache)
        self.cache.current_seq_len += len(tokens)
        return hidden


def _cache(model: Any, slots: int, capacity: int, device: torch.device) -> Any:
    """exllamav2 makes as many slots as the model has layers, so it has `slots` for the moment."""
    from exllamav2 import ExLlamaV2Cache

    layers, model.config.num_hidden_layers = model.config.num_hidden_layers, slots
    try:
        return ExLlamaV2Cache(model, max_seq_len=capacity, fixed_device=device)
    finally:
        model.config.num_hidden_layers = layers


def _use_its_stream() -> None:
    """exllamav2 works on a CUDA stream of its own; so does, from here on, all of this thread."""
    from exllamav2.device import set_device_streams

    set_device_streams()


@contextmanager
def _surfacing_memory() -> Iterator[None]:
    """exllamav2's extension and cuBLAS tell a lack of memory by a text only."""
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
    """
    Raises:
        UserError: exllamav2 does not compute in it.
    """
    if precision != Exllamav2Engine.precision:
        raise UserError(
            f'precision "{precision}": engine exllamav2 computes in '
            f"{Exllamav2Engine.precision} only"
        )
