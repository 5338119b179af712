"""An EXL2 directory as the plain Hugging Face tensors that it stands for."""

from math import prod
from pathlib import Path

import torch

from frankenlab.io.errors import UserError
from frankenlab.models.exl2.declaration import read_declaration
from frankenlab.models.exl2.format import PARTS, QuantizedLinear, check_linear, dequantize
from frankenlab.models.files import CONFIG, declares_exl2, read_json, weight_files
from frankenlab.models.shape import HEAD, ModelShape
from frankenlab.models.tensor_files import TensorFiles, check_tensors, is_finite

# Parts of a quantized layer of which the header is checked, not the values.
LARGE = ("q_weight", "q_scale", "bias")


class Exl2Directory:
    """Tensors of an EXL2 directory by their Hugging Face names, dequantized when asked for.

    `model.layers.0.self_attn.q_proj.weight` is a name here whether the layer is quantized (as
    linear layers and the head are) or stored as it was. Everything but the codes and scales is
    checked when the directory is opened. A head that is quantized apart from the embeddings it
    shares weights with is there as `lm_head.weight`; without one, the embeddings are the head.

    Attributes:
        config: config.json.
        shape: the sizes that it gives.
        declaration: what it says about the quantization.
        linears: the quantized linear layers, without `.weight`.
        names: of the tensors that `get` gives.
        weight_files: the safetensors files that hold them.

    Raises:
        UserError: one line with the directory, the tensor and the reason.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory)
        self.config = read_json(self.path / CONFIG)
        try:
            self.declaration = read_declaration(self.config)
            self.shape = ModelShape.from_config(self.config)
            self.weight_files = weight_files(self.path)
            self._files = TensorFiles(self.weight_files)
            found = (name for name in self.shape.linears if f"{name}.q_weight" in self._files)
            self.linears = frozenset(found)
            self._check()
        except UserError as error:
            text = str(error)
            prefix = "" if text.startswith(str(self.path)) else f"{self.path}: "
            raise UserError(prefix + text) from None
        quantized = {f"{name}.weight" for name in self.linears}
        plain = {name for name in self.shape.tensors() if name in self._files}
        self.names = frozenset(quantized | plain)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def get(
        self,
        name: str,
        dtype: torch.dtype = torch.float16,
        device: str | torch.device = "cpu",
    ) -> torch.Tensor:
        """Return a tensor of `names`; a weight of a linear layer is [out, in].

        It is dequantized on `device`, with the packed tensor and a few megabytes beside the result.
        """
        module, _, kind = name.rpartition(".")
        if module not in self.linears:
            return self._files.get(name).to(device=device, dtype=dtype)
        outputs, _ = self.shape.linears[module]
        if kind == "bias":
            return self._files.get(name)[:outputs].to(device=device, dtype=dtype)
        linear = self.linear(module)
        moved = {part: tensor.to(device) for part, tensor in linear.tensors().items()}
        weight = dequantize(QuantizedLinear(**moved), outputs, dtype)
        if not is_finite(weight):
            raise UserError(
                f"{self.path}: tensor '{name}': its scales give more than float16 holds"
            )
        return weight

    def linear(self, name: str) -> QuantizedLinear:
        """Return a quantized linear layer as it is stored."""
        parts = {part: self._files.get(f"{name}.{part}") for part in PARTS}
        bias = f"{name}.bias"
        return QuantizedLinear(**parts, bias=self._files.get(bias) if bias in self._files else None)

    def bits_of(self, name: str) -> float:
        """Return the bits that a linear layer takes on disk for each of its weights: codes, scales,
        groups and the order of inputs; 16 or 32 where it is not quantized. Biases are left out."""
        parts = PARTS if name in self.linears else ("weight",)
        stored = sum(self._files.header(f"{name}.{part}").nbytes for part in parts)
        return 8 * stored / prod(self.shape.linears[name])

    @property
    def bits_per_weight(self) -> float:
        """The mean of `bits_of` over the decoder layers' weights, which is what a bitrate means in
        exllamav2."""
        sizes = {n: prod(s) for n, s in self.shape.linears.items() if n != HEAD}
        return sum(self.bits_of(name) * size for name, size in sizes.items()) / sum(sizes.values())

    @property
    def head_bits(self) -> float | None:
        """`bits_of` the head; None where the embeddings are the head."""
        return self.bits_of(HEAD) if f"{HEAD}.weight" in self else None

    def _check(self) -> None:
        if not self.linears and declares_exl2(self.config):
            some = next(iter(self.shape.linears))
            raise UserError(
                f"config.json says that the weights are EXL2, but tensor '{some}.q_weight' is "
                "missing, as those of all other linear layers are"
            )
        parts = {name: self._parts(name) for name in self.shape.linears if name in self.linears}
        quantized = [f"{name}.{part}" for name, needed in parts.items() for part in needed]
        check_tensors(self._files, self.shape, quantized)
        if missing := [name for name in quantized if name not in self._files]:
            raise UserError(f"tensor '{missing[0]}' is missing")
        for name, needed in parts.items():
            # Of a large part the header is enough.
            read = {p: self._files.header if p in LARGE else self._files.get for p in needed}
            linear = QuantizedLinear(**{p: read[p](f"{name}.{p}") for p in needed})
            check_linear(name, linear, *self.shape.linears[name])

    def _parts(self, name: str) -> tuple[str, ...]:
        return (*PARTS, "bias") if self.shape.has_bias(name) else PARTS
