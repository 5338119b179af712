"""The quantizers behind one door: exllamav2's converter, or the reference in torch."""

from pathlib import Path
from typing import Any

from frankenlab.config.experiment import Experiment
from frankenlab.config.settings import CalibrationSettings
from frankenlab.io.directories import verify_directory
from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash, sha256_file
from frankenlab.models.inspect import load_tokenizer, weights_hash
from frankenlab.models.quantization import Quantization
from frankenlab.quantize import exllamav2 as conversion
from frankenlab.quantize import reference as quantizer
from frankenlab.quantize.calibration import calibration_rows, configured_texts


def measure(experiment: Experiment, model: str, target: Path, work: Path) -> None:
    """Writes the measurement of a model (JSON), which serves all its bitrates.

    Args:
        work: directory of this job alone; a killed job goes on from there.

    Raises:
        UserError: as the quantizers'; exllamav2 is asked for and cannot run here.
    """
    directory, settings = experiment.weights_folder(model), _calibration(experiment)
    verify_directory(directory, every_hash=True)
    texts = configured_texts(settings)
    if _uses_exllamav2(experiment):
        conversion.measure(directory, target, work, texts)
        return
    rows = calibration_rows(texts, load_tokenizer(directory), settings.rows, settings.length)
    quantizer.measure(directory, target, rows, work, device=experiment.settings.device)


def quantize(
    experiment: Experiment, model: str, quantization: str, measurement: Path, work: Path
) -> dict[str, Any]:
    """Makes the EXL2 directory of a model at a bitrate, and gives its manifest.

    Args:
        measurement: what `measure` wrote.
        work: as of `measure`.

    Raises:
        UserError: as `measure`; the model's shapes do not allow the bitrate.
    """
    directory, settings = experiment.weights_folder(model), _calibration(experiment)
    target = experiment.weights_folder(model, quantization)
    manifest = verify_directory(directory, every_hash=True).manifest
    texts = configured_texts(settings)
    bits, head_bits = Quantization.parse(quantization).bits, experiment.settings.exl2.head_bits
    assert bits is not None, "the weights as distributed need no quantizer"
    facts = {
        "kind": "exl2",
        "description": experiment.models[model].description,
        "source": experiment.models[model].source.text,
        "calibration": {"texts": len(texts), "hash": content_hash(texts)},
    }
    # Another measurement chooses other options.
    made_of = [weights_hash(manifest), sha256_file(measurement)]
    facts["key"] = content_hash([*made_of, bits, head_bits, facts])
    if _uses_exllamav2(experiment):
        return conversion.quantize(
            directory, target, bits, head_bits, measurement, work, texts, facts
        )
    rows = calibration_rows(texts, load_tokenizer(directory), settings.rows, settings.length)
    return quantizer.quantize(
        directory,
        target,
        bits,
        head_bits,
        rows,
        facts,
        work,
        measurement=measurement,
        device=experiment.settings.device,
    )


def _calibration(experiment: Experiment) -> CalibrationSettings:
    assert experiment.calibration is not None, "nothing is quantized in this experiment"
    return experiment.calibration


def _uses_exllamav2(experiment: Experiment) -> bool:
    if experiment.quantizer != "exllamav2":
        return False
    if reason := conversion.exllamav2_usable():
        raise UserError(f"{reason}; exl2.quantizer: reference works without it")
    return True
