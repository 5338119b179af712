"""exllamav2's converter as a job: what it makes, and every way in which it fails."""

import json
import math
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

from frankenlab.io.directories import verify_directory
from frankenlab.io.errors import UserError
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.files import read_json
from frankenlab.models.shape import ModelShape
from frankenlab.quantize import quantizer
from frankenlab.quantize.exllamav2 import inputs
from frankenlab.quantize.exllamav2.converter import Exllamav2Quantizer
from frankenlab.quantize.exllamav2.inputs import why_unusable
from frankenlab.quantize.quantizer import measure_model, quantize_model
from tests.support.converter import FIXTURE_BITS, MODEL, SMALL, TEXTS, fake, make
from tests.support.paths import ROOT, SUPPORT
from tests.support.processes import one_line

pytestmark = pytest.mark.slow

installed = pytest.mark.skipif(find_spec("exllamav2") is None, reason="exllamav2 is not installed")


@pytest.fixture
def measured(tmp_path):
    target = tmp_path / "measurement.json"
    assert measure_model(fake(), MODEL, target, tmp_path / "measuring") == pytest.approx((2.5, 8.0))
    return target


def reason(work) -> str:
    with pytest.raises(UserError) as caught:
        work()
    return one_line(caught)


def test_a_measurement_serves_a_conversion(tmp_path, measured):
    assert not (tmp_path / "measuring").exists()
    manifest = make(tmp_path, measured)
    assert manifest["quantizer"] == "exllamav2 0.3.2" and manifest["n_layers"] == 2
    assert manifest["bits_per_weight"] == FIXTURE_BITS
    assert manifest["attainable"] == [2.5, 8.0]
    assert manifest["calibration_perplexity"] == 511.0301
    assert verify_directory(tmp_path / "exl2", every_hash=True).manifest == manifest
    declaration = Exl2Directory(tmp_path / "exl2").declaration
    assert (declaration.quantizer, declaration.bits) == ("exllamav2 0.3.2", FIXTURE_BITS)
    assert declaration.calibration["rows"] == 2
    assert declaration.calibration["dataset"].startswith("texts of hash ")
    assert not (tmp_path / "work").exists()


def test_what_is_there_is_not_made_again(tmp_path, measured):
    manifest = make(tmp_path, measured)
    assert make(tmp_path, measured, "crash") == manifest


def test_the_converter_sees_a_model_without_the_files_that_mislead_it(tmp_path, measured):
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    config = json.loads((model / "config.json").read_text())
    theta = config.pop("rope_theta")
    config["rope_parameters"] = {"rope_type": "llama3", "rope_theta": theta, "factor": 8.0}
    config["rope_parameters"] |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config["rope_parameters"] |= {"original_max_position_embeddings": 64}
    (model / "config.json").write_text(json.dumps(config))
    (model / "config.json").chmod(0o444)
    (model / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    (model / "README.md").write_text("not a part of the model")
    target = tmp_path / "measurement.json"
    measure_model(fake(), model, target, tmp_path / "measuring")
    make(tmp_path, target, model=model)
    names = {path.name for path in (tmp_path / "exl2").iterdir() if path.suffix != ".json"}
    assert names == {"output.safetensors"}
    made = json.loads((tmp_path / "exl2" / "config.json").read_text())
    assert made["rope_theta"] == theta and made["rope_scaling"]["factor"] == 8.0
    assert not (tmp_path / "exl2" / "model.safetensors.index.json").exists()


def test_rows_are_as_many_as_the_texts_fill_and_no_longer_than_the_context(tmp_path):
    where = (MODEL, tmp_path / "m.json", tmp_path / "w")

    def seen(**more):
        with pytest.raises(UserError):
            measure_model(fake("says-error-exits-0", **more), *where)
        return json.loads((tmp_path / "w" / "exllamav2" / "seen.json").read_text())

    found = seen(measured_rows=4, length=100_000)
    assert (found["mr"], found["ml"]) == (4, 512)
    assert seen(texts=TEXTS[:1], measured_rows=1000)["mr"] < 40
    text = reason(lambda: measure_model(Exllamav2Quantizer(("Ice melts.",)), *where))
    assert "CUDA" in text or "installed" in text
    text = reason(lambda: measure_model(fake(texts=("Ice melts.",), length=2048), *where))
    assert "the calibration texts have" in text and "one row takes 512" in text


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("crash", "CUDA out of memory. (exit status 1)"),
        ("internal-error", "Measurement/inference error (2) (exit status 1)"),
        (
            "says-error-exits-0",
            "ended before it had quantized the head (Error: 7 is not a supported option",
        ),
        ("nan-perplexity", "calibration perplexity is nan"),
        ("inf-perplexity", "calibration perplexity is inf"),
        ("no-declaration", "without writing quantization_config"),
        ("no-tensors", "without writing output.safetensors"),
        ("cut-tensors", "damaged or not safetensors"),
    ],
)
def test_failures_of_the_converter_are_errors_and_leave_no_directory(
    tmp_path, measured, mode, words
):
    assert words in reason(lambda: make(tmp_path, measured, mode))
    assert not (tmp_path / "exl2").exists()
    assert (tmp_path / "work" / "converter.log").is_file()
    # The next run starts clean and succeeds.
    assert make(tmp_path, measured)["n_layers"] == 2


def test_an_index_of_other_files_is_left_behind(tmp_path, measured):
    make(tmp_path, measured, "stale-index")
    assert not (tmp_path / "exl2" / "model.safetensors.index.json").exists()


def test_failures_of_measuring_leave_no_measurement(tmp_path):
    for mode, words in {
        "says-error-exits-0": "ended without a measurement",
        "short": "lacks 'model.layers.1.self_attn'",
        "nan-accuracy": "an accuracy of 'model.layers.0.self_attn' is not finite",
        "crash": "out of memory",
    }.items():
        target = tmp_path / "m.json"
        assert words in reason(
            lambda: measure_model(fake(mode), MODEL, target, tmp_path / "w")  # noqa: B023
        )
        assert not target.exists(), mode


def test_bitrates_that_cannot_be_had(tmp_path, measured):
    text = reason(lambda: make(tmp_path, measured, bits=2.2))
    assert "2.2 bits per weight" in text and "allow 2.50 to 8.00" in text
    assert "allow 2.50 to 8.00" in reason(lambda: make(tmp_path, measured, bits=9.0))
    assert "head bits 7: EXL2 has 2, 3, 4, 5, 6, 8" in reason(
        lambda: make(tmp_path, measured, head_bits=7)
    )
    text = reason(lambda: make(tmp_path, measured, bits=4.5))
    assert "made 3.951 bits per weight where 4.5 were asked for" in text
    assert not (tmp_path / "exl2").exists()


def test_a_measurement_of_another_model_is_refused(tmp_path, measured):
    other = tmp_path / "other"
    shutil.copytree(MODEL, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 5e5}))
    assert "measured with another model" in reason(lambda: make(tmp_path, measured, model=other))
    measured.write_text("{}")
    assert "not what a job wrote there" in reason(lambda: make(tmp_path, measured))
    measured.write_text('{"meas')
    assert "damaged, not JSON" in reason(lambda: make(tmp_path, measured))


def test_models_that_the_format_cannot_hold(tmp_path, tiny, monkeypatch):
    def refuse(directory, **config):
        path = directory / "config.json"
        if config:
            path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
        return reason(lambda: measure_model(fake(), directory, tmp_path / "m", tmp_path / "w"))

    # Keys of 16 outputs, as one head of that size gives.
    narrow = tmp_path / "narrow"
    shutil.copytree(tiny("one-key-head"), narrow)
    assert "self_attn.k_proj.weight': 8 outputs; exllamav2 takes multiples of 32" in refuse(narrow)
    monkeypatch.setattr(
        quantizer,
        "check_llama_shaped",
        lambda directory: ModelShape.from_config(read_json(directory / "config.json")),
    )
    odd = tmp_path / "odd"
    shutil.copytree(MODEL, odd)
    assert "340 inputs cannot be stored as EXL2" in refuse(odd, intermediate_size=340)
    assert "mlp_bias is true" in refuse(odd, intermediate_size=352, mlp_bias=True)


@pytest.mark.parametrize(
    ("mode", "then"), [("hangs-once", "resumed"), ("hangs-once-invalid", "started clean")]
)
def test_a_killed_conversion_goes_on_or_starts_clean(tmp_path, measured, mode, then):
    code = (
        "from pathlib import Path; from tests.support.converter import make; "
        f"make(Path({str(tmp_path)!r}), Path({str(measured)!r}), {mode!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, cwd=ROOT)
    log = tmp_path / "work" / "converter.log"
    deadline = time.monotonic() + 60
    while not (log.is_file() and "checkpoint" in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (tmp_path / "exl2").exists()
    assert make(tmp_path, measured, mode)["n_layers"] == 2
    assert (tmp_path / "hung").read_text() == then
    assert not (tmp_path / "work").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_job_of_other_arguments_never_goes_on(tmp_path, measured):
    work = tmp_path / "work"
    assert "memory" in reason(lambda: make(tmp_path, measured, "crash"))
    (work / "exllamav2" / "job_new.json").write_text('{"progress": "quant"}')
    (work / "exllamav2" / "half-done").touch()
    (tmp_path / "hung").touch()
    make(tmp_path, measured, "hangs-once")
    assert (tmp_path / "hung").read_text() == "started clean"


def test_why_exllamav2_cannot_be_used(monkeypatch):
    monkeypatch.setattr(inputs.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'frankenlab[exl2]'" in why_unusable()
    monkeypatch.setattr(inputs.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in why_unusable()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert why_unusable() is None


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """The tiny model measured and converted by exllamav2's own code, which a CPU stands in for:
    about a minute, once."""
    root = tmp_path_factory.mktemp("converted")
    converter = (str(SUPPORT / "exllamav2_stand_in.py"), "-m", "exllamav2.conversion.convert_exl2")
    own = Exllamav2Quantizer(TEXTS, **SMALL, command=(sys.executable, *converter))
    measurement = root / "measurement.json"
    low, high = measure_model(own, MODEL, measurement, root / "measuring")
    assert low < 3 and high > 7.5
    manifest = quantize_model(
        # In two layers the steps are coarse; only one choice is as small as this.
        *(own, MODEL, root / "exl2", low + 0.005, 6, measurement, root / "work"),
        {"key": "tiny"},
    )
    return root / "exl2", json.loads(measurement.read_text())["frankenlab"], low, manifest


@installed
def test_exllamav2_itself_converts_the_tiny_model(converted):
    directory, about, low, manifest = converted
    assert about["quantizer"] == manifest["quantizer"] == "exllamav2 0.3.2"
    assert manifest["bits_per_weight"] == pytest.approx(low, abs=1e-4)
    assert math.isfinite(manifest["calibration_perplexity"])
    exl2, original = Exl2Directory(directory), load_file(MODEL / "model.safetensors")
    assert exl2.names == set(original)
    for name, tensor in original.items():
        error = (exl2.get(name, torch.float32) - tensor.float()).norm() / tensor.float().norm()
        assert error < (0.45 if name.removesuffix(".weight") in exl2.linears else 1e-9), name
