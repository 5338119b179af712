"""The weights of a model as the torch engine runs them, on one device or several."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import torch

from frankenlab.engines.cards import moved
from frankenlab.models.exl2.declaration import is_exl2
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.shape import ModelShape
from frankenlab.models.split import cards_of_layers
from frankenlab.models.tensor_files import TensorFiles


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
class ModelWeights:
    """A model's weights on the device. `layers` may make a layer anew each time it is asked for.

    Attributes:
        cards: the device of each layer, where a model is split over several: the first has the
            embeddings, the last norm and head.
    """

    embedding: torch.Tensor
    layers: Sequence[Layer]
    norm: torch.Tensor
    head: torch.Tensor
    cards: Sequence[torch.device] = ()


class _Weights:
    """Tensors of a directory by their Hugging Face names, cast on the way to the device."""

    def __init__(self, directory: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.exl2 = Exl2Directory(directory) if is_exl2(directory) else None
        self.files = TensorFiles(()) if self.exl2 else TensorFiles.of_model(directory)

    def on(self, device: torch.device) -> "_Weights":
        """Return the same on the way to another device."""
        other = copy(self)
        other.device = device
        return other

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


def load_weights(
    directory: Path, dtype: torch.dtype, info: ModelShape, devices: Sequence[torch.device]
) -> ModelWeights:
    """Return a directory's weights, its layers spread over the devices."""
    weights = _Weights(directory, dtype, devices[0])
    sizes, ends = [info.parameters_per_layer] * info.n_layers, info.head_weights
    cards = [devices[card] for card in cards_of_layers(sizes, ends, ends, len(devices))]
    last, embedding = weights.on(devices[-1]), weights.get("model.embed_tokens.weight")
    norm = last.get("model.norm.weight")
    return ModelWeights(
        embedding=embedding,
        layers=[_layer(weights.on(card), index) for index, card in enumerate(cards)],
        norm=norm,
        head=moved(embedding, norm.device) if info.tied_embeddings else last.get("lm_head.weight"),
        cards=cards if len(devices) > 1 else (),
    )


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
