"""The torch engine: any LLaMA-shaped Hugging Face or EXL2 directory, on CPU or CUDA.

The forward pass is that of transformers' `LlamaForCausalLM` (Touvron et al. 2023, LLaMA), cut
into steps. Queries, keys and values are one matrix product, and so are the MLP's gate and up
projections.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from frankenlab.engines import check_capacity
from frankenlab.engines.batches import Batch
from frankenlab.engines.devices import usable_device
from frankenlab.engines.kernels import rms_norm, rotate, swiglu
from frankenlab.engines.masks import KEY_MULTIPLE, Mask, attend
from frankenlab.engines.rotary import Rotary
from frankenlab.engines.scoring import score_targets
from frankenlab.models.directory import model_shape
from frankenlab.models.exl2.reading import Exl2Directory, is_exl2
from frankenlab.models.tensor_files import TensorFiles
from frankenlab.plans.plan import Plan, Step

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Layer:
    """Weights of one decoder layer, [out, in]; biases are None where the model has none."""

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
    """A batch on the device, its tokens one after the other: `prefix` tokens that all rows see,
    then `rows` times `length` others.

    Attributes:
        tokens: int64 [tokens].
        cos, sin: rotary tables [tokens, 1, head dim].
        mask: what the rows' tokens see of `padding` that none sees, the prefix, and their row.
        batch: None for tokens that are not to be scored.
    """

    prefix: int
    rows: int
    length: int
    padding: int
    tokens: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    mask: Mask
    batch: Batch | None = None


class KVCache:
    """Keys and values of one occurrence, [rows, heads, capacity, head dim] once there are any."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None

    def extend(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends new tokens; gives all keys and values so far."""
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
    """See `frankenlab.engines.Engine`.

    Args:
        directory: a Hugging Face directory with safetensors weights, or an EXL2 directory, which
            is dequantized while it is loaded: beside the model it takes the memory of a layer.
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
        """Mask and rotary tables of a batch."""
        count = len(batch.prefix)
        padding = -(count + batch.tokens.shape[1]) % KEY_MULTIPLE
        return self.place_tokens(
            batch.tokens, batch.positions, batch.ends, count, batch.prefix, padding, batch
        )

    def place_tokens(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        ends: torch.Tensor,
        seen: int,
        prefix: torch.Tensor | None = None,
        padding: int = 0,
        batch: Batch | None = None,
    ) -> DeviceBatch:
        """`tokens`, `positions`, `ends`: int64 [rows, length]; `seen`: how many keys before the
        rows all of their tokens see, a cache's or those of `prefix`: int64 [prefix length]."""
        rows, length = tokens.shape
        before = tokens.new_empty(0) if prefix is None else prefix
        cos, sin = self.rotary.tables(
            torch.cat((torch.arange(len(before)), positions.flatten())), self.dtype
        )
        return DeviceBatch(
            prefix=len(before),
            rows=rows,
            length=length,
            padding=padding,
            tokens=torch.cat((before, tokens.flatten())).to(self.device),
            cos=cos.unsqueeze(1),
            sin=sin.unsqueeze(1),
            mask=Mask(ends.to(self.device), self.dtype, padding, seen),
            batch=batch,
        )

    def embed(self, placed: DeviceBatch) -> torch.Tensor:
        """[tokens, hidden size]"""
        return F.embedding(placed.tokens, self.embedding)

    def run(
        self,
        step: Step,
        hidden: torch.Tensor,
        placed: DeviceBatch,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """Hidden state after one step; with a cache, `hidden` holds the new tokens only."""
        return self._step(step, hidden, placed, cache=cache)

    def finish(self, step: Step, hidden: torch.Tensor, placed: DeviceBatch) -> torch.Tensor:
        """See `frankenlab.engines.Engine`. Of other positions there is the attention only, without
        the output's projection and the MLP."""
        assert placed.batch is not None, "place() a batch to score it"
        return self._step(step, hidden, placed, kept=placed.batch.positions_scored.to(self.device))

    def score(self, hidden: torch.Tensor, placed: DeviceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `score_targets`; `hidden` is what `finish` gives."""
        assert placed.batch is not None, "place() a batch to score it"
        return score_targets(self.logits, hidden, placed.batch)

    def decoder(self, plan: Plan, capacity: int) -> "TorchDecoder":
        """For one sequence of at most `capacity` tokens."""
        return TorchDecoder(self, plan, capacity)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden size] -> [..., vocabulary]: final norm and head."""
        return F.linear(self._norm(hidden, self.norm), self.head)

    def _step(
        self,
        step: Step,
        hidden: torch.Tensor,
        placed: DeviceBatch,
        cache: KVCache | None = None,
        kept: torch.Tensor | slice = slice(None),
    ) -> torch.Tensor:
        """`kept`: the tokens whose new state is wanted, int64 [kept]; all unless told."""
        layer = self.layers[step.layer]
        before = after = hidden[kept]
        if step.part != "mlp":
            mixed = self._attention(layer, hidden, placed, cache)[kept]
            after = F.linear(mixed, layer.out, layer.out_bias).add_(after)
        if step.part != "attn":
            after = self._mlp(layer, after).add_(after)
        return after if step.scale == 1 else before + step.scale * (after - before)

    def _attention(
        self, layer: Layer, hidden: torch.Tensor, placed: DeviceBatch, cache: KVCache | None
    ) -> torch.Tensor:
        """[tokens, heads * head dim], before the output's projection."""
        qkv = F.linear(self._norm(hidden, layer.input_norm), layer.qkv, layer.qkv_bias)
        qkv = qkv.view(len(hidden), -1, self.head_dim)
        rotated, values = qkv.split((self.n_heads + self.n_kv_heads, self.n_kv_heads), dim=1)
        rotated = rotate(rotated, placed.cos, placed.sin)
        queries, keys = rotated.split((self.n_heads, self.n_kv_heads), dim=1)
        return self._mix(queries, keys, values, placed, cache).flatten(-2)

    def _mix(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        placed: DeviceBatch,
        cache: KVCache | None,
    ) -> torch.Tensor:
        """Attention of all tokens, [tokens, heads, head dim] each; the result too.

        The prefix sees itself; the rows see it, its keys and values (and the padding, zeros)
        copied to each of them, and themselves.
        """
        shape, count = (placed.rows, placed.length), placed.prefix
        own = [x[count:].unflatten(0, shape).transpose(1, 2) for x in (queries, keys, values)]
        if cache is not None:
            own[1:] = cache.extend(*own[1:])
        first = [x[:count].unsqueeze(0).transpose(1, 2) for x in (queries, keys, values)]
        if placed.padding + count:
            before = (F.pad(x, (0, 0, placed.padding, 0)) for x in first[1:])
            own[1:] = [
                torch.cat((a.expand(placed.rows, -1, -1, -1), b), dim=2)
                for a, b in zip(before, own[1:], strict=True)
            ]
        rows = attend(*own, placed.mask).flatten(0, 1)
        return torch.cat((attend(*first)[0], rows)) if count else rows

    def _mlp(self, layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
        normed = self._norm(hidden, layer.post_norm)
        gate_up = F.linear(normed, layer.gate_up, layer.gate_up_bias)
        return F.linear(swiglu(gate_up), layer.down, layer.down_bias)

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, weight, self.norm_eps)


@dataclass
class TorchDecoder:
    """See `frankenlab.engines.Decoder`; `caches` are the keys and values of each step (an `mlp`
    step has none)."""

    engine: TorchEngine
    plan: Plan
    capacity: int
    length: int = 0
    caches: list[KVCache | None] = field(init=False)

    def __post_init__(self) -> None:
        self.caches = [KVCache(self.capacity) if s.attends else None for s in self.plan.steps]

    def feed(self, tokens: Sequence[int]) -> torch.Tensor:
        check_capacity(self, len(tokens))
        stop = self.length + len(tokens)
        positions = torch.arange(self.length, stop)
        ends = torch.full((1, len(tokens)), len(tokens))
        with torch.inference_mode():
            placed = self.engine.place_tokens(
                torch.tensor([list(tokens)]), positions[None], ends, self.length
            )
            hidden = self.engine.embed(placed)
            for step, cache in zip(self.plan.steps, self.caches, strict=True):
                hidden = self.engine.run(step, hidden, placed, cache)
            self.length = stop
            return self.engine.logits(hidden[-1])


class _Weights:
    """Tensors of a directory by their Hugging Face names, cast on the way to the device."""

    def __init__(self, directory: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.exl2 = Exl2Directory(directory) if is_exl2(directory) else None
        self.files = TensorFiles(()) if self.exl2 else TensorFiles.of_model(directory)

    def __contains__(self, name: str) -> bool:
        return name in (self.exl2 or self.files)

    def get(self, name: str) -> torch.Tensor:
        if self.exl2:
            return self.exl2.get(name, self.dtype, self.device)
        return self.files.get(name).to(device=self.device, dtype=self.dtype)

    def stacked(self, names: Iterator[str]) -> torch.Tensor | None:
        """The tensors one below the other; None where the model has none of them."""
        found = [self.get(name) for name in names if name in self]
        return torch.cat(found) if found else None


def _layer(weights: _Weights, index: int) -> Layer:
    prefix = f"model.layers.{index}"

    def stacked(block: str, names: tuple[str, ...], kind: str) -> torch.Tensor | None:
        return weights.stacked(f"{prefix}.{block}.{name}_proj.{kind}" for name in names)

    qkv, out = ("self_attn", ("q", "k", "v")), ("self_attn", ("o",))
    gate_up, down = ("mlp", ("gate", "up")), ("mlp", ("down",))
    return Layer(
        input_norm=weights.get(f"{prefix}.input_layernorm.weight"),
        qkv=stacked(*qkv, "weight"),
        qkv_bias=stacked(*qkv, "bias"),
        out=stacked(*out, "weight"),
        out_bias=stacked(*out, "bias"),
        post_norm=weights.get(f"{prefix}.post_attention_layernorm.weight"),
        gate_up=stacked(*gate_up, "weight"),
        gate_up_bias=stacked(*gate_up, "bias"),
        down=stacked(*down, "weight"),
        down_bias=stacked(*down, "bias"),
    )


def make_engine(
    directory: str | Path, precision: str, device: str, token_budget: int
) -> TorchEngine:
    """Return the engine for batches of `token_budget` tokens, which this one takes at any size.

    Raises:
        UserError: as `TorchEngine`.
    """
    return TorchEngine(directory, precision, device)
