"""What a plan costs at a quantization: bytes of weights in memory, bytes read for a token, work.

Weights alone: keys and values come on top, and a context's worth of them is read for each token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from frankenlab.models.exl2.reading import Exl2Directory, is_exl2
from frankenlab.models.inspect import read_json
from frankenlab.models.shape import HEAD, ModelShapes
from frankenlab.plans.plan import Plan, Step

PLAIN_BITS = 16.0
LAYER_PARTS = {
    "attn": ("self_attn.", "input_layernorm."),
    "mlp": ("mlp.", "post_attention_layernorm."),
}


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model's weights at one quantization, in the parts that a plan can repeat.

    Attributes:
        bits_per_weight: mean over the layers' linear weights, scales and orders of inputs included.
        head_bits: of the head's weights.
        parts: "attn" and "mlp" -> [layers] bytes of that part of each layer, with its norm.
        head: bytes of the head and the final norm, read for every token.
        embeddings: bytes in memory of which a token reads one row, 0 where the head is them.
        part_weights: "attn" and "mlp" -> linear weights, the same in all layers.
        head_weights: of the head.
    """

    bits_per_weight: float
    head_bits: float
    parts: Mapping[str, tuple[int, ...]]
    head: int
    embeddings: int
    part_weights: Mapping[str, int]
    head_weights: int

    @classmethod
    def of_directory(cls, directory: str | Path) -> "Footprint":
        """Of a model's directory: EXL2 as stored; plain weights at the 16 bits that they are run
        with, whatever number format they are stored in.

        Raises:
            UserError: an EXL2 directory that is damaged, a config.json that lacks a size.
        """
        if is_exl2(directory):
            return cls._of(*_exl2_sizes(Exl2Directory(directory)))
        shapes = ModelShapes.from_config(read_json(Path(directory) / "config.json"))
        return cls._of(shapes, {name: PLAIN_BITS for name in shapes.linears}, shapes.tied)

    @classmethod
    def _of(cls, shapes: ModelShapes, bits: Mapping[str, float], tied: bool) -> "Footprint":
        weights = {name: prod(shape) for name, shape in shapes.linears.items()}
        sizes = {name: round(weights[name] * bits[name] / 8) for name in weights}
        # Biases, norms and embeddings are 16 bits in either format.
        sizes |= {f"{name}.bias": 2 * shapes.linears[name][0] for name in shapes.biased}
        sizes |= {name: 2 * prod(shape) for name, shape in shapes.others.items()}
        layers = range(shapes.n_layers)
        linear = sum(weights[name] for name in weights if name != HEAD)
        return cls(
            bits_per_weight=sum(bits[n] * weights[n] for n in weights if n != HEAD) / linear,
            head_bits=bits[HEAD],
            parts={part: tuple(_in_part(sizes, i, part) for i in layers) for part in LAYER_PARTS},
            head=sizes[HEAD] + sizes["model.norm.weight"],
            embeddings=0 if tied else sizes["model.embed_tokens.weight"],
            part_weights={part: _in_part(weights, 0, part) for part in LAYER_PARTS},
            head_weights=weights[HEAD],
        )

    @property
    def weight_bytes(self) -> int:
        """In memory, for the base and for every virtual franken of it."""
        return sum(map(sum, self.parts.values())) + self.head + self.embeddings

    def materialized_bytes(self, plan: Plan) -> int:
        """In memory, for a standalone checkpoint in which each occurrence has its own weights."""
        return self._run(plan) + self.head + self.embeddings

    def read_bytes(self, plan: Plan) -> int:
        """Read to decode one token: each occurrence's weights, and the head's."""
        return self._run(plan) + self.head

    def relative_compute(self, plan: Plan) -> float:
        """Multiplications by weights for one token, relative to the base's."""
        once = plan.n_layers * sum(self.part_weights.values()) + self.head_weights
        work = sum(self.part_weights[part] for step in plan.steps for part in _parts(step))
        return (work + self.head_weights) / once

    def _run(self, plan: Plan) -> int:
        return sum(self.parts[part][s.layer] for s in plan.steps for part in _parts(s))


def weights_row(
    model: str, quantization: str, directory: str | Path, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Which weights a model has at a quantization: a row of the table `quantizations`.

    Args:
        manifest: of the directory; its keys are all optional.
    """
    size = Footprint.of_directory(directory)
    declared = Exl2Directory(directory).declaration if is_exl2(directory) else None
    calibration = dict(declared.calibration or {}) if declared else {}
    low, high = manifest.get("attainable") or (None, None)
    return {
        "model": model,
        "quantization": quantization,
        "made": manifest.get("made"),
        "quantizer": manifest.get("quantizer") or (declared and declared.quantizer),
        "quantizer_version": manifest.get("quantizer_version") or (declared and declared.version),
        "bits_per_weight": size.bits_per_weight,
        "head_bits": size.head_bits,
        "attainable_low": low,
        "attainable_high": high,
        "calibration": _words(calibration | dict(manifest.get("calibration") or {})),
        "calibration_perplexity": manifest.get("calibration_perplexity"),
        "weight_bytes": size.weight_bytes,
        "read_bytes": size.head + sum(map(sum, size.parts.values())),
    }


def _exl2_sizes(directory: Exl2Directory) -> tuple[ModelShapes, dict[str, float], bool]:
    shapes = directory.shapes
    own_head = directory.head_bits is not None
    bits = {name: directory.bits_of(name) for name in shapes.linears if name != HEAD}
    return shapes, bits | {HEAD: directory.head_bits or PLAIN_BITS}, not own_head


def _in_part(sizes: Mapping[str, int], layer: int, part: str) -> int:
    prefixes = tuple(f"model.layers.{layer}.{name}" for name in LAYER_PARTS[part])
    return sum(size for name, size in sizes.items() if name.startswith(prefixes))


def _parts(step: Step) -> tuple[str, ...]:
    return tuple(LAYER_PARTS) if step.part == "block" else (step.part,)


def _words(values: Mapping[str, Any]) -> str | None:
    """ "rows 64, length 256"; None for nothing."""
    known = {key: value for key, value in values.items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in known.items()) or None
