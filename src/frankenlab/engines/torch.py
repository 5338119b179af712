"""The torch engine: any LLaMA-shaped Hugging Face or EXL2 directory, on CPU or CUDA.

The forward pass is that of transformers' `LlamaForCausalLM` (Touvron et al. 2023, LLaMA), cut
into steps. Queries, keys and values are one matrix product, and so are the MLP's gate and up
projections.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from frankenlab.engines.batches import Batch, Layout
from frankenlab.engines.cards import moved, moved_record, usable_devices
from frankenlab.engines.kernel_choice import kernels_for
from frankenlab.engines.kernels import EAGER, rms_norm
from frankenlab.engines.masks import KEY_MULTIPLE, Mask, attend
from frankenlab.engines.protocol import check_capacity, recent_states, state_before
from frankenlab.engines.rotary import Rotary
from frankenlab.engines.scoring import Targets, place_targets, score_targets
from frankenlab.engines.torch_weights import Layer, ModelWeights, load_weights
from frankenlab.engines.transfers import to_device
from frankenlab.engines.tree_mask import TreeMask, tree_mask
from frankenlab.models.directory import model_shape
from frankenlab.plans.plan import Plan
from frankenlab.plans.steps import Step

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class DeviceBatch:
    """A batch on the device: its tokens one after the other, first those of the prefix.

    Attributes:
        tokens: int64 [tokens].
        cos, sin: rotary tables [tokens, 1, head dim].
        mask: what the tokens after the prefix see, by the rows that they stand in; a `TreeMask`
            where all tokens stand in one.
        prefix: number of tokens that all rows see.
        targets: None for tokens that are not to be scored.
        copies: the same on other GPUs.
    """

    tokens: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    mask: Mask | TreeMask
    prefix: int = 0
    targets: Targets | None = None
    copies: dict[torch.device, "DeviceBatch"] = field(init=False, default_factory=dict)

    def on(self, device: torch.device) -> "DeviceBatch":
        """Return the same on another GPU, where it is copied at its first use."""
        if self.tokens.device == device:
            return self
        if device not in self.copies:
            self.copies[device] = moved_record(self, device)
        return self.copies[device]


class KVCache:
    """Keys and values of one occurrence of a layer, [rows, heads, capacity, head dim].

    They are allocated when the first token comes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None

    def extend(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append those of new tokens; return all keys and values so far."""
        if self.keys is None or self.values is None:
            rows, heads, _, dim = keys.shape
            self.keys = keys.new_zeros((rows, heads, self.capacity, dim))
            self.values = torch.zeros_like(self.keys)
        stop = self.length + keys.shape[2]
        self.keys[:, :, self.length : stop] = keys
        self.values[:, :, self.length : stop] = values
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]


class TorchEngine:
    """The engine (see `protocol.Engine`) that computes in plain torch.

    Args:
        directory: a Hugging Face directory with safetensors weights, or an EXL2 directory. The
            latter is dequantized while it is loaded, which takes the memory of a layer beside the
            model.
        dtype: "bfloat16", "float16" or "float32".
        device: as torch names it.
        weights: the directory's weights, if they are loaded already. The engine then runs on the
            devices that they are on, whatever `device` and `gpus` say.
        gpus: over how many GPUs the layers are split, from this device on. Each does the arithmetic
            that one alone would do. The first has the embeddings, the last (`device`) the head.

    Raises:
        UserError: the directory is not LLaMA-shaped, or a device is absent.
    """

    def __init__(
        self,
        directory: str | Path,
        dtype: str = "bfloat16",
        device: str = "cpu",
        weights: ModelWeights | None = None,
        gpus: int = 1,
    ) -> None:
        info = model_shape(directory)
        if weights is None:
            devices = usable_devices(device, gpus)
        else:
            # Not the embedding's: it may have found no room on the GPU and be on the CPU.
            devices = (weights.cards or [weights.norm.device])[0], weights.norm.device
        self._first, self.device = devices[0], devices[-1]
        self.dtype = DTYPES[dtype]
        self.n_layers = info.n_layers
        self.n_heads, self.n_kv_heads, self.head_dim = info.n_heads, info.n_kv_heads, info.head_dim
        self.norm_eps = info.norm_eps
        sizes = self.n_heads, self.n_kv_heads, self.head_dim
        self.kernels = kernels_for(self.device, self.dtype, *sizes)
        self.layout: Layout = "rows" if self.kernels is EAGER else "flat"
        self.rotary = Rotary(info, self._first)
        if weights is None:
            weights = load_weights(Path(directory), self.dtype, info, devices)
        self.embedding, self.layers = weights.embedding, weights.layers
        self.norm, self.head = weights.norm, weights.head
        self.cards = weights.cards or [self.norm.device] * self.n_layers
        self.vocabulary: int = self.head.shape[0]

    def place(self, batch: Batch) -> DeviceBatch:
        """Return the batch on the device, with its mask, rotary tables and targets."""
        prefix = len(batch.prefix)
        tokens = torch.cat((batch.prefix, batch.tokens.flatten()))
        positions = torch.cat((torch.arange(prefix), batch.positions.flatten()))
        targets = place_targets(batch, self._first)
        return self._place(tokens, positions, self._mask(batch), prefix, targets)

    def _mask(self, batch: Batch) -> Mask | TreeMask:
        if self.layout == "flat":
            (ends,) = batch.ends
            mask = tree_mask(ends, self.kernels.tile)
            return TreeMask(*(to_device(tensor, self._first) for tensor in mask))
        before, padding = len(batch.prefix), 0
        # Only a CPU is faster for it.
        if self._first.type == "cpu":
            padding = -(before + batch.tokens.shape[1]) % KEY_MULTIPLE
        return Mask(to_device(batch.ends, self._first), self.dtype, padding, before)

    def place_after(self, length: int, tokens: Sequence[int]) -> DeviceBatch:
        """Return a sequence's next tokens on the device, after `length` that a cache holds."""
        positions = torch.arange(length, length + len(tokens))
        ends = torch.full((1, len(tokens)), len(tokens), device=self._first)
        mask = Mask(ends, self.dtype, before=length)
        return self._place(torch.tensor(list(tokens)), positions, mask)

    def _place(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: Mask | TreeMask,
        prefix: int = 0,
        targets: Targets | None = None,
    ) -> DeviceBatch:
        cos, sin = self.rotary.tables(to_device(positions, self._first), self.dtype)
        tokens = to_device(tokens, self._first)
        return DeviceBatch(tokens, cos.unsqueeze(1), sin.unsqueeze(1), mask, prefix, targets)

    def embed(self, batch: DeviceBatch) -> torch.Tensor:
        """Return the embeddings, [tokens, hidden size]."""
        tokens = batch.tokens.to(self.embedding.device)
        return F.embedding(tokens, self.embedding).to(self._first)

    def run(
        self,
        step: Step,
        hidden: torch.Tensor,
        batch: DeviceBatch,
        start: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """Return the hidden state after a step; with a cache, `hidden` has the new tokens only."""
        batch = batch.on(self.cards[step.layer])
        return self._step(step, hidden, batch, start, cache=cache)

    def finish(
        self,
        step: Step,
        hidden: torch.Tensor,
        batch: DeviceBatch,
        start: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the scored positions after a plan's last step.

        The other positions take part in its attention only, not in the output's projection and
        the MLP.
        """
        batch = batch.on(self.cards[step.layer])
        assert batch.targets is not None, "place() a batch to score it"
        return self._step(step, hidden, batch, start, kept=batch.targets.positions)

    def score(self, hidden: torch.Tensor, batch: DeviceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the targets (see `score_targets`), given what `finish` returns."""
        targets = batch.on(self.norm.device).targets
        assert targets is not None, "place() a batch to score it"
        hidden = moved(hidden, self.norm.device)
        return score_targets(self.logits, hidden, targets, self.kernels.score)

    def decoder(self, plan: Plan, capacity: int) -> "TorchDecoder":
        """Return a decoder for one sequence of at most `capacity` tokens."""
        return TorchDecoder(self, plan, capacity)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply the final norm and the head: [..., hidden size] -> [..., vocabulary]."""
        return F.linear(self._norm(moved(hidden, self.norm.device), self.norm), self.head)

    def _step(
        self,
        step: Step,
        hidden: torch.Tensor,
        batch: DeviceBatch,
        start: torch.Tensor | None = None,
        cache: KVCache | None = None,
        kept: torch.Tensor | slice = slice(None),
    ) -> torch.Tensor:
        """Return the new state of the tokens `kept` (int64 [kept]; by default all of them).

        The batch is on the layer's GPU; other states may be on others.
        """
        layer = self.layers[step.layer]
        hidden = moved(hidden, batch.tokens.device)
        after = self._layer(layer, step.part, hidden, batch, cache, kept)
        if step.scale == 1:
            return after
        before = moved(state_before(step, hidden, start), hidden.device)[kept]
        return before + step.scale * (after - before)

    def _layer(
        self,
        layer: Layer,
        part: str,
        hidden: torch.Tensor,
        batch: DeviceBatch,
        cache: KVCache | None,
        kept: torch.Tensor | slice,
    ) -> torch.Tensor:
        """Return the new state of the tokens kept after a layer, its attention or its MLP."""
        residual = hidden[kept]
        if part == "mlp":
            gated = self._gated(layer, self._norm(residual, layer.post_norm))
            return F.linear(gated, layer.down, layer.down_bias).add_(residual)
        mixed = self._attention(layer, hidden, batch, cache)[kept]
        update = F.linear(mixed, layer.out, layer.out_bias)
        if part == "attn":
            return update.add_(residual)
        after, normed = self.kernels.add_norm(update, residual, layer.post_norm, self.norm_eps)
        gated = self._gated(layer, normed)
        return self.kernels.add_product(after, gated, layer.down, layer.down_bias)

    def _attention(
        self, layer: Layer, hidden: torch.Tensor, batch: DeviceBatch, cache: KVCache | None
    ) -> torch.Tensor:
        """Return the attention before the output's projection, [tokens, heads * head dim]."""
        qkv = F.linear(self._norm(hidden, layer.input_norm), layer.qkv, layer.qkv_bias)
        qkv = qkv.view(len(hidden), -1, self.head_dim)
        rotated, values = qkv.split((self.n_heads + self.n_kv_heads, self.n_kv_heads), dim=1)
        rotated = self.kernels.rotate(rotated, batch.cos, batch.sin)
        queries, keys = rotated.split((self.n_heads, self.n_kv_heads), dim=1)
        if isinstance(batch.mask, TreeMask):
            return self.kernels.tree_attention(queries, keys, values, batch.mask).flatten(-2)
        return _mix_rows((queries, keys, values), batch.mask, batch.prefix, cache).flatten(-2)

    def _gated(self, layer: Layer, normed: torch.Tensor) -> torch.Tensor:
        """Return what the MLP's last product takes, [tokens, inner size]."""
        return self.kernels.swiglu(F.linear(normed, layer.gate_up, layer.gate_up_bias))

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, weight, self.norm_eps)


def _mix_rows(
    qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mask: Mask,
    prefix: int,
    cache: KVCache | None,
) -> torch.Tensor:
    """Return the mixed values, [tokens, heads, head dim] as queries, keys and values are.

    The prefix sees itself. The rows see the padding (zeros), the prefix, whose keys and values
    are copied to each of them, and themselves.
    """
    padding, shape = mask.padding, mask.ends.shape
    queries, keys, values = (x[prefix:].unflatten(0, shape).transpose(1, 2) for x in qkv)
    if cache is not None:
        keys, values = cache.extend(keys, values)
    q, k, v = (x[:prefix].unsqueeze(0).transpose(1, 2) for x in qkv)
    if padding + prefix:
        before = (F.pad(x, (0, 0, padding, 0)).expand(shape[0], -1, -1, -1) for x in (k, v))
        keys, values = (torch.cat(pair, dim=2) for pair in zip(before, (keys, values), strict=True))
    rows = attend(queries, keys, values, mask).flatten(0, 1)
    return torch.cat((attend(q, k, v)[0], rows)) if prefix else rows


@dataclass
class TorchDecoder:
    """A decoder (see `protocol.Decoder`) with a cache for each step that attends."""

    engine: TorchEngine
    plan: Plan
    capacity: int
    length: int = 0
    caches: list[KVCache | None] = field(init=False)

    def __post_init__(self) -> None:
        self.caches = [KVCache(self.capacity) if s.attends else None for s in self.plan.steps]

    @torch.inference_mode()
    def feed(self, tokens: Sequence[int]) -> torch.Tensor:
        check_capacity(self, len(tokens))
        batch = self.engine.place_after(self.length, tokens)
        states = recent_states(self.plan.steps, self.engine.embed(batch))
        for step, cache in zip(self.plan.steps, self.caches, strict=True):
            start = states[-step.span]
            states.append(self.engine.run(step, states[-1], batch, start, cache))
        self.length += len(tokens)
        return self.engine.logits(states[-1][-1])


def make_engine(
    directory: str | Path, precision: str, device: str, token_budget: int, gpus: int = 1
) -> TorchEngine:
    """Return the engine. It takes batches of any size, so `token_budget` changes nothing.

    Raises:
        UserError: as `TorchEngine`.
    """
    return TorchEngine(directory, precision, device, gpus=gpus)
