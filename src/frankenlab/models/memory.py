"""Memory and disk that a model at a quantization takes, from its shape alone.

These are upper estimates of the bytes that the two engines allocate; the terms and constants are
theirs.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

from frankenlab.models.quantization import NONE, Quantization
from frankenlab.models.shape import ModelShape
from frankenlab.models.split import fullest_card

GB = 1e9

# Scored positions whose logits are in memory at once (`engines.scoring`).
LOGIT_ROWS = 512

# Elements of the masks that are in memory at once (`engines.masks`).
MASK_ELEMENTS = 1 << 23

# Most tokens that exllamav2's own modules read at a time; attention over more takes too much.
LONGEST_PASS = 2048

# CUDA's context and kernels, and what an allocator loses between its blocks.
OVERHEAD = {"cpu": int(0.5 * GB), "cuda": int(1.2 * GB)}

# A head is stored a little wider than its nominal bits: its most important inputs are.
HEAD_EXTRA_BITS = 0.5

# Tokens of a row of a batch with a prefix, assumed: a short question with its choices.
SHORT_ROW = 64

VALUE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Memory:
    """Bytes by their use: weights; hidden states that wait in the walk of the trie; keys and
    values; what one layer or the head needs while it works; the process itself."""

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
    """The sizes of what is run at once.

    Attributes:
        tokens: of a batch, padding included.
        row: tokens of the longest sequence in it.
        passed: tokens that exllamav2 takes at a time (`pass_tokens`).
        states: hidden states alive at once (`live_states`).
        cached: (occurrence, token) pairs whose keys and values are kept.
        prefix: tokens that all rows of a batch begin with, beside `tokens`.
    """

    tokens: int
    row: int
    passed: int
    states: int
    cached: int = 0
    prefix: int = 0


def pass_tokens(context: int) -> int:
    """Return the tokens for which exllamav2 is loaded: a decoder reads its prompt in such passes.

    Its buffers, and without flash-attn the scores of its attention, are as large as a pass.
    """
    return min(context, LONGEST_PASS)


def batch_bytes(shape: ModelShape, tokens: int) -> int:
    """Return what exllamav2's engine needs to score a batch beside the weights, if a hidden state
    waits at each of the layers, which is enough for plans that repeat one block."""
    states = (shape.n_layers + 2) * tokens * shape.hidden_size * 2
    return states + _dequantized_working(shape, Load(tokens, 0, 0, 0)) + _logits(shape, 2)


def disk_bytes(shape: ModelShape, weights: Quantization, head_bits: int) -> int:
    """Return the bytes of a model's weights as stored, floats with 16 bits."""
    if weights == NONE:
        return 2 * shape.parameters
    return _exl2_weights(shape, weights, head_bits) + 2 * shape.head_weights


def memory(
    shape: ModelShape,
    weights: Quantization,
    head_bits: int,
    engine: str,
    load: Load,
    precision: str = "bfloat16",
    device: str = "cuda",
    cards: int = 1,
) -> Memory:
    """Return what `engine` needs to run `load`, on the fullest card of those that it is split over.

    Which of them hidden states, keys and values are on depends on the plans, so they are counted as
    if all were on that card.

    Args:
        weights: what is on disk; the torch engine dequantizes EXL2 to `precision`.
        head_bits: of EXL2 weights.
        engine: "torch" or "exllamav2".
    """
    value, tokens = VALUE_BYTES[precision], load.tokens
    if engine == "exllamav2":
        # Its embeddings may stay on the CPU. Scoring has the head as floats besides.
        stored = _exl2_weights(shape, weights, head_bits) + 2 * shape.head_weights
        embeddings = 0
        head = 2 * shape.head_weights
        head += math.ceil(shape.head_weights * (head_bits + HEAD_EXTRA_BITS) / 8)
        working = _exllamav2_working(shape, load)
    else:
        stored = value * disk_bytes(shape, NONE, head_bits) // 2
        # A tied head is quantized apart from the embeddings, so it is a matrix of its own; and it
        # is one where it is on another card than they are.
        if shape.tied_embeddings and (weights != NONE or cards > 1):
            stored += value * shape.head_weights
        embeddings = head = value * shape.head_weights
        working = max(_torch_working(shape, load, value), value * shape.layer_weights)
    tokens += load.prefix
    if cards > 1:
        layer = math.ceil((stored - embeddings - head) / shape.n_layers)
        stored = fullest_card([layer] * shape.n_layers, embeddings, head, cards)
    return Memory(
        weights=stored,
        states=load.states * tokens * shape.hidden_size * value,
        cache=2 * load.cached * shape.kv_size * value,
        working=working + _logits(shape, value),
        overhead=OVERHEAD[device],
    )


def _exl2_weights(shape: ModelShape, weights: Quantization, head_bits: int) -> int:
    assert weights.bits is not None
    layers = shape.n_layers * shape.layer_weights * weights.bits
    head = shape.head_weights * (head_bits + HEAD_EXTRA_BITS)
    norms = (2 * shape.n_layers + 1) * shape.hidden_size
    return math.ceil((layers + head) / 8) + 2 * norms


def _torch_working(shape: ModelShape, load: Load, value: int) -> int:
    """Return the bytes at the widest point of a layer: gate and up, their product, and the two ends
    of the residual; beside them the mask, as numbers and as four tables of bools on the way there,
    and the prefix's keys and values, once for each row."""
    widths = 3 * shape.intermediate_size + 4 * shape.hidden_size + 2 * shape.kv_size
    mask = min(load.tokens * (load.tokens + load.prefix), MASK_ELEMENTS) * (4 + value)
    copies = -(-load.tokens // SHORT_ROW) * load.prefix * 2 * shape.kv_size * value
    return (load.tokens + load.prefix) * widths * value + mask + copies


def _dequantized_working(shape: ModelShape, load: Load) -> int:
    """Return the bytes of a layer that is dequantized when it is visited, and of the larger of what
    comes beside it: first its matrices before they are put together, then what a batch takes in the
    torch engine."""
    return 2 * shape.layer_weights + max(_torch_working(shape, load, 2), shape.layer_weights)


def _exllamav2_working(shape: ModelShape, load: Load) -> int:
    """Return the bytes of exllamav2's scratch space (mlp.py, `scratch_space_fixed`), which holds
    the largest matrix in float16, and of the larger of what comes beside it: what scoring takes, or
    the tensors of attention in a pass of decoding. Without flash-attn these include the scores, a
    masked copy of them, and their softmax."""
    hidden = shape.hidden_size
    mlp = load.passed * (hidden + 2 * shape.intermediate_size)
    mlp += max(map(math.prod, shape.layer_linears.values()))
    attention = load.passed * (5 * hidden + 2 * shape.kv_size + 3 * shape.n_heads * load.row)
    scratch = 2 * max(mlp, shape.head_weights)
    return scratch + max(_dequantized_working(shape, load), 2 * attention)


def _logits(shape: ModelShape, value: int) -> int:
    """Return the bytes of logits as they come, as float32, and of their exponentials."""
    return LOGIT_ROWS * shape.vocab_size * (value + 4 + 4)


def live_states(trie: Any) -> int:
    """Return the most hidden states alive at once while a sweep walks a trie (`trie.Node`).

    A state dies with its last child, so a path holds one for each node that has children to come,
    and those before it that a window below goes back to; a layer's input and output are there
    besides.
    """
    # A node's depth, and which depths of its path are held for nodes to come, as bits.
    most, pending = 0, [(trie, 0, 0)]
    while pending:
        node, depth, held = pending.pop()
        own = ((1 << node.reach) - 1) << (depth + 1 - node.reach)
        most = max(most, held.bit_count() + 2, (held | own).bit_count() + 1)
        children = list(node.children.values())
        pending += [(child, depth + 1, held | own) for child in children[:-1]]
        pending += [(child, depth + 1, held) for child in children[-1:]]
    return most
