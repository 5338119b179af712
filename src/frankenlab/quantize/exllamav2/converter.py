"""Quantize with exllamav2's converter, and check what it made."""

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash, sha256_file, write_json
from frankenlab.io.records import check_record, is_record
from frankenlab.models.exl2.declaration import KEY, METHOD, Declaration
from frankenlab.models.files import read_json, weight_files
from frankenlab.models.model_config import with_old_rope_keys
from frankenlab.models.shape import ModelShape
from frankenlab.quantize.exllamav2.inputs import (
    CONVERTER,
    CalibrationRows,
    check_convertible,
    fill_rows,
    installed_version,
    stage,
    why_unusable,
    write_rows,
)
from frankenlab.quantize.exllamav2.process import ConverterRun
from frankenlab.quantize.quantizer import model_hash

PERPLEXITY = re.compile(r"calibration perplexity \(quant\): (\S+)")


class Choice(TypedDict):
    """What exllamav2 writes about one choice for a part of a layer."""

    accuracy: float
    total_bits: float


class Measured(TypedDict):
    """What exllamav2 writes about a model; null is for what it does not quantize."""

    measurement: dict[str, list[Choice] | None]


class Declared(TypedDict):
    """What exllamav2 writes about a quantized model."""

    quant_method: Literal[METHOD]  # type: ignore[valid-type]
    version: str
    bits: float
    head_bits: float
    calibration: dict[str, Any]


@dataclass(frozen=True)
class Exllamav2Quantizer:
    """See `quantizer.Quantizer` for the methods.

    Attributes:
        texts: calibration texts; as many are used as fill the rows.
        measured_rows, rows, length: most rows to measure and to calibrate with, and tokens of a
            row; exllamav2's own defaults.
        command: the converter, if not exllamav2's own with this Python.
    """

    texts: tuple[str, ...]
    measured_rows: int = 16
    rows: int = 100
    length: int = 2048
    command: tuple[str, ...] = CONVERTER

    @property
    def name(self) -> str:
        return f"exllamav2 {installed_version()}"

    def why_unusable(self) -> str | None:
        return why_unusable() if self.command == CONVERTER else None

    def identity(self, model: Path) -> str:
        """Return a hash of the model alone: measuring and quantizing take different rows."""
        return content_hash(["exllamav2", model_hash(model)])

    def measure(self, model: Path, work: Path) -> dict[str, Any]:
        check_convertible(model)
        rows = fill_rows(model, self.texts, self.measured_rows, self.length)
        measured = work / "measured.json"
        same = self._same(model, rows) | {"task": "measure"}
        with ConverterRun(work, same, f"{model.name}: measuring for EXL2") as run:
            arguments = ["-i", stage(model, work), "-om", str(measured)]
            arguments += ["-mr", str(rows.rows), "-ml", str(rows.length)]
            run.convert([*self.command], [*arguments, "-c", write_rows(rows, work)])
            if not measured.is_file():
                raise run.failure("it ended without a measurement")
            return read_json(measured)

    def attainable(self, model: Path, measured: Mapping[str, Any]) -> tuple[float, float]:
        where = f"{model}: exllamav2's measurement"
        shape = ModelShape.from_config(read_json(model / "config.json"))
        layers = [f"model.layers.{number}" for number in range(shape.n_layers)]
        names = [f"{layer}.{part}" for layer in layers for part in ("self_attn", "mlp")]
        check_record(where, measured, Measured)
        low = high = 0.0
        for name in names:
            found = measured["measurement"].get(name)
            if not found:
                raise UserError(f"{where} lacks '{name}'; measure again")
            if not all(math.isfinite(choice["accuracy"]) for choice in found):
                raise UserError(f"{where}: an accuracy of '{name}' is not finite")
            sizes = [choice["total_bits"] for choice in found]
            low, high = low + min(sizes), high + max(sizes)
        weights = shape.n_layers * shape.layer_weights
        return low / weights, high / weights

    def quantize(
        self,
        model: Path,
        directory: Path,
        bits: float,
        head_bits: int,
        measurement: Path,
        work: Path,
    ) -> dict[str, Any]:
        """Also return `calibration_perplexity`, the quantized model's on the rows it has seen."""
        check_convertible(model)
        rows = fill_rows(model, self.texts, self.rows, self.length)
        asked = {"bits": bits, "head_bits": head_bits, "measurement": sha256_file(measurement)}
        result = work / "result"
        same = self._same(model, rows) | asked
        with ConverterRun(work, same, f"{model.name}: EXL2 at {bits} bits") as run:
            # What an earlier run had begun to compile is compiled again.
            shutil.rmtree(result, ignore_errors=True)
            arguments = ["-i", stage(model, work), "-m", str(measurement.resolve())]
            arguments += ["-cf", str(result), "-b", repr(float(bits)), "-hb", str(head_bits)]
            arguments += ["-r", str(rows.rows), "-l", str(rows.length)]
            log = run.convert([*self.command], [*arguments, "-c", write_rows(rows, work)])
            perplexity = _perplexity(log, run)
            config = _config(result, read_json(model / "config.json"), rows, run)
            try:
                weights = weight_files(result)
            except UserError:
                raise run.failure("it ended without writing output.safetensors") from None
            for path in weights:
                shutil.move(path, directory / path.name)
            write_json(directory / "config.json", config)
        return {"calibration_perplexity": perplexity}

    def _same(self, model: Path, rows: CalibrationRows) -> dict[str, Any]:
        """Return what a run must have in common with one that was killed, to go on from there."""
        return {
            "model": [str(model.resolve()), model_hash(model)],
            "calibration": [rows.name, rows.rows, rows.length],
            "converter": [*self.command, installed_version()],
        }


def _perplexity(log: str, run: ConverterRun) -> float:
    found = PERPLEXITY.findall(log)
    if not found:
        raise run.failure("it ended before it had quantized the head")
    if not math.isfinite(value := float(found[-1])):
        raise run.failure(f"the quantized model's calibration perplexity is {found[-1]}")
    return value


def _config(
    result: Path, config: Mapping[str, Any], rows: CalibrationRows, run: ConverterRun
) -> dict[str, Any]:
    """Return the model's config.json with what the converter declared when it came to its last
    line."""
    try:
        written = json.loads((result / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise run.failure("it ended without writing a config.json") from None
    if not isinstance(written, Mapping) or not is_record(written.get(KEY), Declared):
        raise run.failure(f"it ended without writing {KEY} into config.json")
    declared = written[KEY]
    declaration = Declaration(
        quantizer=f"exllamav2 {declared['version']}",
        version=declared["version"],
        bits=declared["bits"],
        head_bits=declared["head_bits"],
        calibration={**declared["calibration"], "dataset": rows.name},
    )
    return {**with_old_rope_keys(config), KEY: declaration.to_config()}
