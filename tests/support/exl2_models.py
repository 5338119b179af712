"""Tiny EXL2 models, in all ways in which such models differ."""

from typing import Any

from tests.support.paths import DATA

FIXTURE = DATA / "llama-tiny-exl2"


def old_keys(config):
    """Rotary parameters in transformers 4's keys."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta") * 50
    config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}


def rope_theta(config):
    config["rope_parameters"]["rope_theta"] = 500000.0


def linear_rope(config):
    config["rope_parameters"] |= {"rope_type": "linear", "factor": 2.0}


def attention_biases(config):
    config["attention_bias"] = True


def tied(config):
    config["tie_word_embeddings"] = True


def odd_context(config):
    config["max_position_embeddings"] = 149


# Ways in which EXL2 models differ, as far as exllamav2 goes another way.
EXL2_VARIANTS: dict[str, dict[str, Any] | None] = {
    "fixture": None,  # by exllamav2's converter; an MLP too narrow for the activation kernel
    "plain": {},
    "many-key-heads": {"kv_heads": 4},
    "head-is-the-embeddings": {"tied_head": True},
    "tied-with-a-head-of-its-own": {"edit": tied},
    "context-of-no-multiple-of-8": {"edit": odd_context},
    "several-files": {"shard_bytes": 200_000},
    "mistral": {"architecture": "mistral"},
    "qwen2": {"architecture": "qwen2"},
    "attention-biases": {"edit": attention_biases},
    "rope-theta": {"edit": rope_theta},
    "linear-rope": {"edit": linear_rope},
    "llama3-rope": {"rope": "llama3"},
    "llama3-rope-in-old-keys": {"rope": "llama3", "edit": old_keys},
}
