"""A model's directory: whether it holds a model of the one shape that is worked with, and which.

It is a Hugging Face directory that `AutoModelForCausalLM` and `AutoTokenizer` load without special
arguments (float weights in safetensors, decoder layers as in LLaMA), or an EXL2 directory made of
one.
"""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

from frankenlab.io.directories import complete_manifest
from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash
from frankenlab.models.exl2.declaration import is_exl2
from frankenlab.models.files import ALLOWED, WITHOUT_EFFECT
from frankenlab.models.model_config import load_config
from frankenlab.models.shape import EMBEDDINGS, HEAD, ModelShape

# The sizes that a configuration may declare, beside the number of layers.
DECLARED = (
    *("hidden_size", "intermediate_size", "n_heads", "n_kv_heads", "head_dim", "vocab_size"),
    *("max_position_embeddings", "tied_embeddings"),
)


def model_shape(directory: str | os.PathLike) -> ModelShape:
    """Return the shape of a model: what the manifest of a complete directory says, which takes no
    time, or else what `check_llama_shaped` reads from the model.

    Raises:
        UserError: as `check_llama_shaped`.
    """
    manifest = complete_manifest(directory) or {}
    if "shape" in manifest:
        return ModelShape.from_manifest(manifest, directory)
    return check_llama_shaped(directory)


def check_llama_shaped(directory: str | os.PathLike, n_layers: int | None = None) -> ModelShape:
    """Check a model's directory by its config.json and the headers of its safetensors (an EXL2
    directory as `Exl2Directory` does), and return the model's shape.

    Every tensor that transformers would build must be there in the right shape, and no other: so
    an added norm, a router of experts or a wrong number of layers is found.

    Raises:
        UserError: it is not LLaMA-shaped, or not `n_layers` deep; says what is allowed.
    """
    directory = Path(directory)
    raw, config = load_config(directory)
    # Only transformers knows what these are where config.json leaves them out.
    known = {
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": dict(config.rope_parameters or {}),
    }
    shape = ModelShape.from_config({**raw, **known})
    if is_exl2(directory):
        # Imported here: torch takes seconds, and who reads a manifest's shape does without.
        from frankenlab.models.exl2.reading import Exl2Directory

        # Quantized, the head of tied embeddings can have weights of its own.
        own_head = f"{HEAD}.weight" in Exl2Directory(directory)
        tied = shape.tied_embeddings and not own_head
        shape = replace(shape, tied_embeddings=tied, dtype="exl2")
    else:
        shape = replace(shape, dtype=_check_floats(directory, shape))
    check_depth(shape.n_layers, n_layers, str(directory))
    return shape


def check_depth(found: int, declared: int | None, where: str) -> None:
    """Raise a UserError where a model is not as deep as the configuration declares."""
    if declared is not None and found != declared:
        raise UserError(
            f"{where}: the model has {found} layers, the configuration declares n_layers: "
            f"{declared}; write n_layers: {found}"
        )


def check_sizes(found: Mapping[str, Any], declared: ModelShape, where: str) -> None:
    """Raise a UserError where a model has other sizes than the configuration declares.

    Args:
        found: see `ModelShape.to_manifest`.
    """
    for name in DECLARED:
        # Quantized, the head of tied embeddings can have weights of its own.
        own_head = name == "tied_embeddings" and found["dtype"] == "exl2"
        if found[name] != getattr(declared, name) and not own_head:
            key = name.removesuffix("_embeddings") if name == "tied_embeddings" else name
            now, said = (str(value).lower() for value in (found[name], getattr(declared, name)))
            raise UserError(
                f"{where}: the model has {key}: {now}, the configuration declares shapes.{key}: "
                f"{said}; write {key}: {now}"
            )


def weights_hash(manifest: Mapping[str, Any]) -> str:
    """Return the identity of the model that a manifest describes: the hash of all files that
    decide what it computes from a text (weights, config.json, tokenizer)."""
    return content_hash(
        {
            name: file["sha256"]
            for name, file in manifest["files"].items()
            if not any(fnmatchcase(name, pattern) for pattern in WITHOUT_EFFECT)
        }
    )


def _check_floats(directory: Path, shape: ModelShape) -> str:
    """Check the tensors of a model that is not quantized; return the dtype of most weights."""
    from frankenlab.models.tensor_files import DTYPES, TensorFiles, check_tensors

    files, head = TensorFiles.of_model(directory), f"{HEAD}.weight"
    try:
        check_tensors(files, shape)
    except UserError as error:
        raise UserError(f"{directory}: {error}; {ALLOWED}") from None
    if shape.tied_embeddings and head in files and not files.equal(head, EMBEDDINGS):
        raise UserError(
            f"{directory}: tensors '{head}' and '{EMBEDDINGS}' differ, but config.json has "
            "tie_word_embeddings: true, so that programs take one or the other; set it to false "
            "or remove one"
        )
    weights: Counter[str] = Counter()
    for name in files.names:
        weights[DTYPES[files.dtype(name)]] += prod(files.shape(name))
    return weights.most_common(1)[0][0]
