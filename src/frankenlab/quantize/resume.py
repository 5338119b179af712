"""A pass over the layers of a model that a killed job goes on from, and the files it saves.

After each layer its results are saved, then the hidden states that enter the next layer. Every
file carries a hash of its tensors: one that was cut or changed counts as not there.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from frankenlab.io.errors import UserError
from frankenlab.io.files import atomic_path
from frankenlab.io.progress import Progress
from frankenlab.quantize.layerwise import LayerwiseModel, SharedInput

logger = logging.getLogger(__name__)

KEY = "frankenlab.sha256"

Tensors = dict[str, torch.Tensor]


class Damaged(UserError):
    """A file whose tensors are not those that were saved."""


def run_layers(
    layers: LayerwiseModel,
    rows: torch.Tensor,
    folder: Path,
    title: str,
    work_on: Callable[[SharedInput], Tensors],
    head: bool,
) -> list[Path]:
    """Run a model from where an earlier run in `folder` ended.

    Args:
        rows: tokens, int64 [rows, length].
        title: what is being done, for progress.
        work_on: gives the results for linear layers that read one input; it may change them.
        head: whether the head follows the layers.

    Returns:
        The files with the results of each layer and of the head, for `load_tensors`.
    """
    parts = [folder / f"layer-{index:04d}.safetensors" for index in range(layers.n_layers)]
    parts += [folder / "head.safetensors"] if head else []
    first = _first_to_do(folder, parts)
    if first == len(parts):
        return parts
    if first:
        hidden = load_tensors(_hidden(folder, first))["hidden"].to(layers.device)
        logger.info("%s: goes on after %d of %d layers", title, first, len(parts))
    else:
        hidden = layers.embed(rows)
    progress = Progress(len(parts) - first, title, "layers")
    for index in range(first, len(parts)):
        found: Tensors = {}

        def visit(shared: SharedInput, found: Tensors = found) -> None:
            found |= work_on(shared)

        if index < layers.n_layers:
            hidden = layers.run_layer(index, hidden, visit)
        else:
            layers.run_head(hidden, visit)
        save_tensors(parts[index], found)
        if index + 1 < len(parts):
            save_tensors(_hidden(folder, index + 1), {"hidden": hidden.cpu()})
        _hidden(folder, index).unlink(missing_ok=True)
        progress.advance(1)
    progress.close()
    return parts


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as safetensors with their hash, whole or not at all.

    Raises:
        UserError: see `atomic_path`.
    """
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(kept, temporary, metadata={KEY: _digest(kept)})


def load_tensors(path: Path) -> Tensors:
    """Return the tensors of a file that `save_tensors` wrote.

    Raises:
        Damaged: they are not what was saved.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            known = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError, ValueError) as error:
        raise Damaged(f"{path}: damaged ({' '.join(str(error).split())})") from None
    if known != _digest(tensors):
        raise Damaged(f"{path}: damaged, its contents are not what was written")
    return tensors


def is_whole(path: Path) -> bool:
    """Tell whether there is a file, and it holds what was saved."""
    if not path.is_file():
        return False
    try:
        load_tensors(path)
    except Damaged:
        return False
    return True


def _first_to_do(folder: Path, parts: list[Path]) -> int:
    """Return the number of the first layer to run: the last one whose input is known, or 0."""
    done = next((i for i, part in enumerate(parts) if not is_whole(part)), len(parts))
    if done == len(parts):
        return done
    return next((i for i in range(done, 0, -1) if is_whole(_hidden(folder, i))), 0)


def _hidden(folder: Path, index: int) -> Path:
    """Return the file of the hidden states that enter a layer."""
    return folder / f"hidden-{index:04d}.safetensors"


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        # A tensor of one element is contiguous with any stride, but not for a view as bytes.
        flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
