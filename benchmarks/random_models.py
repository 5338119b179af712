"""Models of random weights: of the right shapes and sizes, without meaning. For measurements."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from frankenlab.io.directories import make_directory
from frankenlab.io.files import write_json
from frankenlab.models.exl2.declaration import Declaration
from frankenlab.models.exl2.format import QuantizedLinear
from frankenlab.models.exl2.limits import packed_words, padded
from frankenlab.models.exl2.writing import stored_tensors, write_exl2
from frankenlab.models.shape import HEAD, ModelShape

GROUP = 128  # inputs of a group, as exllamav2 takes them at 4 bits and more

# Standard deviation of code − 2^(b−1) over uniform codes, times that of (s + 1)² over uniform s.
SPREAD = {bits: ((4**bits - 1) / 12) ** 0.5 * 123.5 for bits in (4, 5)}

# Beside the sizes, what LLaMA's config.json has.
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float16",
}


def config_of(sizes: ModelShape, n_layers: int) -> dict[str, Any]:
    """A config.json of a LLaMA of these sizes and so many layers."""
    return LLAMA | {
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": n_layers,
        "num_attention_heads": sizes.n_heads,
        "num_key_value_heads": sizes.n_kv_heads,
        "head_dim": sizes.head_dim,
        "vocab_size": sizes.vocab_size,
        "max_position_embeddings": sizes.max_position_embeddings,
        "tie_word_embeddings": sizes.tied_embeddings,
    }


def random_model(target: Path, config: Mapping[str, Any], device: str = "cpu") -> Path:
    """A Hugging Face directory in float16, without a tokenizer; its weights are drawn on `device`,
    which for a large model saves minutes."""
    shapes = ModelShape.from_config(config)
    torch.manual_seed(0)
    tensors = {name: torch.ones(shape).half() for name, shape in shapes.others.items()}
    for name, (outputs, inputs) in shapes.linears.items():
        if not (name == HEAD and shapes.tied_embeddings):
            weight = torch.empty((outputs, inputs), dtype=torch.float16, device=device)
            tensors[f"{name}.weight"] = weight.normal_(std=0.5 / inputs**0.5).cpu()
    tensors["model.embed_tokens.weight"].normal_()
    target.mkdir(parents=True)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    write_json(target / "config.json", dict(config))
    return target


def random_exl2(target: Path, config: Mapping[str, Any], device: str) -> Path:
    """A valid EXL2 directory of random weights: of the right shapes and sizes, without meaning.

    An eighth of each layer's groups has 5 bits, the others 4, as a 4-bit model of exllamav2 has.
    """
    declared = Declaration("random codes", bits=4.0, head_bits=4)

    def fill(directory: Path) -> dict[str, Any]:
        write_exl2(directory, config, declared, _random_tensors(config, device))
        return {"quantizer": declared.quantizer}

    make_directory(target, {"kind": "random", "key": target.name, "config": dict(config)}, fill)
    return target


def _random_tensors(config: Mapping[str, Any], device: str) -> Iterator[tuple[str, torch.Tensor]]:
    shapes = ModelShape.from_config(config)
    torch.manual_seed(0)
    for name, shape in shapes.others.items():
        if len(shape) == 1:
            yield name, torch.ones(shape)
        else:
            yield name, torch.randn(shape, device=device, dtype=torch.float16)
    for name, (outputs, inputs) in shapes.linears.items():
        if not (name == HEAD and shapes.tied_embeddings):
            linear = random_linear(outputs, inputs, device)
            yield from stored_tensors(name, linear).items()


def random_linear(outputs: int, inputs: int, device: str) -> QuantizedLinear:
    """Random codes, scales and order; weights of standard deviation 0.5 / sqrt(inputs)."""
    sizes = [min(GROUP, inputs - start) for start in range(0, inputs, GROUP)]
    bits = [5 if number < len(sizes) / 8 else 4 for number in range(len(sizes))]
    entries, word = [], 0
    for width, rows in zip(bits, sizes, strict=True):
        entries += [width, word]
        word += packed_words(rows, width)
    stored = padded(outputs)

    def words(*shape: int) -> torch.Tensor:
        return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, device=device)

    largest = [0.5 * 256 / (SPREAD[width] * inputs**0.5) for width in bits]
    return QuantizedLinear(
        q_weight=words(word, stored),
        q_scale=words(len(sizes), stored // 8),
        q_scale_max=torch.tensor(largest, dtype=torch.float16),
        q_groups=torch.tensor(entries, dtype=torch.int32).to(torch.int16),
        q_invperm=torch.randperm(inputs, device=device).to(torch.int32),
    )
