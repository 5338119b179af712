"""Tiny random models with a real tokenizer, for every test that needs a model on disk."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from frankenlab.models.exl2.declaration import Declaration
from frankenlab.models.exl2.format import Codes, pack
from frankenlab.models.exl2.writing import stored_tensors, write_exl2
from frankenlab.models.shape import HEAD, ModelShape

CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}

# Enough words for the merges of a few hundred tokens; the tests' own texts use the same ones.
CORPUS = """
The river runs past the old mill, and the miller's children run after it. In the morning the
water is cold; by noon it is warm enough to swim. Which animal lives in the water? The answer is
a fish. Which animal can fly? The answer is a bird. What melts when it is heated? Ice melts.
Question: Why do plants need light? Answer: They make sugar from light, water and air.
She said that the engine would not start, so they walked home through the rain and the dark.
One, two, three, four, five: 1 2 3 4 5 6 7 8 9 10 20 100. Some questions have no good answers.
The teacher asked the students to measure the temperature of the liquid before and after mixing.
A magnet attracts iron but not copper. The moon reflects the light of the sun. Rocks become sand.
"""

BOS, EOS = "<|begin|>", "<|end|>"


# transformers gives every Qwen2 model this splitting, whatever its tokenizer.json says.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def tiny_tokenizer(vocab: int, architecture: str = "llama") -> Tokenizer:
    """A byte-level BPE of exactly `vocab` tokens, the same on every run: `<|begin|>` is 0,
    `<|end|>` is 1, then the 256 bytes, then merges learned from `CORPUS`."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if architecture == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS.splitlines(), trainer)
    if tokenizer.get_vocab_size() != vocab:
        raise ValueError(f"vocab {vocab} is not possible, 258 (bytes only) to 500 are")
    return tokenizer


def make_tiny_model(
    directory: str | Path,
    architecture: str = "llama",
    tied: bool = False,
    n_layers: int = 4,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    rope: str = "default",
    seed: int = 0,
    vocab: int = 384,
    biases: bool = False,
) -> Path:
    """Saves a random float32 model and its tokenizer as a Hugging Face directory.

    The weights are large enough (standard deviation 0.1) that dropping or repeating a layer
    changes the outputs by far more than rounding does, and small enough that no plan of the tests
    amplifies rounding: test_rounding.py holds both. Norms and biases (of Qwen2's q, k, v) are
    random too, so that leaving them out cannot go unseen.

    Args:
        architecture: "llama", "mistral" or "qwen2".
        biases: every linear layer but the head has a bias; for "llama".
        rope: "default" or "llama3".
        vocab: number of tokens, 258 (bytes only) to 500.
    """
    directory = Path(directory)
    config = CONFIGS[architecture](
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=n_layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        rope_parameters=ROPES[rope],
        tie_word_embeddings=tied,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **({"sliding_window": None} if architecture == "mistral" else {}),
        **({"attention_bias": True, "mlp_bias": True} if biases else {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("norm.weight"):
                    parameter.uniform_(0.5, 1.5)
                elif name.endswith(".bias"):
                    parameter.normal_(std=0.3)
    model.save_pretrained(directory)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(vocab, architecture),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        # Qwen2Tokenizer would add a token of its own, for which the model has no embedding.
        unk_token=EOS,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(directory)
    return directory


def make_tiny_exl2(
    directory: str | Path,
    bits: int = 6,
    tied_head: bool = False,
    edit: Callable[[dict[str, Any]], None] | None = None,
    shard_bytes: int = 1 << 30,
    architecture: str = "llama",
    inner: int = 384,
    heads: int = 4,
    kv_heads: int = 2,
    n_layers: int = 3,
    rope: str = "default",
) -> Path:
    """Saves a random EXL2 model without a tokenizer, its codes rounded to the nearest.

    Weights are small enough that float16 is exact to a few thousandths of a log-probability.

    Args:
        tied_head: the embeddings are the head; else it is quantized, whatever the config says.
        edit: changes config.json before the tensors are made for it.
    """
    directory = Path(directory)
    directory.mkdir(parents=True)
    made = CONFIGS[architecture](
        vocab_size=384,
        hidden_size=128,
        intermediate_size=inner,
        num_hidden_layers=n_layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        rope_parameters=ROPES[rope],
        tie_word_embeddings=tied_head,
        architectures=[f"{architecture.capitalize()}ForCausalLM"],
        **({"sliding_window": None} if architecture == "mistral" else {}),
    )
    config = json.loads(made.to_json_string(use_diff=False))
    if edit:
        edit(config)
    shapes, draw = ModelShape.from_config(config), torch.Generator().manual_seed(11)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in shapes.others.items():
        value = torch.randn(shape, generator=draw)
        if name.endswith("norm.weight"):
            tensors[name] = 1 + 0.2 * value
        else:
            tensors[name] = value * (0.1 if tied_head else 1.0)
    for name, shape in shapes.linears.items():
        if name == HEAD and tied_head:
            continue
        weight = torch.randn(shape, generator=draw) * 0.7 / shape[1] ** 0.5
        bias = torch.randn(shape[0], generator=draw) * 0.3 if shapes.has_bias(name) else None
        linear = pack(_nearest_codes(weight, bits, draw, bias))
        tensors |= stored_tensors(name, linear)
    declared = Declaration("tests", "1.0", float(bits), bits, {})
    write_exl2(directory, config, declared, tensors.items(), shard_bytes)
    return directory


def _nearest_codes(
    weight: torch.Tensor, bits: int, draw: torch.Generator, bias: torch.Tensor | None
) -> Codes:
    """Groups of 32 inputs in a random order."""
    order = torch.randperm(weight.shape[1], generator=draw)
    rows = weight.T[order].unflatten(0, (-1, 32))
    needed = rows.abs().amax(1) / ((1 << (bits - 1)) - 1)
    scale_max = (needed.amax(1) * 1.01).half()
    scales = (needed / scale_max.float()[:, None] * 256).sqrt().ceil().clamp(1, 16) - 1
    steps = (scales + 1) ** 2 * (scale_max.float() / 256)[:, None]
    values = (rows / steps[:, None]).round() + (1 << (bits - 1))
    return Codes(
        values=values.clamp(0, (1 << bits) - 1).flatten(0, 1).to(torch.uint8),
        scales=scales.to(torch.uint8),
        scale_max=scale_max,
        groups=((bits, 32),) * len(rows),
        order=order,
        bias=None if bias is None else bias.half(),
    )
