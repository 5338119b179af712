"""Say what a quantizer is, and do the work around it that is the same for all of them.

A new one is a module beside this one with a class that has `Quantizer`'s methods, and a line in
`choose.quantizer_of`.
"""

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.io.directories import complete_manifest, make_directory
from frankenlab.io.errors import UserError
from frankenlab.io.files import sha256_file, write_json
from frankenlab.io.records import read_record
from frankenlab.models.directory import check_llama_shaped, model_shape, weights_hash
from frankenlab.models.exl2.options import check_shapes
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.files import copy_companions, identity_files
from frankenlab.quantize.allocation import TOLERANCE

logger = logging.getLogger(__name__)


class About(TypedDict):
    """Who made a measurement, of what."""

    quantizer: str
    identity: str


class Measurement(TypedDict):
    """What is the same in all measurements, beside what the quantizer wrote."""

    frankenlab: About


class Quantizer(Protocol):
    """Makes EXL2 directories with the calibration text that it was created with.

    `model` is always a directory with unquantized weights whose shapes EXL2 can store, and `work`
    a folder for this job alone, in which it goes on after a kill. Every method may raise UserError.
    """

    @property
    def name(self) -> str:
        """The program and its version, in words."""

    def why_unusable(self) -> str | None:
        """Return why it cannot run on this machine; None where it can."""

    def identity(self, model: Path) -> str:
        """Return a hash of all that a measurement depends on: model, texts, numeric code."""

    def measure(self, model: Path, work: Path) -> dict[str, Any]:
        """Return what every way of storing every layer costs, which serves all bitrates."""

    def attainable(self, model: Path, measured: Mapping[str, Any]) -> tuple[float, float]:
        """Check a measurement; return the lowest and the highest bits per weight it allows."""

    def quantize(
        self,
        model: Path,
        directory: Path,
        bits: float,
        head_bits: int,
        measurement: Path,
        work: Path,
    ) -> Mapping[str, Any]:
        """Write config.json and the weights into an empty directory; return facts about them."""


def measure_model(
    quantizer: Quantizer, model: Path, target: Path, work: Path
) -> tuple[float, float]:
    """Write the measurement of a model (JSON); return the lowest and highest bits per weight.

    Args:
        model: a directory with unquantized weights.
        work: see `Quantizer`; removed at the end.

    Raises:
        UserError: the quantizer cannot run or failed, or the model cannot be stored as EXL2.
    """
    _check(quantizer, model)
    found = quantizer.measure(model, work)
    low, high = quantizer.attainable(model, found)
    about = About(quantizer=quantizer.name, identity=quantizer.identity(model))
    write_json(target, {**found, "frankenlab": about})
    shutil.rmtree(work, ignore_errors=True)
    logger.info("%s: EXL2 from %s bits per weight", model, _range(low, high))
    return low, high


def quantize_model(
    quantizer: Quantizer,
    model: Path,
    target: Path,
    bits: float,
    head_bits: int,
    measurement: Path,
    work: Path,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Make `target` an EXL2 directory of the model (see `directories.make_directory`).

    Args:
        bits: bits per weight of the decoder layers' linear layers, on disk.
        head_bits: bits of the head's codes; a head that shares the embeddings' weights is stored
            apart from them.
        measurement: what `measure_model` wrote.
        model, work: see `measure_model`.
        facts: what the manifest says; `key` identifies what is in the directory.

    Returns:
        The manifest: the facts, `quantizer`, `quantizer_version`, `n_layers`, `shape` (see
        `ModelShape.to_manifest`), `bits`, `bits_per_weight` and `head_bits` (on disk), `attainable`
        ([lowest, highest]) and what the quantizer adds.

    Raises:
        UserError: see `measure_model`; the measurement is another's, the shapes do not allow the
            bitrate, or the result is damaged or misses the bitrate by more than 1 %.
    """

    def fill(directory: Path) -> dict[str, Any]:
        _check(quantizer, model, head_bits)
        measured = read_record(measurement, Measurement)
        if measured["frankenlab"]["identity"] != quantizer.identity(model):
            raise UserError(
                f"{measurement}: measured with another model, other calibration rows or another "
                "version of the quantizer; measure it again"
            )
        low, high = quantizer.attainable(model, measured)
        allowed = f"the shapes of {model} allow {_range(low, high)}"
        if not low <= bits <= high:
            raise UserError(f"{bits} bits per weight: {allowed}")
        more = quantizer.quantize(model, directory, bits, head_bits, measurement, work)
        copy_companions(model, directory)
        made = Exl2Directory(directory)
        if abs(made.bits_per_weight - bits) > TOLERANCE * bits:
            raise UserError(
                f"{made.declaration.quantizer} made {made.bits_per_weight:.3f} bits per weight "
                f"where {bits} were asked for; {allowed}, in coarse steps where there are few "
                "layers: ask for another bitrate"
            )
        return {
            "quantizer": made.declaration.quantizer,
            "quantizer_version": made.declaration.version,
            "n_layers": made.shape.n_layers,
            "shape": model_shape(directory).to_manifest(),
            "bits": bits,
            "bits_per_weight": round(made.bits_per_weight, 4),
            "head_bits": None if made.head_bits is None else round(made.head_bits, 4),
            "attainable": [round(low, 4), round(high, 4)],
            **more,
        }

    manifest = make_directory(target, facts, fill)
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def model_hash(model: Path) -> str:
    """Return the identity of the weights, config.json and tokenizer of a model."""
    manifest = complete_manifest(model)
    if manifest is None:
        files = identity_files(model).items()
        manifest = {"files": {name: {"sha256": sha256_file(path)} for name, path in files}}
    return weights_hash(manifest)


def _check(quantizer: Quantizer, model: Path, head_bits: int = 8) -> None:
    if reason := quantizer.why_unusable():
        raise UserError(f"{model}: {reason}; exl2.quantizer: reference works without it")
    shape = check_llama_shaped(model)
    try:
        check_shapes(shape, head_bits)
    except UserError as error:
        raise UserError(f"{model}: {error}") from None


def _range(low: float, high: float) -> str:
    """Round a range inwards, so that both of its ends are attainable."""
    return f"{math.ceil(low * 100) / 100:.2f} to {math.floor(high * 100) / 100:.2f}"
