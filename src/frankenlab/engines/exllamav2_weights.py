"""Makes weights of the torch engine from a loaded exllamav2 model, by exllamav2's own kernel.

A sweep visits a layer many times a batch. Layers whose float16 weights fit beside the quantized
ones are dequantized once and kept; the others are dequantized at each visit. Both give the same
numbers.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, overload

import torch

from frankenlab.engines.torch_weights import Layer

logger = logging.getLogger(__name__)

# exllamav2's modules of a layer: attention and MLP.
Modules = tuple[Any, Any]


class DequantizedLayers(Sequence[Layer]):
    """The layers, made of exllamav2's modules when they are asked for; some of them are kept.

    Which layers are kept is decided once, and not by their last visits: a sweep visits them in
    rounds, so the one that was visited longest ago is needed next. The last layers are kept,
    because plans share their first ones, which are therefore visited less often.

    Args:
        modules: of each layer.
        room: device -> bytes that may be taken there.
    """

    def __init__(
        self, modules: Sequence[Modules], room: Callable[[torch.device], int] = lambda device: 0
    ) -> None:
        self._modules = modules
        self._kept: dict[int, Layer] = {}
        left: dict[torch.device, int] = {}
        full: set[torch.device] = set()
        for index in reversed(range(len(modules))):
            device, size = device_of(modules[index]), dequantized_bytes(modules[index])
            if device not in left:
                left[device] = room(device)
            left[device] -= size
            if left[device] < 0 or device in full:
                full.add(device)
                continue
            try:
                self._kept[index] = dequantized(modules[index])
            except torch.OutOfMemoryError:
                full.add(device)
        logger.info("%d of %d layers are kept dequantized", len(self._kept), len(modules))

    def __len__(self) -> int:
        return len(self._modules)

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Layer]: ...
    def __getitem__(self, index: int | slice) -> Layer | Sequence[Layer]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        kept = self._kept.get(index)
        return dequantized(self._modules[index]) if kept is None else kept

    @property
    def kept(self) -> list[int]:
        """The numbers of the layers that are kept."""
        return sorted(self._kept)

    def give_up(self) -> bool:
        """Free half of the kept layers for good; return whether there were any."""
        kept = self.kept
        if not kept:
            return False
        for device in {layer.qkv.device for layer in self._kept.values()}:
            # Kernels may still read them on another stream than the one that they were made on.
            torch.cuda.synchronize(device)
        for index in kept[: (len(kept) + 1) // 2]:
            del self._kept[index]
        torch.cuda.empty_cache()
        return True


def outer_weights(
    modules: Sequence[Any],
    vocabulary: int,
    first: torch.device,
    room: Callable[[torch.device], int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the embeddings, the norm and the head.

    exllamav2 has the embeddings on the CPU, where they stay if there is no room for them.

    Args:
        modules: exllamav2's, of the whole model: embedding, layers, norm, head.
        vocabulary: number of token ids; the head is stored wider.
        first: the device of the first layer.
        room: device -> bytes that may be taken there.
    """
    embedding, *_, norm, head = modules
    matrix = _stacked([head])[:vocabulary]
    table = embedding.embedding.weight.data.to(torch.float16)
    if room(first) >= table.nbytes:
        table = table.to(first)
    return table, norm.weight.data, matrix


def device_of(modules: Modules) -> torch.device:
    """Return the device of a layer."""
    return torch.device("cuda", modules[0].device_idx)


def dequantized_bytes(modules: Modules) -> int:
    """Return the bytes that a layer takes dequantized, beside what exllamav2 has of it."""
    attention, mlp = modules
    linears = (*_qkv(attention), attention.o_proj, *_gate_up(mlp), mlp.down_proj)
    return sum(2 * linear.numel() for linear in linears if linear.is_quant())


def dequantized(modules: Modules) -> Layer:
    """Return a layer's weights in float16.

    exllamav2 has sorted the columns of gate and up as down's rows are stored. It has the others'
    inputs in their own order.
    """
    attention, mlp = modules
    return Layer(
        input_norm=attention.pre_layernorm.weight.data,
        qkv=_stacked(_qkv(attention)),
        qkv_bias=_stacked_biases(_qkv(attention)),
        out=_stacked([attention.o_proj]),
        out_bias=_stacked_biases([attention.o_proj]),
        post_norm=mlp.pre_layernorm.weight.data,
        gate_up=_stacked(_gate_up(mlp)),
        gate_up_bias=_stacked_biases(_gate_up(mlp)),
        down=_stacked([mlp.down_proj]),
        down_bias=_stacked_biases([mlp.down_proj]),
    )


def _qkv(attention: Any) -> list[Any]:
    return [attention.q_proj, attention.k_proj, attention.v_proj]


def _gate_up(mlp: Any) -> list[Any]:
    return [mlp.gate_proj, mlp.up_proj]


def _stacked(linears: Sequence[Any]) -> torch.Tensor:
    """Return the weights [out, in] one below the other.

    The kernel writes [in, out], and it stays so in memory: cuBLAS takes both.
    """
    parts = [linear.get_weight_tensor_dq() for linear in linears]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).T


def _stacked_biases(linears: Sequence[Any]) -> torch.Tensor | None:
    if not any(linear.has_bias for linear in linears):
        return None
    return torch.cat([linear.get_bias_tensor() for linear in linears])
