"""The marks of an EXL2 directory, and what its config.json says about its quantization."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError
from frankenlab.models.files import CONFIG, EXL2_WEIGHTS, declares_exl2, read_json, weight_files
from frankenlab.models.files import EXL2 as METHOD
from frankenlab.models.files import QUANTIZATION as KEY


@dataclass(frozen=True)
class Declaration:
    """`quantization_config`, in exllamav2's keys.

    Attributes:
        quantizer: which program made the directory, in words; not one of exllamav2's keys.
        bits: bits per weight that were asked for, of the decoder layers' linear layers.
        calibration: rows, length (tokens a row) and dataset.

    Early versions of exllamav2 wrote nothing at all: every value is None then.
    """

    quantizer: str
    version: str | None = None
    bits: float | None = None
    head_bits: int | None = None
    calibration: Mapping[str, Any] | None = None

    def to_config(self) -> dict[str, Any]:
        """Return the value of `quantization_config`."""
        return {
            "quant_method": METHOD,
            "version": self.version,
            "bits": self.bits,
            "head_bits": self.head_bits,
            "calibration": dict(self.calibration or {}),
            "quantizer": self.quantizer,
        }


def is_exl2(directory: str | Path) -> bool:
    """Tell whether a model directory's weights are EXL2, or claim to be.

    Early versions of exllamav2 declared nothing in config.json; their tensors show it.
    """
    try:
        config = read_json(Path(directory) / CONFIG)
        if KEY in config:
            return declares_exl2(config)
        files = weight_files(directory)
    except UserError:
        return False
    if not files[0].match(EXL2_WEIGHTS):
        return False
    # Imported here: torch takes seconds, and nearly every config.json has a declaration.
    from frankenlab.models.tensor_files import TensorFiles

    return any(name.endswith(".q_weight") for name in TensorFiles(files).names)


def read_declaration(config: Mapping[str, Any]) -> Declaration:
    """Return the declaration of a config.json; one without values where there is none.

    Raises:
        UserError: another method than EXL2 is declared.
    """
    declared = config.get(KEY)
    if declared is None:
        return Declaration("exllamav2, version not recorded")
    if not declares_exl2(config):
        method = declared.get("quant_method") if isinstance(declared, Mapping) else declared
        raise UserError(f"{KEY}.quant_method is '{method}', expected '{METHOD}'")
    calibration = declared.get("calibration")
    if not isinstance(calibration, Mapping | None):
        raise UserError(f"{KEY}.calibration is {calibration!r}, expected an object")
    version = declared.get("version")
    by = f"exllamav2 {version}" if version else "exllamav2, version not recorded"
    return Declaration(
        quantizer=declared.get("quantizer") or by,
        version=version,
        bits=declared.get("bits"),
        head_bits=declared.get("head_bits"),
        calibration=calibration,
    )
