"""What a plan costs at a quantization: bytes of weights in memory, bytes read for a token, work.

Only weights are counted. Keys and values come on top: a context's worth is read for each token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from frankenlab.models.exl2.declaration import is_exl2, read_declaration
from frankenlab.models.files import CONFIG, read_json
from frankenlab.models.franken import layer_tensors
from frankenlab.models.shape import EMBEDDINGS, HEAD, NORM, PARTS, ModelShape
from frankenlab.plans.plan import Plan, base

PLAIN_BITS = 16.0


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model's weights at one quantization, in the parts that a plan can repeat.

    Attributes:
        bits_per_weight: mean over the layers' linear weights, scales and orders of inputs included.
        head_bits: of the head's weights.
        parts: "attn" and "mlp" -> [layers] bytes of that part of each layer, with its norm.
        head: bytes of the head and the final norm, read for every token.
        embeddings: bytes in memory of which a token reads one row, 0 where the head is them.
    """

    shape: ModelShape
    bits_per_weight: float
    head_bits: float
    parts: Mapping[str, tuple[int, ...]]
    head: int
    embeddings: int

    @classmethod
    def of_directory(cls, directory: str | Path) -> "Footprint":
        """Return the footprint of a model's directory: EXL2 as stored; plain weights at the 16 bits
        that they are run with, whatever number format they are stored in.

        Raises:
            UserError: an EXL2 directory that is damaged, a config.json that lacks a size.
        """
        if not is_exl2(directory):
            shape = ModelShape.from_config(read_json(Path(directory) / CONFIG))
            bits = dict.fromkeys(shape.linears, PLAIN_BITS)
            return cls._of(shape, bits, own_head=not shape.tied_embeddings)
        # Imported here: torch takes seconds, and who has plain weights does without.
        from frankenlab.models.exl2.reading import Exl2Directory

        exl2 = Exl2Directory(directory)
        bits = {name: exl2.bits_of(name) for name in exl2.shape.linears if name != HEAD}
        bits[HEAD] = exl2.head_bits or PLAIN_BITS
        return cls._of(exl2.shape, bits, own_head=exl2.head_bits is not None)

    @classmethod
    def _of(cls, shape: ModelShape, bits: Mapping[str, float], own_head: bool) -> "Footprint":
        weights = {name: prod(linear) for name, linear in shape.linears.items()}
        # Biases, norms and embeddings are 16 bits in either format.
        sizes = {name: 2 * prod(tensor) for name, tensor in shape.tensors().items()}
        sizes |= {f"{name}.weight": round(weights[name] * bits[name] / 8) for name in weights}

        def part_bytes(layer: int, part: str) -> int:
            names = layer_tensors(layer, part)
            return sum(sizes.get(f"{n}.{kind}", 0) for n in names for kind in ("weight", "bias"))

        layers, in_layers = range(shape.n_layers), [name for name in weights if name != HEAD]
        return cls(
            shape=shape,
            bits_per_weight=sum(bits[name] * weights[name] for name in in_layers)
            / sum(weights[name] for name in in_layers),
            head_bits=bits[HEAD],
            parts={part: tuple(part_bytes(layer, part) for layer in layers) for part in PARTS},
            head=sizes[f"{HEAD}.weight"] + sizes[NORM],
            embeddings=sizes[EMBEDDINGS] if own_head else 0,
        )

    @property
    def layer_bytes(self) -> int:
        """Bytes of all layers together."""
        return sum(map(sum, self.parts.values()))

    @property
    def weight_bytes(self) -> int:
        """Bytes in memory, for the base and for every virtual franken of it."""
        return self.layer_bytes + self.head + self.embeddings

    def materialized_bytes(self, plan: Plan) -> int:
        """Return the bytes in memory of a standalone checkpoint, in which each occurrence has its
        own weights."""
        return self._run(plan) + self.head + self.embeddings

    def read_bytes(self, plan: Plan) -> int:
        """Return the bytes read to decode one token: each occurrence's weights, and the head's."""
        return self._run(plan) + self.head

    def relative_compute(self, plan: Plan) -> float:
        """Return the multiplications by weights for one token, relative to the base's."""
        return self.multiplications(plan) / self.multiplications(base(plan.n_layers))

    def multiplications(self, plan: Plan) -> int:
        """Return the multiplications by weights for one token, the head's among them.

        Each is followed by an addition. Attention's own products, whose number depends on the
        context, are not counted.
        """
        shape = self.shape
        work = sum(shape.part_weights(part) for step in plan.steps for part in step.parts)
        return work + shape.head_weights

    def _run(self, plan: Plan) -> int:
        return sum(self.parts[part][step.layer] for step in plan.steps for part in step.parts)


def weights_row(
    model: str, quantization: str, directory: str | Path, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Return which weights a model has at a quantization: a row of the table `quantizations`.

    Args:
        manifest: of the directory; its keys are all optional.
    """
    size = Footprint.of_directory(directory)
    config = read_json(Path(directory) / CONFIG)
    declared = read_declaration(config) if is_exl2(directory) else None
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
        "read_bytes": size.head + size.layer_bytes,
    }


def _words(values: Mapping[str, Any]) -> str | None:
    """Return values in words ("rows 64, length 256"), None for nothing."""
    known = {key: value for key, value in values.items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in known.items()) or None
