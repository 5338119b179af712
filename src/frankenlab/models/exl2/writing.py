"""Writes the files of an EXL2 directory that exllamav2 and `exl2.reading` open."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from frankenlab.io.errors import UserError
from frankenlab.io.files import write_json
from frankenlab.models.exl2.declaration import KEY, Declaration
from frankenlab.models.exl2.format import QuantizedLinear
from frankenlab.models.files import CONFIG
from frankenlab.models.model_config import with_old_rope_keys
from frankenlab.models.weight_writing import SHARD_BYTES, write_weights


def stored_tensors(name: str, linear: QuantizedLinear) -> dict[str, torch.Tensor]:
    """Return the tensors of a quantized layer (its name without `.weight`) by stored names."""
    return {f"{name}.{part}": tensor for part, tensor in linear.tensors().items()}


def write_exl2(
    directory: str | Path,
    config: Mapping[str, Any],
    declaration: Declaration,
    tensors: Iterable[tuple[str, torch.Tensor]],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write output.safetensors (or output-00001-of-0000N.safetensors) and then config.json, without
    which a directory is not a model to anybody. The caller copies the model's other files.

    Args:
        config: config.json of the unquantized model.
        tensors: stored name -> tensor, in any order; floats become float16, as exllamav2 has them.
        shard_bytes: a file is closed when its tensors reach this size.

    Raises:
        UserError: a tensor that float16 cannot hold.
    """
    directory = Path(directory)
    stored = ((name, _as_stored(name, tensor)) for name, tensor in tensors)
    write_weights(directory, stored, "output", shard_bytes, index=False)
    # exllamav2 silently takes 10000 for a rope_theta that only transformers 5's keys have.
    declared = {**with_old_rope_keys(config), KEY: declaration.to_config()}
    write_json(directory / CONFIG, declared)


def _as_stored(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_floating_point():
        half = tensor.to(torch.float16)
        if not torch.isfinite(half).all():
            raise UserError(f"tensor '{name}': values beyond float16, which EXL2 stores")
        tensor = half
    return tensor.cpu()
