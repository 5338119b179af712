"""The shape of a LLaMA-shaped model: its sizes, and the tensors and counts that follow."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

from pydantic import PositiveInt

from frankenlab.io.errors import UserError, excerpt
from frankenlab.io.records import is_record

HEAD = "lm_head"
EMBEDDINGS, NORM = "model.embed_tokens.weight", "model.norm.weight"
# The modules of a decoder layer: linear layers in the order in which they run, and norms.
ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
MLP = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))
NORMS = {"attn": "input_layernorm", "mlp": "post_attention_layernorm"}
# The two parts of a decoder layer that a plan can repeat -> linear layers.
PARTS = {"attn": ATTENTION, "mlp": MLP}

# Sizes beyond these are slips or attacks; a list of all tensors must fit into memory.
MOST_LAYERS, MOST = 10_000, 1 << 24
# transformers takes these where config.json has no num_key_value_heads; elsewhere as many as heads.
KEY_VALUE_HEADS = {"mistral": 8, "qwen2": 32}
# The counts that a manifest has beside the sizes.
COUNTS = ("per_layer", "mlp", "embeddings", "head")


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model, in elements.

    Attributes:
        architecture: transformers' `model_type`.
        tied_embeddings: whether the head shares the embeddings' weights.
        rope: transformers' `rope_parameters`, empty where only sizes are known.
        biased: the linear layers of a decoder layer that have a bias ("self_attn.q_proj", …).
        dtype: how most weights are stored, "exl2" where they are quantized.
    """

    architecture: str
    n_layers: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    n_heads: PositiveInt
    n_kv_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    tied_embeddings: bool
    norm_eps: float = 1e-6
    rope: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float16"
    biased: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ModelShape":
        """Return the shape that a config.json describes, as transformers' Llama, Mistral and Qwen2
        read it.

        Raises:
            UserError: config.json lacks a size, or it is not an integer that a model can have.
        """

        def size(key: str, default: int | None = None, most: int = MOST) -> int:
            value = config.get(key)
            value = default if value is None else value
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(
                    f"config.json: {key} is {excerpt(value)}, expected a positive integer"
                )
            if value > most:
                raise UserError(f"config.json: {key} is {excerpt(value)}, expected at most {most}")
            return value

        hidden, heads = size("hidden_size"), size("num_attention_heads")
        kind = config.get("model_type")
        absent = "num_key_value_heads" not in config
        usual = KEY_VALUE_HEADS.get(kind, heads) if absent and isinstance(kind, str) else heads
        kv_heads = size("num_key_value_heads", usual)
        if heads % kv_heads:
            raise UserError(
                f"config.json: num_attention_heads is {heads}, expected a multiple of the "
                f"{kv_heads} num_key_value_heads"
            )
        return cls(
            architecture=kind or "llama",
            n_layers=size("num_hidden_layers", most=MOST_LAYERS),
            hidden_size=hidden,
            intermediate_size=size("intermediate_size"),
            n_heads=heads,
            n_kv_heads=kv_heads,
            head_dim=size("head_dim", hidden // heads),
            vocab_size=size("vocab_size"),
            max_position_embeddings=config.get("max_position_embeddings") or 2048,
            tied_embeddings=_switch(config, "tie_word_embeddings"),
            norm_eps=config.get("rms_norm_eps", 1e-6),
            rope=config.get("rope_parameters") or {},
            biased=_biased(config),
        )

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any], where: Any) -> "ModelShape":
        """Return the shape that a model's manifest has, without reading the model again.

        Which layers have a bias follows from the numbers of parameters.

        Raises:
            UserError: the manifest was written before it had a shape, or contradicts itself.
        """
        shape = manifest.get("shape")
        if isinstance(shape, Mapping):
            sizes = {f.name: shape[f.name] for f in fields(cls) if f.name in shape}
            known = product(((), ATTENTION[:3], ATTENTION), ((), MLP))
            for attention, mlp in known if is_record(sizes, cls) else ():
                made = cls(**sizes, biased=(*attention, *mlp))
                if made.to_manifest() == shape:
                    return made
        raise UserError(
            f"{where}: no shape of the model in it; `frankenlab fetch --config ...` makes it again"
        )

    def to_manifest(self) -> dict[str, Any]:
        """Return what a manifest says of the shape: sizes, and numbers of parameters."""
        sizes = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "biased"}
        return sizes | {f"parameters_{of}": getattr(self, f"parameters_{of}") for of in COUNTS}

    @property
    def kv_size(self) -> int:
        """The width of a layer's keys, all heads together, and that of its values."""
        return self.n_kv_heads * self.head_dim

    @cached_property
    def layer_linears(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one decoder layer, in the order in which they run -> [out, in]."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.n_heads * self.head_dim, self.kv_size
        attention = [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries)]
        mlp = [(inner, hidden), (inner, hidden), (hidden, inner)]
        return dict(zip((*ATTENTION, *MLP), attention + mlp, strict=True))

    @cached_property
    def linears(self) -> dict[str, tuple[int, int]]:
        """All linear layers (names without `.weight`), the head last -> [out, in]."""
        layers = {
            f"model.layers.{layer}.{name}": shape
            for layer in range(self.n_layers)
            for name, shape in self.layer_linears.items()
        }
        return layers | {HEAD: (self.vocab_size, self.hidden_size)}

    @cached_property
    def others(self) -> dict[str, tuple[int, ...]]:
        """All tensors that belong to no linear layer -> their shapes."""
        norms = [
            f"model.layers.{layer}.{norm}.weight"
            for layer in range(self.n_layers)
            for norm in NORMS.values()
        ]
        embeddings = {EMBEDDINGS: (self.vocab_size, self.hidden_size)}
        return {**embeddings, **dict.fromkeys([*norms, NORM], (self.hidden_size,))}

    def has_bias(self, linear: str) -> bool:
        """Tell whether one of `linears` has a bias."""
        return linear.endswith(self.biased)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor of the model without quantization, by its name; the
        head is one of them though the embeddings may be its weights."""
        shapes: dict[str, tuple[int, ...]] = dict(self.others)
        for name, (outputs, inputs) in self.linears.items():
            shapes[f"{name}.weight"] = (outputs, inputs)
            if self.has_bias(name):
                shapes[f"{name}.bias"] = (outputs,)
        return shapes

    def part_weights(self, part: str) -> int:
        """Return the number of weights in the linear layers of "attn" or "mlp" of a layer."""
        return sum(prod(self.layer_linears[name]) for name in PARTS[part])

    def part_parameters(self, part: str) -> int:
        """Return the number of parameters of a part of a layer, with its norm and its biases."""
        biases = sum(self.layer_linears[name][0] for name in PARTS[part] if name in self.biased)
        return self.part_weights(part) + biases + self.hidden_size

    @property
    def layer_weights(self) -> int:
        """The number of weights in the linear layers of one decoder layer."""
        return sum(map(self.part_weights, PARTS))

    @property
    def head_weights(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def parameters_per_layer(self) -> int:
        return sum(map(self.part_parameters, PARTS))

    @property
    def parameters_mlp(self) -> int:
        return self.part_parameters("mlp")

    @property
    def parameters_embeddings(self) -> int:
        return self.head_weights

    @property
    def parameters_head(self) -> int:
        return 0 if self.tied_embeddings else self.head_weights

    @property
    def parameters_outside(self) -> int:
        """The number of distinct parameters that belong to no layer: embeddings, norm and head."""
        return self.parameters_embeddings + self.parameters_head + self.hidden_size

    @property
    def parameters(self) -> int:
        """The number of distinct parameters."""
        return self.n_layers * self.parameters_per_layer + self.parameters_outside


def _biased(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the linear layers of a decoder layer that have a bias: Qwen2 always has three, and
    Mistral none, whatever config.json says."""
    kind = config.get("model_type")
    if kind == "qwen2":
        return ATTENTION[:3]
    if kind == "mistral":
        return ()
    attention = ATTENTION if _switch(config, "attention_bias") else ()
    return attention + (MLP if _switch(config, "mlp_bias") else ())


def _switch(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"config.json: {key} is {excerpt(value)}, expected true or false")
    return value
