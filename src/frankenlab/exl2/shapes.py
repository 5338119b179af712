"""Names and shapes of a LLaMA-shaped model's tensors, from its config.json alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frankenlab.errors import UserError

HEAD = "lm_head"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class ModelShapes:
    """Linear layers (name without `.weight` -> [out, in]), in the order in which the model runs
    them, the head last; `biased` are those with a bias; `others` are all other tensors."""

    n_layers: int
    tied: bool
    linears: Mapping[str, tuple[int, int]]
    biased: frozenset[str]
    others: Mapping[str, tuple[int, ...]]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ModelShapes":
        """Follows transformers' Llama, Mistral and Qwen2.

        Raises:
            UserError: config.json lacks a size, or it is not a positive integer.
        """

        def size(key: str, default: int | None = None) -> int:
            value = config.get(key)
            value = default if value is None else value
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"config.json: {key} is {value!r}, expected a positive integer")
            return value

        hidden, inner = size("hidden_size"), size("intermediate_size")
        heads, vocab, n_layers = (
            size(key) for key in ("num_attention_heads", "vocab_size", "num_hidden_layers")
        )
        dim = size("head_dim", hidden // heads)
        queries, keys = heads * dim, size("num_key_value_heads", heads) * dim
        shapes = {
            **{f"self_attn.{name}": (keys, hidden) for name in ("k_proj", "v_proj")},
            "self_attn.q_proj": (queries, hidden),
            "self_attn.o_proj": (hidden, queries),
            **{f"mlp.{name}": (inner, hidden) for name in ("gate_proj", "up_proj")},
            "mlp.down_proj": (hidden, inner),
        }
        names = [f"self_attn.{name}" for name in ATTENTION] + [f"mlp.{name}" for name in MLP]
        with_bias = _biased(config)
        linears, biased, others = {}, set(), {"model.embed_tokens.weight": (vocab, hidden)}
        for layer in range(n_layers):
            prefix = f"model.layers.{layer}"
            for norm in ("input_layernorm", "post_attention_layernorm"):
                others[f"{prefix}.{norm}.weight"] = (hidden,)
            linears |= {f"{prefix}.{name}": shapes[name] for name in names}
            biased |= {f"{prefix}.{name}" for name in with_bias}
        others["model.norm.weight"] = (hidden,)
        linears[HEAD] = (vocab, hidden)
        tied = bool(config.get("tie_word_embeddings", False))
        return cls(n_layers, tied, linears, frozenset(biased), others)


def _biased(config: Mapping[str, Any]) -> list[str]:
    attention = [f"self_attn.{name}" for name in ATTENTION]
    if config.get("model_type") == "qwen2":
        return attention[:3]
    biased = attention if config.get("attention_bias") else []
    return biased + ([f"mlp.{name}" for name in MLP] if config.get("mlp_bias") else [])
