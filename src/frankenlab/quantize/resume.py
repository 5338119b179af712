"""Run over the layers of a model so that a killed job goes on from the last one that it saved.

After each layer its results are saved, then the hidden states that enter the next layer. Beside
every file stands its hash: one that was cut or changed counts as not there.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from frankenlab.io.errors import UserError
from frankenlab.io.files import atomic_path, sha256_file, write_if_changed
from frankenlab.io.progress import Progress
from frankenlab.quantize.layerwise import LayerwiseModel, SharedInput

logger = logging.getLogger(__name__)

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
    """Write tensors as safetensors, and the file's hash beside it, which makes it count.

    Raises:
        UserError: see `atomic_path`.
    """
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(kept, temporary)
        digest = sha256_file(temporary)
    write_if_changed(_hash_file(path), digest)


def load_tensors(path: Path) -> Tensors:
    """Return the tensors of a file that `save_tensors` wrote.

    Raises:
        Damaged: they are not what was saved.
    """
    if not is_whole(path):
        raise Damaged(f"{path}: damaged, its contents are not what was written")
    return load_file(path)


def is_whole(path: Path) -> bool:
    """Tell whether there is a file, and it holds what was saved."""
    hashed = _hash_file(path)
    if not path.is_file() or not hashed.is_file():
        return False
    return hashed.read_bytes() == sha256_file(path).encode()


def _first_to_do(folder: Path, parts: list[Path]) -> int:
    """Return the number of the first layer to run: the last one whose input is known, or 0."""
    done = next((i for i, part in enumerate(parts) if not is_whole(part)), len(parts))
    if done == len(parts):
        return done
    return next((i for i in range(done, 0, -1) if is_whole(_hidden(folder, i))), 0)


def _hidden(folder: Path, index: int) -> Path:
    """Return the file of the hidden states that enter a layer."""
    return folder / f"hidden-{index:04d}.safetensors"


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
