"""Run a model one decoder layer at a time, and look at the inputs of its linear layers.

The decoder layers are transformers' own, without weights; each gets its weights when it is its
turn and loses them after. So memory is one layer in float32, the hidden states of the calibration
rows and the widest inputs of that layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from frankenlab.models.shape import HEAD
from frankenlab.models.tensor_files import TensorFiles

# Tokens that run through a layer at once.
TOKENS = 4096
# Hidden states smaller than this count as this large.
TINY = 1e-6


@dataclass(frozen=True)
class SharedInput:
    """Linear layers that read the same inputs x.

    Where the output is added to the hidden states (o_proj, down_proj), x is divided by the root
    mean square of that sum: the norms that read it do so, and without it a few tokens of huge
    activations would be all that counts.

    Attributes:
        names: full names without `.weight`.
        modules: the layers; the model runs on with weights that are replaced here.
        hessian: the mean of x xᵀ over all tokens, [in, in].
    """

    names: tuple[str, ...]
    modules: tuple[nn.Linear, ...]
    hessian: torch.Tensor


Visit = Callable[[SharedInput], None]
Batches = list[torch.Tensor]


class LayerwiseModel:
    """A LLaMA-shaped model directory with unquantized weights, run in float32."""

    def __init__(self, directory: str | Path, device: torch.device) -> None:
        config = AutoConfig.from_pretrained(directory)
        with torch.device("meta"):
            self._model: Any = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation="sdpa"
            ).eval()
        self.device = device
        self.n_layers: int = config.num_hidden_layers
        self.tied: bool = config.tie_word_embeddings
        self.files = TensorFiles.of_model(directory)
        # Buffers of the model without weights are empty, so its frequencies are made anew.
        self._rotary = type(self._model.model.rotary_emb)(config=config).to(device)

    def tensor(self, name: str) -> torch.Tensor:
        """Return a stored tensor on the device, in float32."""
        return self.files.get(name).to(device=self.device, dtype=torch.float32)

    def embed(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the hidden states [rows, length, hidden size] of tokens int64 [rows, length]."""
        return F.embedding(rows.to(self.device), self.tensor("model.embed_tokens.weight"))

    @torch.inference_mode()
    def run_layer(self, index: int, hidden: torch.Tensor, visit: Visit) -> torch.Tensor:
        """Return the hidden states after a layer.

        `visit` sees its linear layers in the order in which they run, each after those before it
        have their final weights.
        """
        name = f"model.layers.{index}"
        with self._loaded(index) as layer:
            attention, mlp = layer.self_attn, layer.mlp
            batches = _batches(hidden)
            normed = [layer.input_layernorm(x) for x in batches]
            visit(_shared(f"{name}.self_attn", attention, ("q_proj", "k_proj", "v_proj"), normed))
            mixed = [self._attend(attention, x) for x in normed]
            relative = _relative(batches, mixed, attention.o_proj)
            visit(_shared(f"{name}.self_attn", attention, ("o_proj",), relative))
            batches = [x + attention.o_proj(y) for x, y in zip(batches, mixed, strict=True)]
            del mixed, relative
            normed = [layer.post_attention_layernorm(x) for x in batches]
            visit(_shared(f"{name}.mlp", mlp, ("gate_proj", "up_proj"), normed))
            gated = [mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x) for x in normed]
            del normed
            relative = _relative(batches, gated, mlp.down_proj)
            visit(_shared(f"{name}.mlp", mlp, ("down_proj",), relative))
            return torch.cat([x + mlp.down_proj(y) for x, y in zip(batches, gated, strict=True)])

    @torch.inference_mode()
    def run_head(self, hidden: torch.Tensor, visit: Visit) -> None:
        """Show the head to `visit`; its weights may be the embeddings'."""
        norm = self._model.model.norm
        norm.load_state_dict({"weight": self.tensor("model.norm.weight")}, assign=True)
        stored = "model.embed_tokens.weight" if self.tied else f"{HEAD}.weight"
        outputs, inputs = self._model.lm_head.weight.shape
        head = nn.Linear(inputs, outputs, bias=False, device="meta")
        head.load_state_dict({"weight": self.tensor(stored)}, assign=True)
        normed = [norm(x) for x in _batches(hidden)]
        visit(SharedInput((HEAD,), (head,), _second_moment(normed)))

    @contextmanager
    def _loaded(self, index: int) -> Iterator[Any]:
        layer, prefix = self._model.model.layers[index], f"model.layers.{index}."
        names = layer.state_dict().keys()
        layer.load_state_dict({name: self.tensor(prefix + name) for name in names}, assign=True)
        try:
            yield layer
        finally:
            layer.to("meta")

    def _attend(self, attention: Any, normed: torch.Tensor) -> torch.Tensor:
        """Return the inputs of the attention's output layer. Without a mask, transformers takes
        the attention to be causal."""
        positions = torch.arange(normed.shape[1], device=normed.device).unsqueeze(0)
        output, attention.o_proj = attention.o_proj, nn.Identity()
        try:
            embeddings = self._rotary(normed, positions)
            return attention(normed, position_embeddings=embeddings, attention_mask=None)[0]
        finally:
            attention.o_proj = output


def _batches(hidden: torch.Tensor) -> Batches:
    return list(hidden.split(max(TOKENS // hidden.shape[1], 1)))


def _relative(hidden: Batches, inputs: Batches, output: nn.Module) -> Batches:
    """Return the inputs, each token's over the root mean square of its hidden + output(inputs)."""
    return [
        y / (x + output(y)).square().mean(dim=-1, keepdim=True).sqrt().clamp(min=TINY)
        for x, y in zip(hidden, inputs, strict=True)
    ]


def _shared(prefix: str, parent: Any, names: tuple[str, ...], inputs: Batches) -> SharedInput:
    modules = tuple(getattr(parent, name) for name in names)
    full = tuple(f"{prefix}.{name}" for name in names)
    return SharedInput(full, modules, _second_moment(inputs))


def _second_moment(batches: Batches) -> torch.Tensor:
    """Return the mean of x xᵀ over all tokens of batches [rows, length, n]."""
    width = batches[0].shape[-1]
    total, count = batches[0].new_zeros((width, width)), 0
    for batch in batches:
        flat = batch.reshape(-1, width)
        total.addmm_(flat.T, flat)
        count += len(flat)
    return total.div_(count)
