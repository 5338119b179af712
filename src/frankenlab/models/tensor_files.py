"""Tensors by name, over several safetensors files, read one at a time."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from frankenlab.io.errors import UserError, one_line
from frankenlab.models.files import weight_files
from frankenlab.models.shape import HEAD, ModelShape

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# How the weights of a model can be stored, but for quantized ones.
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

# The rotary frequencies in old checkpoints, which transformers computes: nobody reads them.
IGNORED = "rotary_emb.inv_freq"
# Values that are compared at a time.
COMPARED = 1 << 22


class TensorFiles:
    """The tensors in some files, whose headers are read at once; a tensor when it is asked for.

    Raises:
        UserError: a file is damaged, or two files hold a tensor of one name.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._file: dict[str, Any] = {}
        self._path: dict[str, Path] = {}
        for path in paths:
            try:
                file = safe_open(path, framework="pt")
                names = [name for name in file.keys() if not name.endswith(IGNORED)]  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise _damaged(path, error) from error
            for name in names:
                if name in self._path:
                    both = f"{self._path[name].name} and {path.name}"
                    raise UserError(f"{path.parent}: tensor '{name}' is in {both}; keep one")
                self._file[name], self._path[name] = file, path

    @classmethod
    def of_model(cls, directory: str | os.PathLike) -> "TensorFiles":
        """Open the weights of a model's directory (see `files.weight_files`)."""
        return cls(weight_files(directory))

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._file)

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, from the header."""
        return tuple(self._file[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Return a tensor's type as safetensors names it ("F16", "I32", …), from the header."""
        return self._file[name].get_slice(name).get_dtype()

    def header(self, name: str) -> torch.Tensor:
        """Return a tensor of the name's shape and type that has no values, from the header."""
        part = self._file[name].get_slice(name)
        shape = part.get_shape()
        dtype = part[:0].dtype if shape else self.get(name).dtype
        return torch.empty(shape, dtype=dtype, device="meta")

    def get(self, name: str) -> torch.Tensor:
        """Return a tensor.

        Raises:
            UserError: it cannot be read, or holds NaN or an infinity, from which no score follows.
        """
        try:
            tensor = self._file[name].get_tensor(name)
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise _damaged(self._path[name], error) from error
        if not is_finite(tensor):
            raise UserError(f"{self._path[name]}: tensor '{name}': not finite (NaN or infinity)")
        return tensor

    def equal(self, one: str, other: str) -> bool:
        """Tell whether two tensors of one shape hold the same values, a few rows at a time."""
        pair = [self._file[name].get_slice(name) for name in (one, other)]
        rows, width = self.shape(one)
        step = max(COMPARED // width, 1)
        return all(
            torch.equal(*(tensor[start : start + step].float() for tensor in pair))
            for start in range(0, rows, step)
        )


def check_tensors(files: TensorFiles, shape: ModelShape, quantized: Collection[str] = ()) -> None:
    """Check that files hold the model's tensors as floats in the right shapes, and no others.

    Args:
        quantized: stored tensors of quantized linear layers, which are checked elsewhere.

    Raises:
        UserError: names the first tensor for which that is not so.
    """
    modules = {name.rpartition(".")[0] for name in quantized}
    tensors = shape.tensors().items()
    expected = {name: s for name, s in tensors if name.rpartition(".")[0] not in modules}
    head = f"{HEAD}.weight"
    required = expected.keys() - ({head} if shape.tied_embeddings else set())
    if missing := sorted(required - files.names):
        module, _, kind = missing[0].rpartition(".")
        also = f" (and so is '{module}.q_weight')" if quantized and kind == "weight" else ""
        raise UserError(
            f"tensor '{missing[0]}' is missing{also if module in shape.linears else ''}"
        )
    if extra := sorted(files.names - expected.keys() - {*quantized}):
        raise UserError(
            f"tensor '{extra[0]}' does not belong to a {shape.architecture} model of "
            f"{shape.n_layers} layers with this config.json"
        )
    for name in sorted(expected.keys() & files.names):
        if files.shape(name) != expected[name]:
            found, right = list(files.shape(name)), list(expected[name])
            raise UserError(f"tensor '{name}' is {found}, expected {right}")
        if files.dtype(name) not in DTYPES:
            allowed = ", ".join(DTYPES)
            raise UserError(f"tensor '{name}' is stored as {files.dtype(name)}, expected {allowed}")


def is_finite(tensor: torch.Tensor) -> bool:
    """Tell whether no value of a tensor is NaN or infinite, in one pass without a copy."""
    if tensor.dtype not in FLOATS or not tensor.numel():
        return True
    return all(bool(end.isfinite()) for end in torch.aminmax(tensor))


def _damaged(path: Path, error: Exception) -> UserError:
    reason = one_line(error)
    return UserError(f"{path}: damaged or not safetensors ({reason})")
