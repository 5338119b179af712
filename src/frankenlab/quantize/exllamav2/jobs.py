"""Measuring and quantizing with exllamav2's converter, and what is checked of its results."""

import json
import logging
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.io.directories import make_directory
from frankenlab.io.errors import UserError
from frankenlab.io.files import sha256_file, write_json
from frankenlab.io.records import check_record, is_record
from frankenlab.models.exl2.declaration import KEY, METHOD, Declaration
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.files import read_json, weight_files
from frankenlab.models.inspect import model_info
from frankenlab.models.shape import HEAD, ModelShapes
from frankenlab.quantize.exllamav2.inputs import (
    CONVERTER,
    Calibration,
    calibrate,
    check_job,
    identity,
    installed_version,
    model_hash,
    stage,
    write_parquet,
)
from frankenlab.quantize.exllamav2.process import Job, run_converter

logger = logging.getLogger(__name__)

# exllamav2's own defaults: rows and tokens of a row that it measures and calibrates with.
MEASURED_ROWS, CALIBRATED_ROWS, ROW_LENGTH = 16, 100, 2048

HEAD_BITS = (2, 3, 4, 5, 6, 8)
# How far the bits on disk may be from those asked for, as a share.
TOLERANCE = 0.01

PERPLEXITY = re.compile(r"calibration perplexity \(quant\): (\S+)")


def measure(
    model: str | Path,
    target: str | Path,
    work: str | Path,
    texts: Sequence[str],
    *,
    rows: int = MEASURED_ROWS,
    length: int = ROW_LENGTH,
    converter: Sequence[str] = CONVERTER,
) -> dict[str, Any]:
    """Measures once what each quantization of each layer costs; serves every bitrate.

    Args:
        model: unquantized Hugging Face directory.
        target: the measurement (JSON), written when it is complete.
        work: directory of this job alone; a job that was broken off goes on from there, and it
            is removed at the end.
        texts: calibration texts; as many are used as fill the rows.
        rows, length: most rows, and tokens of a row, that are measured with.
        converter: the command, if not exllamav2's own with this Python.

    Returns:
        What the measurement's key `frankenlab` holds: `quantizer`, `model` (a hash), `rows`,
        `length`, and `attainable`, the lowest and the highest bits per weight.

    Raises:
        UserError: exllamav2 cannot run or failed, or the model cannot be stored as EXL2.
    """
    model, target, work = Path(model), Path(target), Path(work)
    config = check_job(model, converter)
    calibration = calibrate(model, config, texts, rows, length)
    same = identity(model, config, calibration, converter) | {"task": "measure"}
    job = Job(work, same, f"{model.name}: measuring for EXL2")
    measured = work / "measured.json"
    with job:
        arguments = ["-i", stage(model, config, work), "-om", str(measured)]
        arguments += ["-mr", str(calibration.rows), "-ml", str(calibration.length)]
        arguments += ["-c", write_parquet(calibration, work)]
        run_converter(converter, arguments, job)
        if not measured.is_file():
            raise job.failure("it ended without a measurement")
        found = read_json(measured)
        low, high = _attainable(found, config, f"{model}: exllamav2's measurement")
        about = {
            "quantizer": f"exllamav2 {installed_version()}",
            "model": model_hash(model, config),
            "rows": calibration.rows,
            "length": calibration.length,
            "attainable": [low, high],
        }
        # exllamav2 reads the keys that it knows and leaves the others alone.
        write_json(target, {**found, "frankenlab": about})
        job.finished()
    logger.info("%s: EXL2 from %.2f to %.2f bits per weight", model, low, high)
    return about


def attainable(measurement: str | Path, model: str | Path) -> tuple[float, float]:
    """The lowest and the highest bits per weight that a measurement of the model allows.

    Raises:
        UserError: it is damaged, or another model's.
    """
    path, model = Path(measurement), Path(model)
    found, config = read_json(path), read_json(model / "config.json")
    known = found.get("frankenlab")
    if isinstance(known, Mapping) and known.get("model") != model_hash(model, config):
        raise UserError(f"{path}: measured with another model than {model}; measure it again")
    return _attainable(found, config, str(path))


def quantize(
    model: str | Path,
    target: str | Path,
    bits: float,
    head_bits: int,
    measurement: str | Path,
    work: str | Path,
    texts: Sequence[str],
    facts: Mapping[str, Any],
    *,
    rows: int = CALIBRATED_ROWS,
    length: int = ROW_LENGTH,
    converter: Sequence[str] = CONVERTER,
) -> dict[str, Any]:
    """Makes `target` an EXL2 directory of the model (see `directories.make_directory`).

    Args:
        bits: bits per weight of the decoder layers' linear layers, on disk.
        head_bits: of the head, one of `HEAD_BITS`.
        measurement: what `measure` wrote for this model.
        facts: of the manifest; `key` identifies what is in the directory.
        work, texts, rows, length, converter: as of `measure`.

    Returns:
        The manifest, with `quantizer`, `quantizer_version`, `n_layers`, `shape` (of
        `models.ModelInfo`), `bits`, `bits_per_weight` and `head_bits` (on disk), `attainable`
        ([lowest, highest]) and `calibration_perplexity` added to the facts.

    Raises:
        UserError: as `measure`; the bitrate is outside what the shapes allow, or was missed by
            more than 1 %; the perplexity on the calibration texts is not finite.
    """
    model, measurement, work = Path(model), Path(measurement), Path(work)

    def fill(directory: Path) -> dict[str, Any]:
        config = check_job(model, converter)
        if head_bits not in HEAD_BITS:
            allowed = ", ".join(map(str, HEAD_BITS))
            raise UserError(f"head bits {head_bits}: exllamav2 has {allowed}")
        low, high = attainable(measurement, model)
        if not low <= bits <= high:
            raise UserError(
                f"{bits} bits per weight: the shapes of {model} allow {low:.2f} to {high:.2f}"
            )
        calibration = calibrate(model, config, texts, rows, length)
        asked = {"bits": bits, "head_bits": head_bits, "measurement": sha256_file(measurement)}
        same = identity(model, config, calibration, converter) | asked
        job = Job(work, same, f"{model.name}: EXL2 at {bits} bits")
        result = work / "result"
        with job:
            # What an earlier run had begun to compile is compiled again.
            shutil.rmtree(result, ignore_errors=True)
            arguments = ["-i", stage(model, config, work), "-m", str(measurement.resolve())]
            arguments += ["-cf", str(result), "-b", repr(float(bits)), "-hb", str(head_bits)]
            arguments += ["-r", str(calibration.rows), "-l", str(calibration.length)]
            arguments += ["-c", write_parquet(calibration, work)]
            log = run_converter(converter, arguments, job)
            perplexity = _perplexity(log, job)
            _declare(result, config, calibration, job)
            made = _read_back(result, bits, low, high)
            for path in sorted(result.iterdir()):
                shutil.move(path, directory / path.name)
            job.finished()
        return {
            **made,
            "attainable": [round(low, 4), round(high, 4)],
            "calibration_perplexity": perplexity,
        }

    return make_directory(target, facts, fill)


class Choice(TypedDict):
    """What exllamav2 writes about one choice for a part of a layer."""

    accuracy: float
    total_bits: float


class Declared(TypedDict):
    """What exllamav2 writes about a quantized model."""

    quant_method: Literal[METHOD]
    version: str
    bits: float
    head_bits: float
    calibration: dict[str, Any]


def _attainable(
    found: Mapping[str, Any], config: Mapping[str, Any], where: str
) -> tuple[float, float]:
    shapes = ModelShapes.from_config(config)
    weights = sum(prod(shape) for name, shape in shapes.linears.items() if name != HEAD)
    low = high = 0.0
    measured = found.get("measurement") or {}
    check_record(where, measured, dict[str, Any])
    for layer in range(shapes.n_layers):
        for part in ("self_attn", "mlp"):
            name = f"model.layers.{layer}.{part}"
            options = measured.get(name)
            if not options:
                raise UserError(f"{where} lacks '{name}'; measure again")
            check_record(where, options, Annotated[list[Choice], Field(min_length=1)])
            if not all(math.isfinite(option["accuracy"]) for option in options):
                raise UserError(f"{where}: an accuracy of '{name}' is not finite")
            sizes = [option["total_bits"] for option in options]
            low, high = low + min(sizes) / weights, high + max(sizes) / weights
    return low, high


def _perplexity(log: str, job: Job) -> float:
    """Of the quantized model on the rows that it was calibrated with."""
    found = PERPLEXITY.findall(log)
    if not found:
        raise job.failure("it ended before it had quantized the head")
    if not math.isfinite(value := float(found[-1])):
        raise job.failure(f"the quantized model's calibration perplexity is {found[-1]}")
    return value


def _declare(result: Path, config: Mapping[str, Any], calibration: Calibration, job: Job) -> None:
    """Checks that the converter came to its last line; the model's own config.json says who it
    was, and has the rotary parameters also where exllamav2 looks."""
    try:
        written = json.loads((result / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise job.failure("it ended without writing a config.json") from None
    if not isinstance(written, Mapping) or not is_record(written.get(KEY), Declared):
        raise job.failure(f"it ended without writing {KEY} into config.json")
    try:
        weight_files(result)
    except UserError:
        raise job.failure("it ended without writing output.safetensors") from None
    if stale := sorted(result.glob("*.index.json")):
        raise job.failure(f"it copied {stale[0].name}, an index of other files")
    declared = written[KEY]
    declaration = Declaration(
        quantizer=f"exllamav2 {declared['version']}",
        version=declared["version"],
        bits=declared["bits"],
        head_bits=declared["head_bits"],
        calibration={**declared["calibration"], "dataset": calibration.name},
    )
    rotary = {key: written[key] for key in ("rope_theta", "rope_scaling") if key in written}
    write_json(result / "config.json", {**config, **rotary, KEY: declaration.to_config()})


def _read_back(result: Path, bits: float, low: float, high: float) -> dict[str, Any]:
    """What the directory really holds, checked tensor by tensor.

    Raises:
        UserError: a damaged tensor, or the bits on disk are not those that were asked for.
    """
    directory = Exl2Directory(result)
    found = directory.bits_per_weight
    if abs(found - bits) > TOLERANCE * bits:
        raise UserError(
            f"exllamav2 made {found:.3f} bits per weight where {bits} were asked for, more than "
            f"{TOLERANCE:.0%} off; the shapes allow {low:.2f} to {high:.2f}, in coarse steps where "
            "there are few layers: ask for another bitrate"
        )
    return {
        "quantizer": directory.declaration.quantizer,
        "quantizer_version": directory.declaration.version,
        "n_layers": directory.shapes.n_layers,
        "shape": asdict(model_info(result)),
        "bits": bits,
        "bits_per_weight": round(found, 4),
        "head_bits": None if directory.head_bits is None else round(directory.head_bits, 4),
    }
