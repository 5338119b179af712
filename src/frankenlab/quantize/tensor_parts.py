"""Tensors that a long job keeps for its next run, in files that prove what they hold."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from frankenlab.io.errors import UserError
from frankenlab.io.files import atomic_path

KEY = "frankenlab.sha256"


class Damaged(UserError):
    """A part whose tensors are not those that were saved."""


def save_part(path: str | os.PathLike, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes tensors as safetensors with their hash, whole or not at all.

    Raises:
        UserError: as `atomic_path`.
    """
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(kept, temporary, metadata={KEY: _digest(kept)})


def load_part(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Return the tensors of a part.

    Raises:
        Damaged: they are not what was saved.
    """
    try:
        with safe_open(Path(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            known = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError, ValueError) as error:
        raise Damaged(f"{path}: damaged ({' '.join(str(error).split())})") from None
    if known != _digest(tensors):
        raise Damaged(f"{path}: damaged, its contents are not what was written")
    return tensors


def is_whole_part(path: str | os.PathLike) -> bool:
    """Tell whether there is a file, and it holds what was saved."""
    if not Path(path).is_file():
        return False
    try:
        load_part(path)
    except Damaged:
        return False
    return True


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        # Of one element any stride counts as contiguous, but not for a view as bytes.
        flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
