"""Writes tensors as safetensors files of a bounded size, with the index that transformers reads."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

from frankenlab.io.files import write_json
from frankenlab.models.files import INDEX

SHARD_BYTES = 2 << 30


def write_weights(
    directory: Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    stem: str = "model",
    shard_bytes: int = SHARD_BYTES,
    index: bool = True,
) -> None:
    """Write `stem`.safetensors, or `stem`-00001-of-0000N.safetensors with an index beside them.

    A file is closed when its tensors reach `shard_bytes`, so that memory stays far below the
    model's size.

    Args:
        tensors: name and value, in any order.
        index: whether several files get an index.
    """
    shards: list[list[str]] = []
    shard: dict[str, torch.Tensor] = {}
    size = total = 0

    def close() -> None:
        save_file(shard, directory / f"part-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    for name, tensor in tensors:
        # safetensors refuses tensors that share memory, as the copies of one layer do.
        shard[name] = tensor.clone(memory_format=torch.contiguous_format)
        size += tensor.nbytes
        total += tensor.nbytes
        if size >= shard_bytes:
            close()
            size = 0
    if shard:
        close()
    places: dict[str, str] = {}
    for number, names in enumerate(shards):
        part = f"{stem}-{number + 1:05d}-of-{len(shards):05d}" if len(shards) > 1 else stem
        (directory / f"part-{number}").rename(directory / f"{part}.safetensors")
        places |= dict.fromkeys(names, f"{part}.safetensors")
    if index and len(shards) > 1:
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
