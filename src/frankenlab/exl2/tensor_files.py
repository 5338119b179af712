"""Tensors by name, over several safetensors files, read one at a time."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from frankenlab.errors import UserError


class TensorFiles:
    """Opens the files and reads their headers; tensors are read when they are asked for.

    Raises:
        UserError: a file is damaged, or two files hold a tensor of one name.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._file = {}
        self._path: dict[str, Path] = {}
        for path in paths:
            try:
                file = safe_open(path, framework="pt")
                names = list(file.keys())
            except (SafetensorError, OSError) as error:
                reason = " ".join(str(error).split())
                raise UserError(f"{path}: damaged or not safetensors ({reason})") from error
            for name in names:
                if name in self._path:
                    both = f"{self._path[name].name} and {path.name}"
                    raise UserError(f"{path.parent}: tensor '{name}' is in {both}; keep one")
                self._file[name], self._path[name] = file, path

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._file)

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def shape(self, name: str) -> tuple[int, ...]:
        """From the header, without reading the tensor."""
        return tuple(self._file[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """As safetensors names it ("F16", "I32", …), from the header."""
        return self._file[name].get_slice(name).get_dtype()

    def get(self, name: str) -> torch.Tensor:
        return self._file[name].get_tensor(name)
