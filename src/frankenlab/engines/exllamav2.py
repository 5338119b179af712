"""The exllamav2 engine: EXL2 directories on CUDA, whose weights stay quantized in memory.

Texts are scored by the torch engine's forward pass in float16, on weights that exllamav2 holds and
its kernel dequantizes, layer by layer (`exllamav2_weights`). exllamav2's own modules would do the
same products on dequantized weights, but they know no mask except the causal one, so they would
read a question once for each of its answers and the examples before it once for each question.

Decoding has a token at a time and is bound by the memory that weights are read from. There,
exllamav2's modules run one after the other as in its own forward pass (model.py, `forward_chunk`),
multiplying by the quantized weights.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from frankenlab.engines.batches import MAKERS, Batch, Layout
from frankenlab.engines.cards import moved, usable_devices
from frankenlab.engines.exllamav2_loading import load
from frankenlab.engines.exllamav2_modules import (
    make_cache,
    own_step,
    surfacing_memory,
    use_its_stream,
)
from frankenlab.engines.exllamav2_weights import DequantizedLayers, device_of, outer_weights
from frankenlab.engines.protocol import check_capacity, recent_states, walk
from frankenlab.engines.token_tree import TokenRequest, token_tree
from frankenlab.engines.torch import DeviceBatch, TorchEngine
from frankenlab.engines.torch_weights import ModelWeights
from frankenlab.io.errors import UserError
from frankenlab.models.directory import model_shape
from frankenlab.models.memory import batch_bytes, pass_tokens
from frankenlab.plans.plan import Plan, base
from frankenlab.plans.steps import Step

logger = logging.getLogger(__name__)

# Pairs of tokens that the checks of a loaded model compare.
PAIRS = 8
# How far logits may be apart that should be the same, plus this share of what another first token
# changes: kernels add in no fixed order, in float16.
NOISE, SHARE = 0.02, 0.25

T = TypeVar("T")


class Exllamav2Engine:
    """The engine (see `protocol.Engine`) whose weights are dequantized as they are used.

    Args:
        directory: an EXL2 directory.
        device: "cuda" or "cuda:N".
        token_budget: tokens of a batch, for which memory is left when weights are kept.
        max_tokens: most tokens that a decoder reads at a time; more are read in several passes.
        gpus: over how many GPUs the layers are split (see `TorchEngine`).

    Raises:
        UserError: CUDA or exllamav2 is absent, exllamav2 does not run such a model, it does not
            fit, or the installed attention sees later tokens.
    """

    precision = "float16"

    def __init__(
        self,
        directory: str | Path,
        device: str = "cuda:0",
        token_budget: int = 8192,
        max_tokens: int | None = None,
        gpus: int = 1,
    ) -> None:
        if not device.startswith("cuda"):
            raise UserError(
                f'device "{device}": exllamav2 runs on CUDA only; engine torch reads EXL2 '
                "directories anywhere"
            )
        self.devices = usable_devices(device, gpus)
        self.device = self.devices[-1]
        self.directory, self.token_budget = Path(directory), token_budget
        shape = model_shape(directory)
        self.max_tokens = max_tokens or pass_tokens(shape.max_position_embeddings)
        self.model = load(self.directory, device, self.max_tokens, gpus)
        config = self.model.config
        self.n_layers: int = config.num_hidden_layers
        self.max_length: int = config.original_max_seq_len
        self.vocabulary: int = config.vocab_size
        self._shape = shape
        self._dequantized: DequantizedLayers | None = None
        self._check_causal()

    @cached_property
    def scoring(self) -> TorchEngine:
        """The forward pass that scores, made when the first batch comes: decoders need none.

        Raises:
            UserError: it does not give the logits of exllamav2's own forward pass.
        """
        cards = [device_of(modules) for modules in self._layers]
        embedding, norm, head = outer_weights(
            self.model.modules, self.vocabulary, cards[0], self._room
        )
        if self._dequantized is None:
            self._dequantized = DequantizedLayers(self._layers, self._room)
        weights = ModelWeights(embedding, self._dequantized, norm, head, cards)
        made = TorchEngine(self.directory, self.precision, weights=weights)
        self._check_same(made)
        return made

    @property
    def layout(self) -> Layout:
        """Return the layout of its batches, that of the pass that scores.

        Raises:
            UserError: as `scoring`, or there is no memory for it.
        """
        try:
            return self._fitting(lambda: self.scoring.layout)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.directory}: beside the quantized weights, {self.device} has no memory for "
                "the head and a layer dequantized; a larger device, or more GPUs, are needed"
            ) from error

    @property
    def kept(self) -> list[int]:
        """The numbers of the layers whose dequantized weights are kept."""
        return [] if self._dequantized is None else self._dequantized.kept

    def place(self, batch: Batch) -> DeviceBatch:
        """Return the batch on the device (see `TorchEngine.place`)."""
        return self._fitting(lambda: self.scoring.place(batch))

    def embed(self, batch: DeviceBatch) -> torch.Tensor:
        """Return the embeddings, [tokens, hidden size]."""
        return self._fitting(lambda: self.scoring.embed(batch))

    def run(
        self,
        step: Step,
        hidden: torch.Tensor,
        batch: DeviceBatch,
        start: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the hidden state after a step."""
        return self._fitting(lambda: self.scoring.run(step, hidden, batch, start))

    def finish(
        self,
        step: Step,
        hidden: torch.Tensor,
        batch: DeviceBatch,
        start: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the scored positions after a plan's last step."""
        return self._fitting(lambda: self.scoring.finish(step, hidden, batch, start))

    def score(self, hidden: torch.Tensor, batch: DeviceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the targets (see `score_targets`), given what `finish` returns."""
        return self._fitting(lambda: self.scoring.score(hidden, batch))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply the final norm and the head: [..., hidden size] -> [..., vocabulary]."""
        return self._fitting(lambda: self.scoring.logits(hidden))

    def decoder(self, plan: Plan, capacity: int) -> "Exllamav2Decoder":
        """Return a decoder for one sequence of at most `capacity` tokens."""
        return self._fitting(lambda: Exllamav2Decoder(self, plan, capacity))

    def give_up_weights(self) -> bool:
        """Free half of the dequantized weights that are kept; return whether there were any.

        Scores stay the same, bit for bit: the weights are dequantized anew at each visit.
        """
        return self._dequantized is not None and self._dequantized.give_up()

    def close(self) -> None:
        """Free the model's memory. The engine cannot be used afterwards."""
        self.__dict__.pop("scoring", None)
        self._dequantized = None
        self.model.unload()
        self.model = None
        torch.cuda.empty_cache()

    @property
    def _layers(self) -> list[tuple[Any, Any]]:
        """exllamav2's modules of each layer: attention and MLP."""
        layers = self.model.modules[1:-2]
        return list(zip(layers[::2], layers[1::2], strict=True))

    def _fitting(self, work: Callable[[], T]) -> T:
        """Return what the work returns; if memory runs out, give up kept weights for it."""
        while True:
            try:
                with surfacing_memory():
                    return work()
            except torch.OutOfMemoryError:
                if not self.give_up_weights():
                    raise
            # Not in the handler, which holds on to what the work had in memory.
            logger.warning("out of memory: %d layers are kept dequantized now", len(self.kept))

    def _room(self, device: torch.device) -> int:
        """Return the bytes of a GPU that a batch leaves free."""
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0] - batch_bytes(self._shape, self.token_budget)

    @torch.inference_mode()
    def _check_causal(self) -> None:
        """Check that in exllamav2's forward pass no later token changes an earlier one's logits.

        Raises:
            UserError: it does.
        """
        logits, backward = self._logits_of_pairs()
        forward = (logits[0, :, 0] - logits[1, :, 0]).abs().mean().item()
        # Not "greater than": NaN must not pass either.
        if not forward <= NOISE + SHARE * backward:
            raise UserError(
                f"{self.directory}: in exllamav2 as installed here a later token changes an "
                f"earlier one's logits (by {forward:.3g}, an earlier one those of a later one by "
                f"{backward:.3g}); every score would be wrong"
            )

    @torch.inference_mode()
    def _check_same(self, scoring: TorchEngine) -> None:
        """Check that the pass that scores gives the logits of exllamav2's.

        Raises:
            UserError: it does not.
        """
        expected, backward = self._logits_of_pairs()
        pairs = _pairs(self.vocabulary).tolist()
        trees = [token_tree([TokenRequest((a,), (b, a))]) for a, b in pairs]
        batch = scoring.place(MAKERS[scoring.layout](trees, range(len(trees))))
        *steps, last = base(self.n_layers).steps
        *_, before = walk(scoring, steps, batch)
        logits = scoring.logits(scoring.finish(last, before, batch)).float()
        apart = (logits.view_as(expected) - expected).abs().mean().item()
        if not apart <= NOISE + SHARE * backward:
            raise UserError(
                f"{self.directory}: the logits of its dequantized weights are not those of "
                f"exllamav2's own forward pass (they are {apart:.3g} apart; another first token "
                f"changes them by {backward:.3g}); every score would be wrong"
            )

    def _logits_of_pairs(self) -> tuple[torch.Tensor, float]:
        """Return exllamav2's own logits of pairs of tokens, float32 [3, pairs, 2, vocabulary], and
        how much another first token changes those of the second."""
        rows = _pairs(self.vocabulary).split(max(self.max_tokens // 2, 1))
        with surfacing_memory():
            logits = torch.cat([self._own_logits(part) for part in rows])
        logits = logits.float().unflatten(0, (3, PAIRS))
        return logits, (logits[0, :, 1] - logits[2, :, 1]).abs().mean().item()

    def _own_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of exllamav2's own modules, float16 [rows, length, vocabulary].

        Args:
            tokens: int64 [rows, length], on the CPU, where exllamav2 has its embeddings.
        """
        from exllamav2.attn import ExLlamaV2Attention

        use_its_stream()
        embedding, *_, norm, head = self.model.modules
        rows, length = tokens.shape
        params = ExLlamaV2Attention.Params(rows, length, 0, None, None)
        hidden = embedding.forward(tokens).to(self.device)
        for step in base(self.n_layers).steps:
            hidden = own_step(self._layers[step.layer], step, hidden, params)
        hidden = moved(hidden, self.device)
        return head.forward(norm.forward(hidden))[..., : self.vocabulary]


def _pairs(vocabulary: int) -> torch.Tensor:
    """Return random pairs of tokens, the same with another second, and with another first one:
    int64 [3 * pairs, 2]."""
    draw = torch.Generator().manual_seed(1)
    first, second, other = torch.randint(vocabulary, (3, PAIRS), generator=draw)
    rows = [(first, second), (first, other), (other, second)]
    return torch.cat([torch.stack(pair, dim=1) for pair in rows])


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
        # The modules of each step: attention with a slot of its own, and MLP.
        self.modules: list[tuple[Any, Any]] = []
        slots: list[str] = []
        for step in plan.steps:
            attention, mlp = engine._layers[step.layer]
            if step.attends:
                attention = copy.copy(attention)
                attention.layer_idx = len(slots)
                slots.append(attention.device())
            self.modules.append((attention, mlp))
        use_its_stream()
        self.cache = make_cache(engine.model, slots, capacity)

    @property
    def length(self) -> int:
        return self.cache.current_seq_len

    @torch.inference_mode()
    def feed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read tokens, as many at a time as fit exllamav2's buffers."""
        check_capacity(self, len(tokens))
        size = self.engine.max_tokens
        for start in range(0, len(tokens), size):
            part = list(tokens[start : start + size])
            logits = self.engine._fitting(lambda part=part: self._read(part))  # type: ignore[misc]
            # Only now: what ran out of memory is done again.
            self.cache.current_seq_len += len(part)
        return logits

    def _read(self, tokens: list[int]) -> torch.Tensor:
        """Return the logits after the last of the tokens; what they write in the cache is not
        counted yet."""
        from exllamav2.attn import ExLlamaV2Attention

        use_its_stream()
        embedding, *_, norm, head = self.engine.model.modules
        params = ExLlamaV2Attention.Params(1, len(tokens), self.length, None, None)
        hidden = embedding.forward(torch.tensor([tokens])).to(self.engine.device)
        states = recent_states(self.plan.steps, hidden)
        for step, modules in zip(self.plan.steps, self.modules, strict=True):
            before = states[-step.span]
            after = own_step(modules, step, states[-1], params, self.cache)
            if step.scale != 1:
                after = torch.lerp(moved(before, after.device), after, step.scale)
            states.append(after)
        hidden = moved(states[-1][0, -1:], self.engine.device)
        return head.forward(norm.forward(hidden))[0, : self.engine.vocabulary]


def make_engine(
    directory: str | Path, precision: str, device: str, token_budget: int, gpus: int = 1
) -> Exllamav2Engine:
    """Return the engine for batches of `token_budget` tokens.

    Raises:
        UserError: as `Exllamav2Engine` and `check_precision`.
    """
    check_precision(precision)
    return Exllamav2Engine(directory, device, token_budget, gpus=gpus)


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
