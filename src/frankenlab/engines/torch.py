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

from frankenlab.engines.batches import Batch
from frankenlab.engines.devices import usable_device
from frankenlab.engines.kernels import rms_norm, rotate, swiglu
from frankenlab.engines.masks import KEY_MULTIPLE, Mask, attend
from frankenlab.engines.protocol import check_capacity, recent_states, state_before
from frankenlab.engines.rotary import Rotary
from frankenlab.engines.scoring import score_targets
from frankenlab.models.directory import model_shape
from frankenlab.models.exl2.declaration import is_exl2
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.tensor_files import TensorFiles
from frankenlab.plans.plan import Plan
from frankenlab.plans.steps import Step

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Layer:
    """The weights of a decoder layer, [out, in]; biases are None where the model has none."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    out: torch.Tensor
    out_bias: torch.Tensor | None
    post_norm: torch.Tensor
    gate_up: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor
    down_bias: torch.Tensor | None


@dataclass(frozen=True)
class DeviceBatch:
    """A batch on the device: its tokens one after the other, first those of the prefix.

    Attributes:
        tokens: int64 [tokens].
        cos, sin: rotary tables [tokens, 1, head dim].
        mask: what the tokens after the prefix see, by the rows that they stand in.
        prefix: number of tokens that all rows see.
        source: the batch; None for tokens that are not to be scored.
    """

    tokens: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    mask: Mask
    prefix: int = 0
    source: Batch | None = None


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
        directory: a Hugging Face directory with safetensors weights, or an EXL2 directory, which
            is dequantized while it is loaded, which takes the memory of a layer beside the model.
        dtype: "bfloat16", "float16" or "float32".
        device: as torch names it.

    Raises:
        UserError: the directory is not LLaMA-shaped, or the device is absent.
    """

    token_trees = True

    def __init__(self, directory: str | Path, dtype: str = "bfloat16", device: str = "cpu") -> None:
        info = model_shape(directory)
        self.device = usable_device(device)
        self.dtype = DTYPES[dtype]
        self.n_layers = info.n_layers
        self.n_heads, self.n_kv_heads, self.head_dim = info.n_heads, info.n_kv_heads, info.head_dim
        self.norm_eps = info.norm_eps
        self.rotary = Rotary(info, self.device)
        weights = _Weights(Path(directory), self.dtype, self.device)
        self.embedding = weights.get("model.embed_tokens.weight")
        self.layers = [_layer(weights, index) for index in range(self.n_layers)]
        self.norm = weights.get("model.norm.weight")
        self.head = self.embedding if info.tied_embeddings else weights.get("lm_head.weight")
        self.vocabulary: int = self.head.shape[0]

    def place(self, batch: Batch) -> DeviceBatch:
        """Return the batch on the device, with its mask and rotary tables."""
        prefix = len(batch.prefix)
        padding = -(prefix + batch.tokens.shape[1]) % KEY_MULTIPLE
        tokens = torch.cat((batch.prefix, batch.tokens.flatten()))
        positions = torch.cat((torch.arange(prefix), batch.positions.flatten()))
        mask = Mask(batch.ends.to(self.device), self.dtype, padding, before=prefix)
        return self._place(tokens, positions, mask, prefix, batch)

    def place_after(self, length: int, tokens: Sequence[int]) -> DeviceBatch:
        """Return a sequence's next tokens on the device, after `length` that a cache holds."""
        positions = torch.arange(length, length + len(tokens))
        ends = torch.full((1, len(tokens)), len(tokens), device=self.device)
        mask = Mask(ends, self.dtype, before=length)
        return self._place(torch.tensor(list(tokens)), positions, mask)

    def _place(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: Mask,
        prefix: int = 0,
        source: Batch | None = None,
    ) -> DeviceBatch:
        cos, sin = self.rotary.tables(positions, self.dtype)
        tokens = tokens.to(self.device)
        return DeviceBatch(tokens, cos.unsqueeze(1), sin.unsqueeze(1), mask, prefix, source)

    def embed(self, batch: DeviceBatch) -> torch.Tensor:
        """Return the embeddings, [tokens, hidden size]."""
        return F.embedding(batch.tokens, self.embedding)

    def run(
        self,
        step: Step,
        hidden: torch.Tensor,
        batch: DeviceBatch,
        start: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """Return the hidden state after a step; with a cache, `hidden` has the new tokens only."""
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
        assert batch.source is not None, "place() a batch to score it"
        kept = batch.source.positions_scored.to(self.device)
        return self._step(step, hidden, batch, start, kept=kept)

    def score(self, hidden: torch.Tensor, batch: DeviceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the targets (see `score_targets`), given what `finish` returns."""
        assert batch.source is not None, "place() a batch to score it"
        return score_targets(self.logits, hidden, batch.source)

    def decoder(self, plan: Plan, capacity: int) -> "TorchDecoder":
        """Return a decoder for one sequence of at most `capacity` tokens."""
        return TorchDecoder(self, plan, capacity)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply the final norm and the head: [..., hidden size] -> [..., vocabulary]."""
        return F.linear(self._norm(hidden, self.norm), self.head)

    def _step(
        self,
        step: Step,
        hidden: torch.Tensor,
        batch: DeviceBatch,
        start: torch.Tensor | None = None,
        cache: KVCache | None = None,
        kept: torch.Tensor | slice = slice(None),
    ) -> torch.Tensor:
        """Return the new state of the tokens `kept` (int64 [kept]; by default all of them)."""
        layer = self.layers[step.layer]
        after = hidden[kept]
        if step.part != "mlp":
            mixed = self._attention(layer, hidden, batch, cache)[kept]
            after = F.linear(mixed, layer.out, layer.out_bias).add_(after)
        if step.part != "attn":
            after = self._mlp(layer, after).add_(after)
        if step.scale == 1:
            return after
        before = state_before(step, hidden, start)[kept]
        return before + step.scale * (after - before)

    def _attention(
        self, layer: Layer, hidden: torch.Tensor, batch: DeviceBatch, cache: KVCache | None
    ) -> torch.Tensor:
        """Return the attention before the output's projection, [tokens, heads * head dim]."""
        qkv = F.linear(self._norm(hidden, layer.input_norm), layer.qkv, layer.qkv_bias)
        qkv = qkv.view(len(hidden), -1, self.head_dim)
        rotated, values = qkv.split((self.n_heads + self.n_kv_heads, self.n_kv_heads), dim=1)
        rotated = rotate(rotated, batch.cos, batch.sin)
        queries, keys = rotated.split((self.n_heads, self.n_kv_heads), dim=1)
        return self._mix((queries, keys, values), batch, cache).flatten(-2)

    def _mix(
        self,
        qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        batch: DeviceBatch,
        cache: KVCache | None,
    ) -> torch.Tensor:
        """Return the mixed values, [tokens, heads, head dim] as queries, keys and values are.

        The prefix sees itself. The rows see the padding (zeros), the prefix, whose keys and values
        are copied to each of them, and themselves.
        """
        prefix, padding, shape = batch.prefix, batch.mask.padding, batch.mask.ends.shape
        queries, keys, values = (x[prefix:].unflatten(0, shape).transpose(1, 2) for x in qkv)
        if cache is not None:
            keys, values = cache.extend(keys, values)
        q, k, v = (x[:prefix].unsqueeze(0).transpose(1, 2) for x in qkv)
        if padding + prefix:
            before = (F.pad(x, (0, 0, padding, 0)).expand(shape[0], -1, -1, -1) for x in (k, v))
            keys, values = (
                torch.cat(pair, dim=2) for pair in zip(before, (keys, values), strict=True)
            )
        rows = attend(queries, keys, values, batch.mask).flatten(0, 1)
        return torch.cat((attend(q, k, v)[0], rows)) if prefix else rows

    def _mlp(self, layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
        normed = self._norm(hidden, layer.post_norm)
        gate_up = F.linear(normed, layer.gate_up, layer.gate_up_bias)
        return F.linear(swiglu(gate_up), layer.down, layer.down_bias)

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, weight, self.norm_eps)


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


class _Weights:
    """Tensors of a directory by their Hugging Face names, cast on the way to the device."""

    def __init__(self, directory: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.exl2 = Exl2Directory(directory) if is_exl2(directory) else None
        self.files = TensorFiles(()) if self.exl2 else TensorFiles.of_model(directory)

    def get(self, name: str) -> torch.Tensor:
        if self.exl2:
            return self.exl2.get(name, self.dtype, self.device)
        return self.files.get(name).to(device=self.device, dtype=self.dtype)

    def stacked(self, names: Sequence[str]) -> torch.Tensor:
        """Return the tensors one below the other."""
        return torch.cat([self.get(name) for name in names])

    def stacked_if_any(self, names: Sequence[str]) -> torch.Tensor | None:
        """Return the tensors one below the other, or None where the model has none of them."""
        found = [name for name in names if name in (self.exl2 or self.files)]
        return self.stacked(found) if found else None


def _layer(weights: _Weights, index: int) -> Layer:
    prefix = f"model.layers.{index}"

    def names(kind: str, block: str, *projections: str) -> list[str]:
        return [f"{prefix}.{block}.{name}_proj.{kind}" for name in projections]

    qkv, out = ("self_attn", "q", "k", "v"), ("self_attn", "o")
    gate_up, down = ("mlp", "gate", "up"), ("mlp", "down")
    return Layer(
        input_norm=weights.get(f"{prefix}.input_layernorm.weight"),
        qkv=weights.stacked(names("weight", *qkv)),
        qkv_bias=weights.stacked_if_any(names("bias", *qkv)),
        out=weights.stacked(names("weight", *out)),
        out_bias=weights.stacked_if_any(names("bias", *out)),
        post_norm=weights.get(f"{prefix}.post_attention_layernorm.weight"),
        gate_up=weights.stacked(names("weight", *gate_up)),
        gate_up_bias=weights.stacked_if_any(names("bias", *gate_up)),
        down=weights.stacked(names("weight", *down)),
        down_bias=weights.stacked_if_any(names("bias", *down)),
    )


def make_engine(
    directory: str | Path, precision: str, device: str, token_budget: int
) -> TorchEngine:
    """Return the engine. It takes batches of any size, so `token_budget` changes nothing.

    Raises:
        UserError: as `TorchEngine`.
    """
    return TorchEngine(directory, precision, device)
