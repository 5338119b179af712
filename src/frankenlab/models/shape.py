"""Names and shapes of a LLaMA-shaped model's tensors, from its config.json alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frankenlab.io.errors import UserError

HEAD = "lm_head"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


# Sizes beyond these are slips or attacks; a list of all tensors must fit into memory.
MOST_LAYERS, MOST = 10_000, 1 << 24
# transformers takes these where config.json has no num_key_value_heads; elsewhere as many as heads.
KEY_VALUE_HEADS = {"mistral": 8, "qwen2": 32}


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
            UserError: config.json lacks a size, or it is not an integer that a model can have.
        """

        def size(key: str, default: int | None = None, most: int = MOST) -> int:
            value = config.get(key)
            value = default if value is None else value
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(
                    f"config.json: {key} is {_shown(value)}, expected a positive integer"
                )
            if value > most:
                raise UserError(f"config.json: {key} is {_shown(value)}, expected at most {most}")
            return value

        hidden, inner = size("hidden_size"), size("intermediate_size")
        heads, vocab = size("num_attention_heads"), size("vocab_size")
        n_layers = size("num_hidden_layers", most=MOST_LAYERS)
        dim = size("head_dim", hidden // heads)
        absent = "num_key_value_heads" not in config
        usual = KEY_VALUE_HEADS.get(config.get("model_type"), heads) if absent else heads
        kv_heads = size("num_key_value_heads", usual)
        if heads % kv_heads:
            raise UserError(
                f"config.json: num_attention_heads is {heads}, expected a multiple of the "
                f"{kv_heads} num_key_value_heads"
            )
        queries, keys = heads * dim, kv_heads * dim
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
        return cls(
            n_layers, _switch(config, "tie_word_embeddings"), linears, frozenset(biased), others
        )

    def plain(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor of the model without quantization, by its name."""
        shapes = dict(self.others)
        for name, shape in self.linears.items():
            shapes[f"{name}.weight"] = shape
            if name in self.biased:
                shapes[f"{name}.bias"] = shape[:1]
        return shapes


def _biased(config: Mapping[str, Any]) -> list[str]:
    """Return the linear layers of a decoder layer that have a bias: Qwen2 always has three, and
    Mistral none, whatever config.json says."""
    kind = config.get("model_type")
    attention = [f"self_attn.{name}" for name in ATTENTION]
    if kind == "qwen2":
        return attention[:3]
    if kind == "mistral":
        return []
    biased = attention if _switch(config, "attention_bias") else []
    return biased + ([f"mlp.{name}" for name in MLP] if _switch(config, "mlp_bias") else [])


def _switch(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"config.json: {key} is {_shown(value)}, expected true or false")
    return value


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:60] + "…"
