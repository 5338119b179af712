"""Measure and quantize the models of an experiment with the quantizer that it asks for."""

from pathlib import Path
from typing import Any

from frankenlab.config.experiment import Experiment
from frankenlab.io.directories import verify_directory
from frankenlab.io.files import content_hash, sha256_file
from frankenlab.models.directory import weights_hash
from frankenlab.models.quantization import Quantization
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.quantize.calibration import calibration_rows, configured_texts
from frankenlab.quantize.exllamav2.converter import Exllamav2Quantizer
from frankenlab.quantize.quantizer import Quantizer, measure_model, quantize_model
from frankenlab.quantize.reference import ReferenceQuantizer


def measure(experiment: Experiment, model: str, target: Path, work: Path) -> None:
    """Write the measurement of a model (JSON), which serves all its bitrates.

    Args:
        work: a folder for this job alone; a killed job goes on from there.

    Raises:
        UserError: see `quantizer.measure_model`.
    """
    directory = experiment.weights_folder(model)
    verify_directory(directory, every_hash=True)
    quantizer = quantizer_of(experiment, directory, configured_texts(experiment))
    measure_model(quantizer, directory, target, work)


def quantize(
    experiment: Experiment, model: str, quantization: str, measurement: Path, work: Path
) -> dict[str, Any]:
    """Make the EXL2 directory of a model at a bitrate; return its manifest.

    Args:
        measurement: what `measure` wrote.
        work: see `measure`.

    Raises:
        UserError: see `quantizer.quantize_model`.
    """
    directory = experiment.weights_folder(model)
    manifest = verify_directory(directory, every_hash=True).manifest
    texts = configured_texts(experiment)
    bits, head_bits = Quantization.parse(quantization).bits, experiment.settings.exl2.head_bits
    assert bits is not None, "the weights as distributed need no quantizer"
    facts = {
        "kind": "exl2",
        "description": experiment.models[model].description,
        "source": experiment.models[model].source.text,
        "calibration": _about(texts),
    }
    # Another measurement chooses other options.
    made_of = [weights_hash(manifest), sha256_file(measurement)]
    facts["key"] = content_hash([*made_of, bits, head_bits, facts])
    return quantize_model(
        quantizer_of(experiment, directory, texts),
        directory,
        experiment.weights_folder(model, quantization),
        bits,
        head_bits,
        measurement,
        work,
        facts,
    )


def quantizer_of(experiment: Experiment, directory: Path, texts: list[str]) -> Quantizer:
    """Return the experiment's quantizer with its calibration texts, for a model's directory."""
    if experiment.quantizer == "exllamav2":
        return Exllamav2Quantizer(tuple(texts))
    settings = experiment.calibration
    assert settings is not None
    rows = calibration_rows(texts, load_tokenizer(directory), settings.rows, settings.length)
    return ReferenceQuantizer(rows, _about(texts), experiment.settings.device)


def _about(texts: list[str]) -> dict[str, Any]:
    return {"texts": len(texts), "hash": content_hash(texts)}
