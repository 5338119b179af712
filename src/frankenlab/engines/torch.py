"""The torch engine: any LLaMA-shaped Hugging Face directory, on CPU or CUDA.

The forward pass is that of transformers' `LlamaForCausalLM` (Touvron et al. 2023, LLaMA), cut
into steps. Queries, keys and values are one matrix product, and so are the MLP's gate and up
projections.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from frankenlab.batches import Batch
from frankenlab.errors import UserError
from frankenlab.models import check_llama_shaped
from frankenlab.plans import Step

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}

# Scored positions whose logits are in memory at once: 100 MB of a 50k vocabulary. Fewer make the
# head's matrix product slower.
HEAD_CHUNK = 512

# RoPE variants whose frequencies depend on the length of the sequence at hand.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


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
class Placed:
    """A batch on the device: rotary tables [rows, length, 1, head dim], additive mask
    [rows, 1, length, keys]; `batch` is None for tokens that are not to be scored."""

    tokens: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    mask: torch.Tensor
    batch: Batch | None = None


class KeyValues:
    """Keys and values of one occurrence, [rows, heads, tokens so far, head dim]."""

    def __init__(self) -> None:
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None

    def extend(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends new tokens; gives all keys and values so far."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat((self.keys, keys), dim=2)
            values = torch.cat((self.values, values), dim=2)
        self.keys, self.values = keys, values
        return keys, values


class TorchEngine:
    """See `frankenlab.engines.Engine`.

    Args:
        directory: a Hugging Face directory with safetensors weights.
        dtype: "bfloat16", "float16" or "float32".
        device: as torch names it.

    Raises:
        UserError: the directory is not LLaMA-shaped, or the device is absent.
    """

    def __init__(self, directory: str | Path, dtype: str = "bfloat16", device: str = "cpu") -> None:
        check_llama_shaped(directory)
        config = AutoConfig.from_pretrained(directory)
        self.device = usable_device(device)
        self.dtype = DTYPES[dtype]
        self.n_layers: int = config.num_hidden_layers
        self.max_length: int = config.max_position_embeddings
        self.n_heads: int = config.num_attention_heads
        self.n_kv_heads: int = config.num_key_value_heads or self.n_heads
        self.head_dim: int = getattr(config, "head_dim", None) or (
            config.hidden_size // self.n_heads
        )
        self.norm_eps: float = config.rms_norm_eps
        self.rotary = _rotary(config).to(self.device)
        weights = _Weights(Path(directory), self.dtype, self.device)
        self.embedding = weights.get("model.embed_tokens.weight")
        self.layers = [_layer(weights, index) for index in range(self.n_layers)]
        self.norm = weights.get("model.norm.weight")
        tied = config.tie_word_embeddings
        self.head = self.embedding if tied else weights.get("lm_head.weight")

    def place(self, batch: Batch) -> Placed:
        """Mask and rotary tables of a batch."""
        return self.place_tokens(batch.tokens, batch.positions, batch.visible, batch)

    def place_tokens(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        visible: torch.Tensor,
        batch: Batch | None = None,
    ) -> Placed:
        """`tokens`, `positions`: int64 [rows, length]; `visible`: bool [rows, length, keys]."""
        probe = torch.empty(0, dtype=self.dtype, device=self.device)
        cos, sin = self.rotary(probe, positions.to(self.device))
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(~visible.to(self.device), float("-inf"))
        return Placed(
            tokens.to(self.device), cos.unsqueeze(2), sin.unsqueeze(2), mask.unsqueeze(1), batch
        )

    def embed(self, placed: Placed) -> torch.Tensor:
        """[rows, length, hidden size]"""
        return F.embedding(placed.tokens, self.embedding)

    def run(
        self,
        step: Step,
        hidden: torch.Tensor,
        placed: Placed,
        cache: KeyValues | None = None,
    ) -> torch.Tensor:
        """Hidden state after one step; with a cache, `hidden` holds the new tokens only."""
        layer = self.layers[step.layer]
        if step.part == "attn":
            after = hidden + self._attention(layer, hidden, placed, cache)
        elif step.part == "mlp":
            after = hidden + self._mlp(layer, hidden)
        else:
            after = hidden + self._attention(layer, hidden, placed, cache)
            after = after + self._mlp(layer, after)
        return after if step.scale == 1 else hidden + step.scale * (after - hidden)

    def score(self, hidden: torch.Tensor, placed: Placed) -> tuple[torch.Tensor, torch.Tensor]:
        """The head runs at scored positions only, a chunk of them at a time."""
        batch = placed.batch
        assert batch is not None, "place() a batch to score it"
        rows = hidden.flatten(0, 1)[batch.positions_scored.to(self.device)]
        order = torch.argsort(batch.target_positions, stable=True)
        positions = batch.target_positions[order]
        logprobs = torch.empty(len(order), dtype=torch.float64)
        greedy = torch.empty(len(order), dtype=torch.bool)
        for start in range(0, len(rows), HEAD_CHUNK):
            chunk = self.logits(rows[start : start + HEAD_CHUNK]).float()
            low, high = torch.searchsorted(
                positions, torch.tensor([start, start + HEAD_CHUNK])
            ).tolist()
            where = order[low:high]
            local = (positions[low:high] - start).to(self.device)
            targets = batch.targets[where].to(self.device)
            found = chunk[local, targets]
            scores = found - torch.logsumexp(chunk, dim=-1)[local]
            logprobs[where] = scores.double().cpu()
            greedy[where] = _is_argmax(chunk, local, targets, found).cpu()
        return logprobs, greedy

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden size] -> [..., vocabulary]: final norm and head."""
        return F.linear(self._norm(hidden, self.norm), self.head)

    def _attention(
        self, layer: Layer, hidden: torch.Tensor, placed: Placed, cache: KeyValues | None
    ) -> torch.Tensor:
        rows, length, _ = hidden.shape
        qkv = F.linear(self._norm(hidden, layer.input_norm), layer.qkv, layer.qkv_bias)
        qkv = qkv.view(rows, length, -1, self.head_dim)
        rotated, values = qkv.split((self.n_heads + self.n_kv_heads, self.n_kv_heads), dim=2)
        rotated = _rotate(rotated, placed.cos, placed.sin)
        queries, keys = rotated.split((self.n_heads, self.n_kv_heads), dim=2)
        queries, keys, values = (x.transpose(1, 2) for x in (queries, keys, values))
        if cache is not None:
            keys, values = cache.extend(keys, values)
        mixed = F.scaled_dot_product_attention(
            queries,
            self._for_all_heads(keys),
            self._for_all_heads(values),
            attn_mask=placed.mask,
        )
        return F.linear(mixed.transpose(1, 2).reshape(rows, length, -1), layer.out, layer.out_bias)

    def _for_all_heads(self, x: torch.Tensor) -> torch.Tensor:
        """Grouped-query attention: each key head serves n_heads / n_kv_heads query heads."""
        groups = self.n_heads // self.n_kv_heads
        if groups == 1:
            return x
        rows, heads, length, dim = x.shape
        return x.unsqueeze(2).expand(rows, heads, groups, length, dim).flatten(1, 2)

    def _mlp(self, layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
        normed = self._norm(hidden, layer.post_norm)
        gate, up = F.linear(normed, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, layer.down, layer.down_bias)

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden, weight.shape, weight, self.norm_eps)


def usable_device(name: str) -> torch.device:
    """The device, or a UserError where CUDA is asked for and absent."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f'device "{name}": torch finds no CUDA device here; "cpu" works everywhere')
    return torch.device(name)


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


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding on [rows, length, heads, head dim], halves rotated."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


def _rotary(config: PreTrainedConfig) -> LlamaRotaryEmbedding:
    """transformers' own frequencies, so that every static scaling (llama3, yarn, …) is right."""
    kind = (config.rope_parameters or {}).get("rope_type", "default")
    if kind in LENGTH_DEPENDENT_ROPE:
        raise UserError(
            f'rope type "{kind}": its frequencies depend on the length of each input, which shared '
            "prefixes do not allow; default, linear, llama3 and yarn work"
        )
    return LlamaRotaryEmbedding(config=config)


class _Weights:
    """Tensors of a directory's safetensors files by name, cast on the way to the device."""

    def __init__(self, directory: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.files = [
            safe_open(path, framework="pt") for path in sorted(directory.glob("*.safetensors"))
        ]
        self.where = {name: file for file in self.files for name in file.keys()}  # noqa: SIM118

    def get(self, name: str) -> torch.Tensor:
        return self.where[name].get_tensor(name).to(device=self.device, dtype=self.dtype)

    def stacked(self, names: Iterator[str]) -> torch.Tensor | None:
        """The tensors one below the other; None where the model has none of them."""
        found = [self.get(name) for name in names if name in self.where]
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
