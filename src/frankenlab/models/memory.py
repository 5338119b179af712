"""Memory and disk that a model at a quantization takes, from its shapes alone.

Upper estimates, in bytes, of what the two engines allocate; the terms and constants are theirs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from frankenlab.models.quantization import NONE, Quantization
from frankenlab.models.shape import HEAD, ModelShapes

GB = 1e9

# Scored positions whose logits are in memory at once (`engines.scoring`).
LOGIT_ROWS = 512

# Elements of the masks that are in memory at once (`engines.masks`).
MASK_ELEMENTS = 1 << 23

# Most tokens of one sequence that exllamav2 is loaded for; attention over more takes too much.
LONGEST_PASS = 8192

# CUDA's context and kernels, and what an allocator loses between its blocks.
OVERHEAD = {"cpu": int(0.5 * GB), "cuda": int(1.2 * GB)}

# A head is stored a little wider than its nominal bits: its most important inputs are.
HEAD_EXTRA_BITS = 0.5

# Tokens of a row of a batch with a prefix, assumed: a short question with its choices.
SHORT_ROW = 64

VALUE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Sizes:
    """A model's sizes in elements: `layer` are the [out, in] of one decoder layer's linear layers,
    down_proj last; `keys` is the width of its keys, all heads together."""

    n_layers: int
    layer: tuple[tuple[int, int], ...]
    hidden: int
    inner: int
    heads: int
    keys: int
    vocab: int
    context: int
    tied: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Sizes":
        """From a config.json.

        Raises:
            UserError: it lacks a size.
        """
        shapes = ModelShapes.from_config(config)
        prefix = "model.layers.0."
        layer = {n.removeprefix(prefix): s for n, s in shapes.linears.items() if prefix in n}
        vocab, hidden = shapes.linears[HEAD]
        return cls(
            n_layers=shapes.n_layers,
            layer=tuple(layer.values()),
            hidden=hidden,
            inner=layer["mlp.gate_proj"][0],
            heads=config["num_attention_heads"],
            keys=layer["self_attn.k_proj"][0],
            vocab=vocab,
            context=config.get("max_position_embeddings") or 2048,
            tied=shapes.tied,
        )

    @property
    def layer_weights(self) -> int:
        """Weights in the linear layers of one decoder layer."""
        return sum(math.prod(shape) for shape in self.layer)

    @property
    def head_weights(self) -> int:
        return self.vocab * self.hidden

    @property
    def norms(self) -> int:
        return self.hidden * (2 * self.n_layers + 1)


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for: weights; hidden states that wait in the walk of the trie; keys
    and values; what one layer or the head needs while it works; the process itself."""

    weights: int
    states: int
    cache: int
    working: int
    overhead: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        named = ((f.name, getattr(self, f.name)) for f in fields(self))
        parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in named if size >= 0.05 * GB)
        return f"{self.total / GB:.1f} GB ({parts})"


@dataclass(frozen=True)
class Load:
    """What is run at once.

    Attributes:
        tokens: of a batch, padding included.
        row: tokens of the longest sequence in it.
        passed: tokens that exllamav2 takes at a time (`pass_tokens`).
        states: hidden states alive at once (`live_states`).
        cached: (occurrence, token) pairs whose keys and values are kept.
        prefix: tokens that all rows of the torch engine's batches begin with, beside `tokens`.
    """

    tokens: int
    row: int
    passed: int
    states: int
    cached: int = 0
    prefix: int = 0


def pass_tokens(token_budget: int, context: int) -> int:
    """Tokens for which exllamav2 is to be loaded: a batch, or a window of a text if that is longer.

    Its buffers, and without flash-attn the scores of its attention, are as large as a pass.
    """
    return max(token_budget, min(context, LONGEST_PASS))


def disk_bytes(sizes: Sizes, weights: Quantization, head_bits: int) -> int:
    """Size of a model's weights as stored, floats with 16 bits."""
    if weights == NONE:
        head = 0 if sizes.tied else sizes.head_weights
        layers = sizes.n_layers * sizes.layer_weights
        return 2 * (layers + sizes.head_weights + head + sizes.norms)
    return _exl2_weights(sizes, weights, head_bits) + 2 * sizes.head_weights


def memory(
    sizes: Sizes,
    weights: Quantization,
    head_bits: int,
    engine: str,
    load: Load,
    precision: str = "bfloat16",
    device: str = "cuda",
) -> Memory:
    """What `engine` needs to run `load`.

    Args:
        weights: what is on disk; the torch engine dequantizes EXL2 to `precision`.
        head_bits: of EXL2 weights.
        engine: "torch" or "exllamav2".
    """
    value, tokens = VALUE_BYTES[precision], load.tokens
    if engine == "exllamav2":
        # Its embeddings stay on the CPU.
        stored = _exl2_weights(sizes, weights, head_bits)
        working = _exllamav2_working(sizes, load)
    else:
        stored = value * disk_bytes(sizes, NONE, head_bits) // 2
        # A tied head is quantized apart from the embeddings, so it is a matrix of its own.
        if weights != NONE and sizes.tied:
            stored += value * sizes.head_weights
        working = max(_torch_working(sizes, load, value), value * sizes.layer_weights)
        tokens += load.prefix
    # As they come, as float32, and their exponentials.
    logits = LOGIT_ROWS * sizes.vocab * (value + 4 + 4)
    return Memory(
        weights=stored,
        states=load.states * tokens * sizes.hidden * value,
        cache=2 * load.cached * sizes.keys * value,
        working=working + logits,
        overhead=OVERHEAD[device],
    )


def _exl2_weights(sizes: Sizes, weights: Quantization, head_bits: int) -> int:
    assert weights.bits is not None
    layers = sizes.n_layers * sizes.layer_weights * weights.bits
    head = sizes.head_weights * (head_bits + HEAD_EXTRA_BITS)
    return math.ceil((layers + head) / 8) + 2 * sizes.norms


def _torch_working(sizes: Sizes, load: Load, value: int) -> int:
    """The widest point of a layer: gate and up, their product, and the two ends of the residual;
    beside them the mask, as numbers and as four tables of bools on the way there, and the prefix's
    keys and values, once for each row."""
    widths = 3 * sizes.inner + 4 * sizes.hidden + 2 * sizes.keys
    mask = min(load.tokens * (load.tokens + load.prefix), MASK_ELEMENTS) * (4 + value)
    copies = -(-load.tokens // SHORT_ROW) * load.prefix * 2 * sizes.keys * value
    return (load.tokens + load.prefix) * widths * value + mask + copies


def _exllamav2_working(sizes: Sizes, load: Load) -> int:
    """Its scratch space (mlp.py, `scratch_space_fixed`) with the largest matrix in float16, for
    batches are multiplied with that; what attention makes of a pass, scores included (without
    flash-attn there are a masked copy and a softmax of them); and the passes put together."""
    largest = max(math.prod(shape) for shape in sizes.layer)
    mlp = load.passed * (sizes.hidden + 2 * sizes.inner) + largest
    attention = load.passed * (5 * sizes.hidden + 2 * sizes.keys + 3 * sizes.heads * load.row)
    return 2 * (max(mlp, sizes.head_weights) + attention + 2 * load.tokens * sizes.hidden)


def live_states(trie: Any) -> int:
    """Most hidden states alive at once while a sweep walks a trie (`sweep.Node`).

    A state dies with its last child, so a path holds one for each node that has children to come;
    a layer's input and output are there besides.
    """
    most, pending = 0, [(trie, 0)]
    while pending:
        node, held = pending.pop()
        most = max(most, held + 2)
        children = list(node.children.values())
        pending += [(child, held + 1) for child in children[:-1]]
        pending += [(child, held) for child in children[-1:]]
    return most
