"""exllamav2's own converter (0.3.2), run as a job that fails aloud and leaves nothing half-made.

The converter is a script that is meant to be watched: several of its failures end with exit
status 0, an unattainable bitrate is exceeded without a word, a directory in which a job of other
arguments was broken off goes on with those. Here each is checked, and the result is read back.
"""

import importlib.util
import json
import logging
import math
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from frankenlab.converter import Job, run_converter
from frankenlab.directories import make_directory
from frankenlab.errors import UserError
from frankenlab.exl2.declaration import KEY, Declaration, declares_exl2
from frankenlab.exl2.format import ALIGNMENT, check_inputs
from frankenlab.exl2.reading import Exl2Directory
from frankenlab.exl2.shapes import HEAD, ModelShapes
from frankenlab.files import atomic_path, content_hash, sha256_file, write_json
from frankenlab.models import TOKENIZER_FILES, check_llama_shaped, load_tokenizer, read_json

logger = logging.getLogger(__name__)

CONVERTER = (sys.executable, "-m", "exllamav2.conversion.convert_exl2")

# exllamav2's own defaults: rows and tokens of a row that it measures and calibrates with.
MEASURED_ROWS, CALIBRATED_ROWS, ROW_LENGTH = 16, 100, 2048
# Its tokenizer may split a text into a few tokens fewer than ours counts.
TOKEN_MARGIN = 1.02

HEAD_BITS = (2, 3, 4, 5, 6, 8)
# How far the bits on disk may be from those asked for, as a share.
TOLERANCE = 0.01

PERPLEXITY = re.compile(r"calibration perplexity \(quant\): (\S+)")


def exllamav2_usable() -> str | None:
    """Why exllamav2 cannot run here, in words that say what helps; None where it can.

    Does not import it: that would compile its extension, which takes minutes the first time.
    """
    if importlib.util.find_spec("exllamav2") is None:
        return "exllamav2 is not installed; pip install 'frankenlab[exl2]' does it"
    import torch

    if not torch.cuda.is_available():
        return "exllamav2 runs on CUDA only, and torch finds no CUDA device here"
    if importlib.util.find_spec("exllamav2_ext") is None:
        from torch.utils.cpp_extension import CUDA_HOME

        if CUDA_HOME is None:
            return (
                "exllamav2 has to compile its extension, and there is no CUDA compiler here; "
                "install CUDA's toolkit (nvcc) or a wheel of exllamav2 that was built for this "
                "version of torch"
            )
    return None


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
        What the measurement's key `frankenlab` holds: `quantizer`, `config` (a hash), `rows`,
        `length`, and `low` and `high`, the attainable bits per weight.

    Raises:
        UserError: exllamav2 cannot run or failed, or the model cannot be stored as EXL2.
    """
    model, target, work = Path(model), Path(target), Path(work)
    config = _check_job(model, converter)
    calibration = _calibrate(model, config, texts, rows, length)
    identity = _identity(model, config, calibration, converter) | {"task": "measure"}
    job = Job(work, identity, "measuring for EXL2")
    measured = work / "measured.json"
    with job:
        arguments = ["-i", _stage(model, config, work), "-om", str(measured)]
        arguments += ["-mr", str(calibration.rows), "-ml", str(calibration.length)]
        arguments += ["-c", _write_parquet(calibration, work)]
        run_converter(converter, arguments, job)
        if not measured.is_file():
            raise job.failure("it ended without a measurement")
        found = read_json(measured)
        low, high = _attainable(found, config, f"{model}: exllamav2's measurement")
        about = {
            "quantizer": f"exllamav2 {_installed_version()}",
            "config": content_hash(config),
            "rows": calibration.rows,
            "length": calibration.length,
            "low": low,
            "high": high,
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
    path = Path(measurement)
    found, config = read_json(path), read_json(Path(model) / "config.json")
    known = found.get("frankenlab")
    if isinstance(known, Mapping) and known.get("config") != content_hash(config):
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
        The manifest, with `quantizer`, `n_layers`, `bits_per_weight` and `head_bits` (on disk),
        `attainable` ([lowest, highest]) and `calibration_perplexity` added to the facts.

    Raises:
        UserError: as `measure`; the bitrate is outside what the shapes allow, or was missed by
            more than 1 %; the perplexity on the calibration texts is not finite.
    """
    model, measurement, work = Path(model), Path(measurement), Path(work)

    def fill(directory: Path) -> dict[str, Any]:
        config = _check_job(model, converter)
        if head_bits not in HEAD_BITS:
            allowed = ", ".join(map(str, HEAD_BITS))
            raise UserError(f"head bits {head_bits}: exllamav2 has {allowed}")
        low, high = attainable(measurement, model)
        if not low <= bits <= high:
            raise UserError(
                f"{bits} bits per weight: the shapes of {model} allow {low:.2f} to {high:.2f}"
            )
        calibration = _calibrate(model, config, texts, rows, length)
        asked = {"bits": bits, "head_bits": head_bits, "measurement": sha256_file(measurement)}
        identity = _identity(model, config, calibration, converter) | asked
        job = Job(work, identity, f"EXL2 at {bits} bits")
        result = work / "result"
        with job:
            # What an earlier run had begun to compile is compiled again.
            shutil.rmtree(result, ignore_errors=True)
            arguments = ["-i", _stage(model, config, work), "-m", str(measurement.resolve())]
            arguments += ["-cf", str(result), "-b", repr(float(bits)), "-hb", str(head_bits)]
            arguments += ["-r", str(calibration.rows), "-l", str(calibration.length)]
            arguments += ["-c", _write_parquet(calibration, work)]
            log = run_converter(converter, arguments, job)
            perplexity = _perplexity(log, job)
            _declare(result, calibration, job)
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


@dataclass(frozen=True)
class _Calibration:
    """The texts that fill `rows` rows of `length` tokens."""

    texts: tuple[str, ...]
    rows: int
    length: int

    @property
    def name(self) -> str:
        return f"texts of hash {content_hash(self.texts)}"


def _check_job(model: Path, converter: Sequence[str]) -> dict[str, Any]:
    """The model's config.json, once it is known that the job can be done."""
    if tuple(converter) == CONVERTER and (why := exllamav2_usable()):
        raise UserError(f"{model}: {why}; the reference quantizer works without")
    check_llama_shaped(model)
    config = read_json(model / "config.json")
    if config.get("mlp_bias"):
        raise UserError(f"{model}: mlp_bias is true; exllamav2 does not keep the MLP's biases")
    for name, (outputs, inputs) in ModelShapes.from_config(config).linears.items():
        try:
            check_inputs(name, inputs)
        except UserError as error:
            raise UserError(f"{model}: {error}") from None
        # Of the head alone exllamav2 drops the columns that it pads with.
        if outputs % ALIGNMENT and name != HEAD:
            raise UserError(
                f"{model}: tensor '{name}': {outputs} outputs; exllamav2 takes multiples of "
                f"{ALIGNMENT}"
            )
    return config


def _calibrate(
    model: Path, config: Mapping[str, Any], texts: Sequence[str], rows: int, length: int
) -> _Calibration:
    """As many texts as fill the rows; a row is never longer than the model's context."""
    length = min(length, int(config.get("max_position_embeddings") or length))
    tokenizer = load_tokenizer(model)
    kept: list[str] = []
    tokens = 0
    for text in texts:
        if tokens >= rows * length * TOKEN_MARGIN:
            break
        if text.strip():
            tokens += len(tokenizer.encode(text, add_special_tokens=False))
            kept.append(text)
    filled = min(rows, int(tokens / TOKEN_MARGIN / length))
    if not filled:
        raise UserError(
            f"the calibration texts have {tokens} tokens for {model}; one row takes {length} "
            f"(and up to {rows} rows are used)"
        )
    return _Calibration(tuple(kept), filled, length)


def _write_parquet(calibration: _Calibration, work: Path) -> str:
    """exllamav2 joins the columns of a row, so there is one column."""
    import pyarrow
    from pyarrow import parquet

    path = work / "calibration.parquet"
    table = pyarrow.table({"text": pyarrow.array(calibration.texts, pyarrow.string())})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary)
    return str(path)


def _identity(
    model: Path, config: Mapping[str, Any], calibration: _Calibration, converter: Sequence[str]
) -> dict[str, Any]:
    """What a job must have in common with one that was broken off, to go on from there."""
    weights = [
        [path.name, path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(model.glob("*.safetensors"))
    ]
    return {
        "model": content_hash([str(model.resolve()), config, weights]),
        "calibration": [calibration.name, calibration.rows, calibration.length],
        "converter": [*converter, _installed_version()],
    }


def _stage(model: Path, config: Mapping[str, Any], work: Path) -> str:
    """What the converter may see of the model.

    It copies every file that is no tensor, stale indices and read-only modes too, loads every
    *.safetensors, and knows the rotary parameters only by their names of transformers 4.
    """
    stage = work / "model"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    names = {"model.safetensors"}
    index = model / "model.safetensors.index.json"
    if not (model / "model.safetensors").is_file():
        names = set(read_json(index)["weight_map"].values())
    for name in sorted(names):
        (stage / name).symlink_to((model / name).resolve())
    for name in (*TOKENIZER_FILES, "generation_config.json", "chat_template.jinja"):
        if (model / name).is_file():
            shutil.copyfile(model / name, stage / name)
    rope = dict(config.get("rope_parameters") or {})
    theta = rope.pop("rope_theta", None)
    added: dict[str, Any] = {} if theta is None else {"rope_theta": theta}
    if rope.get("rope_type", "default") != "default":
        added["rope_scaling"] = rope
    write_json(stage / "config.json", {**added, **config})
    return str(stage)


def _attainable(
    found: Mapping[str, Any], config: Mapping[str, Any], where: str
) -> tuple[float, float]:
    shapes = ModelShapes.from_config(config)
    weights = sum(prod(shape) for name, shape in shapes.linears.items() if name != HEAD)
    low = high = 0.0
    for layer in range(shapes.n_layers):
        for part in ("self_attn", "mlp"):
            name = f"model.layers.{layer}.{part}"
            options = (found.get("measurement") or {}).get(name)
            if not options:
                raise UserError(f"{where} lacks '{name}'; measure again")
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


def _declare(result: Path, calibration: _Calibration, job: Job) -> None:
    """Checks that the converter came to its last line, and adds who it was."""
    try:
        config = json.loads((result / "config.json").read_text())
    except (OSError, ValueError):
        raise job.failure("it ended without writing a config.json") from None
    if not declares_exl2(config):
        raise job.failure(f"it ended without writing {KEY} into config.json")
    if not any(result.glob("output*.safetensors")):
        raise job.failure("it ended without writing output.safetensors")
    if stale := sorted(result.glob("*.index.json")):
        raise job.failure(f"it copied {stale[0].name}, an index of other files")
    declared = config[KEY]
    declaration = Declaration(
        quantizer=f"exllamav2 {declared['version']}",
        version=declared["version"],
        bits=declared["bits"],
        head_bits=declared["head_bits"],
        calibration={**declared["calibration"], "dataset": calibration.name},
    )
    write_json(result / "config.json", {**config, KEY: declaration.to_config()})


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
            f"{TOLERANCE:.0%} off; the shapes allow {low:.2f} to {high:.2f} in steps: ask for "
            f"{math.ceil(found * 1000) / 1000}"
        )
    return {
        "quantizer": directory.declaration.quantizer,
        "n_layers": directory.shapes.n_layers,
        "bits_per_weight": round(found, 4),
        "head_bits": None if directory.head_bits is None else round(directory.head_bits, 4),
    }


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("exllamav2")
    except PackageNotFoundError:
        return "not installed"
