"""The model in a GGUF file: its header and weights, as transformers has them.

What a header leaves out has llama.cpp's default (src/llama-model.cpp, `load_hparams`). A header
that says something which transformers' Llama or Qwen2 does not compute is refused, and so is a
tensor that has no place there.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from frankenlab.io.errors import UserError
from frankenlab.models.model_config import ARCHITECTURES
from frankenlab.models.shape import HEAD, ModelShape
from frankenlab.models.tensor_files import is_finite

USED = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
    *("attention.key_length", "attention.value_length", "attention.sliding_window"),
    *("rope.dimension_count", "rope.freq_base", "rope.scale_linear"),
    *("rope.scaling.type", "rope.scaling.factor"),
)
# Values of keys with which llama.cpp computes as without them.
NEUTRAL = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (1.0,),
}
# Keys that no computation reads: the number of tokens is the list's length.
UNREAD = (
    *("vocab_size", "tensor_data_layout", "pooling_type"),
    *("rope.scaling.original_context_length", "rope.scaling.finetuned"),
)


def model_config(metadata: Mapping[str, Any], tensors: Sequence[str]) -> dict[str, Any]:
    """Return the config.json of the model that a GGUF file's metadata and names of tensors
    describe.

    Raises:
        UserError: a key is missing, or says what transformers would not compute.
    """
    architecture = metadata["general.architecture"]
    _check_keys(metadata, architecture)

    def number(key: str, default: float | None = None, kind: type = int) -> Any:
        return _number(metadata, f"{architecture}.{key}", default, kind)

    layers, context = number("block_count"), number("context_length")
    hidden, heads = number("embedding_length"), number("attention.head_count")
    width = number("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := number(key, width)) != width:
            raise UserError(
                f"{architecture}.{key} is {found}, but a head has {width} dimensions; take the "
                "model's Hugging Face directory instead"
            )
    window = metadata.get(f"{architecture}.attention.sliding_window", 0)
    if window != 0 and not (isinstance(window, int) and window >= context):
        raise UserError(f"attention slides over a window of {window}; only full attention is run")
    special = {
        f"{name}_token_id": metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    own = {"attention_bias": False, "mlp_bias": False}
    if architecture == "qwen2":
        own = {"use_sliding_window": False}
    config = {
        "architectures": [ARCHITECTURES[architecture]],
        "model_type": architecture,
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv", heads),
        "head_dim": width,
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "max_position_embeddings": context,
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon", kind=float),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": number("rope.freq_base", 10000.0, float),
        },
        "tie_word_embeddings": "output.weight" not in tensors,
        **own,
        **special,
    }
    ModelShape.from_config(config)
    return config


def check_tensors(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that a file's tensors (name → shape, [out, in]) are those of the model, and no others.

    Raises:
        UserError: names the tensor.
    """
    expected = _expected(config)
    if strange := sorted(shapes.keys() - expected.keys()):
        raise UserError(
            f"tensor '{strange[0]}' has no place in a {config['model_type']} model of "
            f"{config['num_hidden_layers']} layers that can be converted; take the model's "
            "Hugging Face directory instead"
        )
    for stored, (name, shape) in expected.items():
        if stored not in shapes:
            raise UserError(f"it has no weights for '{name}'")
        if shapes[stored] != shape:
            found = list(shapes[stored])
            raise UserError(f"tensor '{stored}' is {found}, expected {list(shape)}")


def float_tensors(path: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name and the float32 value of every tensor, as transformers has them.

    Raises:
        UserError: a type that gguf does not dequantize; a value that is not finite.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize

    stored = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    # llama.cpp rotates neighbouring rows of these in a llama model, and transformers those that are
    # half a head apart.
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    for stored_name, (name, shape) in _expected(config).items():
        found = stored[stored_name]
        try:
            values = dequantize(found.data, found.tensor_type)
        except NotImplementedError:
            raise UserError(
                f"tensor '{found.name}' is stored as {found.tensor_type.name}, which gguf does "
                "not dequantize"
            ) from None
        tensor = torch.from_numpy(values.reshape(shape).copy())
        if not is_finite(tensor):
            raise UserError(f"tensor '{found.name}' holds NaN or infinite values")
        module = name.split(".")[-2]
        if config["model_type"] == "llama" and module in heads:
            tensor = _unpermuted(tensor, config[heads[module]])
        yield name, tensor


def _unpermuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the rows of a query or key weight in transformers' order; llama.cpp's converter puts
    row i of a head's second half behind row i of its first."""
    pairs = weight.unflatten(0, (heads, -1, 2))
    return pairs.transpose(1, 2).reshape(weight.shape)


def _expected(config: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the name of each tensor in the file -> its name in transformers and its shape."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    shape = ModelShape.from_config(config)
    names = get_tensor_name_map(MODEL_ARCH[shape.architecture.upper()], shape.n_layers)
    tensors = shape.tensors()
    if shape.tied_embeddings:
        del tensors[f"{HEAD}.weight"]
    kinds = (".weight", ".bias")
    return {names.get_name(name, kinds) or name: (name, s) for name, s in tensors.items()}


def _check_keys(metadata: Mapping[str, Any], architecture: str) -> None:
    """Check that every key of the architecture is used, or changes nothing."""
    prefix = f"{architecture}."
    for key, value in metadata.items():
        short = key.removeprefix(prefix)
        if short == key or short in USED or short in UNREAD:
            continue
        if short not in NEUTRAL:
            raise UserError(
                f"'{key}' is not known here, so what it changes would be lost; take the model's "
                "Hugging Face directory instead"
            )
        if value not in NEUTRAL[short]:
            allowed = " or ".join(map(str, NEUTRAL[short]))
            raise UserError(f"{key} is {value}, which cannot be converted; allowed is {allowed}")
    kind = metadata.get(f"{prefix}rope.scaling.type", "linear")
    # llama.cpp takes a factor without a type for a linear one, and its older name too.
    keys = [f"{prefix}rope.scaling.factor", f"{prefix}rope.scale_linear"]
    factor = next((metadata[key] for key in keys if key in metadata), 0.0)
    if kind not in ("none", "linear") or (kind == "linear" and factor not in (0.0, 1.0)):
        raise UserError(
            f"rope scaling '{kind}' (factor {factor}) cannot be converted; take a Hugging Face "
            "directory"
        )


def _number(metadata: Mapping[str, Any], key: str, default: float | None, kind: type) -> Any:
    """Return a number of the header; where it has one for each layer, they must be the same."""
    value = metadata.get(key, default)
    if value is None:
        raise UserError(f"its metadata lack '{key}'; take another conversion")
    if isinstance(value, list):
        if len(set(map(str, value))) != 1:
            raise UserError(f"{key} differs from layer to layer, which no {key.split('.')[0]} has")
        value = value[0]
    allowed = (int, float) if kind is float else (int,)
    wrong = not isinstance(value, allowed) or isinstance(value, bool)
    if wrong or not math.isfinite(value) or value < (0 if kind is float else 1):
        raise UserError(f"{key} is {value!r}, expected a positive number")
    return value
