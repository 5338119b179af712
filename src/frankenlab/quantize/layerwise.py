"""A model run one decoder layer at a time, with what is known about its linear layers' inputs.

The decoder layers are transformers' own, without weights; each gets its weights when it is its
turn and loses them after. So memory is one layer in float32, the hidden states of the calibration
rows and the widest inputs of that layer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from frankenlab.models.shape import HEAD
from frankenlab.models.tensor_files import TensorFiles

# Tokens that run through a layer at once.
TOKENS = 4096
# Hidden states as small as this are taken to be so large.
TINY = 1e-6


@dataclass(frozen=True)
class Shared:
    """Linear layers that read the same inputs: full names without `.weight`, the modules, and the
    mean of x xᵀ over all tokens, [in, in]. Weights that are replaced here are run with.

    Where the output is added to the hidden states (o_proj, down_proj), x is divided by the root
    mean square of that sum: the norms that read it do so, and without it a few tokens of huge
    activations would be all that counts.
    """

    names: tuple[str, ...]
    modules: tuple[nn.Linear, ...]
    hessian: torch.Tensor


Visit = Callable[[Shared], None]


class LayerwiseModel:
    """See the module. A LLaMA-shaped model directory with unquantized weights, in float32."""

    def __init__(self, directory: str | Path, device: torch.device) -> None:
        config = AutoConfig.from_pretrained(directory)
        with torch.device("meta"):
            self._model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation="sdpa"
            ).eval()
        self.device = device
        self.n_layers: int = config.num_hidden_layers
        self.tied: bool = config.tie_word_embeddings
        self.files = TensorFiles.of_model(directory)
        # Buffers of the model without weights are empty, so its frequencies are made anew.
        self._rotary = type(self._model.model.rotary_emb)(config=config).to(device)

    def tensor(self, name: str) -> torch.Tensor:
        """A stored tensor on the device, in float32."""
        return self.files.get(name).to(device=self.device, dtype=torch.float32)

    def embed(self, rows: torch.Tensor) -> torch.Tensor:
        """Tokens int64 [rows, length] -> hidden states [rows, length, hidden size]."""
        return F.embedding(rows.to(self.device), self.tensor("model.embed_tokens.weight"))

    @torch.inference_mode()
    def run_layer(self, index: int, hidden: torch.Tensor, visit: Visit) -> torch.Tensor:
        """The hidden states after a layer; `visit` sees its linear layers in the order in which
        they run, each after those before it have their final weights."""
        prefix = f"model.layers.{index}"
        with self._loaded(index) as layer:
            attention, mlp = layer.self_attn, layer.mlp
            batches = self._batches(hidden)
            normed = _mapped(layer.input_layernorm, batches)
            _visit(visit, f"{prefix}.self_attn", attention, ("q_proj", "k_proj", "v_proj"), normed)
            mixed = _mapped(self._attending(attention), normed)
            relative = _relative(batches, mixed, attention.o_proj)
            _visit(visit, f"{prefix}.self_attn", attention, ("o_proj",), relative)
            batches = [x + attention.o_proj(y) for x, y in zip(batches, mixed, strict=True)]
            del mixed, relative
            normed = _mapped(layer.post_attention_layernorm, batches)
            _visit(visit, f"{prefix}.mlp", mlp, ("gate_proj", "up_proj"), normed)
            gated = _mapped(lambda x: mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), normed)
            del normed
            relative = _relative(batches, gated, mlp.down_proj)
            _visit(visit, f"{prefix}.mlp", mlp, ("down_proj",), relative)
            return torch.cat([x + mlp.down_proj(y) for x, y in zip(batches, gated, strict=True)])

    @torch.inference_mode()
    def run_head(self, hidden: torch.Tensor, visit: Visit) -> None:
        """`visit` sees the head, whose weights may be the embeddings'."""
        weight = self.tensor("model.norm.weight")
        norm = self._model.model.norm
        norm.load_state_dict({"weight": weight}, assign=True)
        stored = "model.embed_tokens.weight" if self.tied else f"{HEAD}.weight"
        head = nn.Linear(*self._model.lm_head.weight.shape[::-1], bias=False, device="meta")
        head.load_state_dict({"weight": self.tensor(stored)}, assign=True)
        inputs = _mapped(norm, self._batches(hidden))
        visit(Shared((HEAD,), (head,), _second_moment(inputs)))

    @contextmanager
    def _loaded(self, index: int) -> Iterator[nn.Module]:
        layer, prefix = self._model.model.layers[index], f"model.layers.{index}."
        names = layer.state_dict().keys()
        layer.load_state_dict({name: self.tensor(prefix + name) for name in names}, assign=True)
        try:
            yield layer
        finally:
            layer.to("meta")

    def _batches(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        return list(hidden.split(max(TOKENS // hidden.shape[1], 1)))

    def _attending(self, attention: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        """Normed hidden states -> inputs of the attention's output layer; causal, as transformers
        takes it where there is no mask."""

        def attend(x: torch.Tensor) -> torch.Tensor:
            positions = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
            output, attention.o_proj = attention.o_proj, nn.Identity()
            try:
                return attention(
                    x, position_embeddings=self._rotary(x, positions), attention_mask=None
                )[0]
            finally:
                attention.o_proj = output

        return attend


def _mapped(
    function: Callable[[torch.Tensor], torch.Tensor], batches: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    return [function(batch) for batch in batches]


def _relative(
    hidden: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], output: nn.Module
) -> list[torch.Tensor]:
    """The inputs, each token's over the root mean square of its hidden + output(inputs)."""
    return [
        y / (x + output(y)).square().mean(dim=-1, keepdim=True).sqrt().clamp(min=TINY)
        for x, y in zip(hidden, inputs, strict=True)
    ]


def _visit(
    visit: Visit,
    prefix: str,
    parent: nn.Module,
    names: tuple[str, ...],
    inputs: Sequence[torch.Tensor],
) -> None:
    modules = tuple(getattr(parent, name) for name in names)
    full = tuple(f"{prefix}.{name}" for name in names)
    visit(Shared(full, modules, _second_moment(inputs)))


def _second_moment(batches: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of x xᵀ over all tokens of batches [rows, length, n]."""
    width = batches[0].shape[-1]
    total, count = batches[0].new_zeros((width, width)), 0
    for batch in batches:
        flat = batch.reshape(-1, width)
        total.addmm_(flat.T, flat)
        count += len(flat)
    return total.div_(count)
