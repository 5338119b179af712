"""Tiny random models with a real tokenizer, for every test that needs a model on disk."""

from functools import cache
from pathlib import Path

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
) -> Path:
    """Saves a random float32 model and its tokenizer as a Hugging Face directory.

    The weights are large enough (standard deviation 0.3) that dropping or repeating a layer
    changes the outputs by far more than rounding does, and norms and biases (of Qwen2's q, k, v)
    are random too, so that leaving them out cannot go unseen.

    Args:
        architecture: "llama", "mistral" or "qwen2".
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
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **({"sliding_window": None} if architecture == "mistral" else {}),
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
