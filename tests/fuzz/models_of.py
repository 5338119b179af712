"""A model specification -> config.json and weights of a Hugging Face directory.

Random weights can amplify the rounding of float32, which would make false alarms. Here every part
adds about a third of the hidden state's size: a layer that is left out or runs twice changes the
scores by far more than rounding does, and rounding stays what it is.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .specs import ModelSpec

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn-attention": {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 32,
        "attention_factor": 1.2,
        "beta_fast": 16,
        "beta_slow": 2,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
}

# How Hugging Face numbers shards.
STANDARD = "model-{:05d}-of-00002.safetensors"

# Standard deviations: of the output of a part relative to its input, and of biases.
GAIN, BIAS = 0.6, 0.3


def write_model(spec: ModelSpec, tokens: int, folder: Path) -> None:
    """Write config.json and the weights of a model of so many tokens and the spec's padding."""
    vocabulary = max(tokens + spec.padding, 1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_config(spec, vocabulary), indent=1))
    tensors = _tensors(spec, vocabulary)
    stored = {name: t.to(DTYPES[spec.dtype]).contiguous() for name, t in tensors.items()}
    _save(spec.files, stored, folder)


def _config(spec: ModelSpec, vocabulary: int) -> dict[str, Any]:
    config = {
        "architectures": [ARCHITECTURES[spec.architecture]],
        "model_type": spec.architecture,
        "vocab_size": vocabulary,
        "hidden_size": spec.hidden,
        "intermediate_size": spec.inner,
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "max_position_embeddings": spec.context,
        "rms_norm_eps": spec.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": spec.tied != "no",
        "torch_dtype" if spec.old_rope else "dtype": spec.dtype,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    if spec.head_dim is not None:
        config["head_dim"] = spec.head_dim
    if spec.architecture == "llama":
        config |= {"attention_bias": spec.attention_bias, "mlp_bias": spec.mlp_bias}
    return config | _rope(spec) | _window(spec)


def _rope(spec: ModelSpec) -> dict[str, Any]:
    scaling = ROPES[spec.rope]
    if not spec.old_rope:
        return {"rope_parameters": scaling | {"rope_theta": spec.theta}}
    if spec.rope == "default":
        return {"rope_theta": spec.theta, "rope_scaling": None}
    old = {spec.old_rope if name == "rope_type" else name: v for name, v in scaling.items()}
    return {"rope_theta": spec.theta, "rope_scaling": old}


def _window(spec: ModelSpec) -> dict[str, Any]:
    if spec.architecture == "llama":
        return {}
    size = {"none": None, "wide": spec.context, "off": 16, "narrow": 16}[spec.window]
    if spec.architecture == "mistral":
        return {"sliding_window": None if spec.window == "off" else size}
    used = spec.window in ("wide", "narrow")
    return {"sliding_window": size, "use_sliding_window": used, "max_window_layers": 0}


def _tensors(spec: ModelSpec, vocabulary: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(spec.seed)
    head_dim = spec.head_dim or spec.hidden // spec.heads
    queries, keys = spec.heads * head_dim, spec.kv_heads * head_dim

    def matrix(rows: int, columns: int, gain: float = 1.0) -> torch.Tensor:
        return torch.randn((rows, columns), generator=draw) * gain / math.sqrt(columns)

    def norm() -> torch.Tensor:
        return 0.5 + torch.rand(spec.hidden, generator=draw)

    llama, qwen = spec.architecture == "llama", spec.architecture == "qwen2"
    attention, mlp = llama and spec.attention_bias, llama and spec.mlp_bias
    linears = {
        "self_attn.q_proj": (queries, spec.hidden, 1.0, qwen or attention),
        "self_attn.k_proj": (keys, spec.hidden, 1.0, qwen or attention),
        "self_attn.v_proj": (keys, spec.hidden, 1.0, qwen or attention),
        "self_attn.o_proj": (spec.hidden, queries, GAIN, attention),
        "mlp.gate_proj": (spec.inner, spec.hidden, 1.0, mlp),
        "mlp.up_proj": (spec.inner, spec.hidden, 1.0, mlp),
        "mlp.down_proj": (spec.hidden, spec.inner, 2 * GAIN, mlp),
    }
    tensors = {"model.embed_tokens.weight": torch.randn((vocabulary, spec.hidden), generator=draw)}
    if spec.tied != "no":
        tensors["model.embed_tokens.weight"] /= math.sqrt(spec.hidden)
    for number in range(spec.n_layers):
        layer = f"model.layers.{number}"
        for name, (rows, columns, gain, biased) in linears.items():
            tensors[f"{layer}.{name}.weight"] = matrix(rows, columns, gain)
            if biased:
                tensors[f"{layer}.{name}.bias"] = BIAS * torch.randn(rows, generator=draw)
        tensors[f"{layer}.input_layernorm.weight"] = norm()
        tensors[f"{layer}.post_attention_layernorm.weight"] = norm()
    tensors["model.norm.weight"] = norm()
    if spec.tied == "no":
        tensors["lm_head.weight"] = matrix(vocabulary, spec.hidden)
    elif spec.tied == "stored":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    elif spec.tied == "other":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0)
    return tensors


def _save(files: str, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Write the tensors as transformers would find them, in one of the ways of `ModelSpec`."""
    if files in ("shards", "names"):
        _save_shards(tensors, STANDARD if files == "shards" else "weights_{}.safetensors", folder)
        return
    _save_file(tensors, folder / "model.safetensors")
    others = {name: tensor + 1 for name, tensor in tensors.items()}
    if files == "decoys":
        _save_file(others, folder / "consolidated.safetensors")
        _save_file({"lora.weight": torch.ones(2)}, folder / "adapter_model.safetensors")
    elif files == "two":
        _save_shards(others, STANDARD, folder)


def _save_shards(tensors: dict[str, torch.Tensor], pattern: str, folder: Path) -> None:
    names = list(tensors)
    halves = names[::2], names[1::2]
    index = {}
    for number, half in enumerate(halves, start=1):
        _save_file({name: tensors[name] for name in half}, folder / pattern.format(number))
        index |= dict.fromkeys(half, pattern.format(number))
    total = sum(tensor.nbytes for tensor in tensors.values())
    written = json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(written)


def _save_file(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})
