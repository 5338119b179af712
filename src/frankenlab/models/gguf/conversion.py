"""GGUF files: reading their header, and converting them to a Hugging Face directory.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The library gguf reads it and
dequantizes the weights.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError, one_line
from frankenlab.models.files import CONFIG, write_settings
from frankenlab.models.gguf.model import check_tensors, float_tensors, model_config
from frankenlab.models.gguf.tokenizer import check_tokenizer, check_vocabulary, save_tokenizer
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.models.weight_writing import write_weights

# llama.cpp calls Mistral's architecture llama too.
SUPPORTED = ("llama", "qwen2")


@dataclass(frozen=True)
class Gguf:
    """The contents of a GGUF file but for the weights: `metadata` by key, `tensors` name → type,
    `config` as transformers has it in config.json."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, str]
    config: Mapping[str, Any]


def read_gguf(path: Path) -> Gguf:
    """Read the metadata and the names, types and shapes of the tensors.

    Raises:
        UserError: it is not a GGUF file, or one that cannot be converted without loss: another
            architecture, tensors that have no place in it, scaled rotary positions (GGUF stores
            them otherwise than transformers reads them), a tokenizer that isn't known here.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {t.name: t.tensor_type.name for t in reader.tensors}
        shapes = {t.name: tuple(map(int, reversed(t.shape))) for t in reader.tensors}
    except Exception as error:  # Whatever a reader meets in a damaged file.
        reason = one_line(error)[:200]
        raise UserError(f"{path.name}: not a readable GGUF file ({reason})") from error
    try:
        _check_kind(metadata)
        check_vocabulary(metadata)
        config = model_config(metadata, tuple(tensors))
        check_tensors(config, shapes)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None
    return Gguf(path, metadata, tensors, config)


def convert_gguf(gguf: Gguf, directory: Path) -> str:
    """Write the model and its tokenizer as a Hugging Face directory; return how it was made.

    The weights become float32, because that alone is exact: of the values that Q4_1 stands for in
    SmolLM2-135M, bfloat16 changes 82 % and float16 48 %. It costs space (538 MB instead of 269),
    not speed: an engine casts to the precision that it computes in.

    Raises:
        UserError: weights cannot be read, or the tokenizer differs from the metadata.
    """
    try:
        write_weights(directory, float_tensors(gguf.path, gguf.config))
        generation = {key: gguf.config[key] for key in gguf.config if key.endswith("_token_id")}
        write_settings(directory / CONFIG, gguf.config)
        write_settings(directory / "generation_config.json", generation)
        save_tokenizer(gguf.metadata, directory)
        check_tokenizer(load_tokenizer(directory), gguf.metadata)
    except UserError as error:
        raise UserError(f"{gguf.path.name}: {error}") from None
    kinds = Counter(gguf.tensors.values()).most_common()
    weights = ", ".join(f"{name} ({count} tensors)" for name, count in kinds)
    quantized = any(kind not in ("F32", "F16", "BF16") for kind, _ in kinds)
    return f"{weights} {'dequantized' if quantized else 'converted'} to float32"


def _check_kind(metadata: Mapping[str, Any]) -> None:
    architecture = metadata.get("general.architecture")
    if architecture not in SUPPORTED:
        raise UserError(
            f"architecture '{architecture}' is not supported; allowed: {', '.join(SUPPORTED)}"
        )
    if metadata.get("split.count", 1) not in (0, 1):
        raise UserError(
            "a file in several parts cannot be converted; take a Hugging Face directory"
        )
