"""A store's rows are those of the model, the arithmetic and the code that its identity names."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.evaluate.runner import evaluate_task
from frankenlab.io.directories import make_directory
from frankenlab.io.errors import UserError
from frankenlab.models.exl2.reading import Exl2Directory
from tests.support.evaluation import FEW, spec_of
from tests.support.paths import DATA
from tests.support.task_rows import task_settings


def test_everything_that_makes_a_score_is_in_the_identity_of_its_store(tiny, tmp_path, monkeypatch):
    """And nothing else: not the batch, not which of several devices of a kind."""
    spec = spec_of(tiny())
    same = replace(spec, token_budget=1, name="another name", directory=tmp_path)
    assert same.identity("arc_easy") == spec.identity("arc_easy")
    first, second = (replace(spec, device=device) for device in ("cuda", "cuda:1"))
    assert first.identity("arc_easy") == second.identity("arc_easy")
    different = [
        spec.identity("arc_easy"),
        spec_of(tiny("tied")).identity("arc_easy"),
        replace(spec, precision="bfloat16").identity("arc_easy"),
        replace(spec, quantization="4.0").identity("arc_easy"),
        replace(spec, engine="exllamav2").identity("arc_easy"),
        replace(spec, device="cuda").identity("arc_easy"),
        spec.identity("sst2"),
    ]
    monkeypatch.setattr(
        "frankenlab.evaluate.model_spec.scoring_fingerprint", lambda engine: "edited"
    )
    different.append(spec.identity("arc_easy"))
    monkeypatch.undo()
    monkeypatch.setattr(
        "frankenlab.evaluate.model_spec.engine_libraries", lambda engine, device: {"torch": "9"}
    )
    different.append(spec.identity("arc_easy"))
    texts = {json.dumps(identity, sort_keys=True) for identity in different}
    assert len(texts) == len(different) == 9


def replaced_weights(directory: Path) -> None:
    """Other weights of the same size, with the old time of modification."""
    path = directory / "model.safetensors"
    before, contents = path.stat(), bytearray(path.read_bytes())
    contents[-1000:] = bytes(1000)
    path.unlink()
    path.write_bytes(contents)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture(params=["with a manifest", "without one"])
def own_model(request, tiny, tmp_path) -> Path:
    """A copy of the tiny model that a test may change."""

    def fill(directory: Path) -> dict:
        shutil.copytree(tiny(), directory, dirs_exist_ok=True)
        return {}

    if request.param == "with a manifest":
        make_directory(tmp_path / "model", {"key": "k"}, fill)
    else:
        shutil.copytree(tiny(), tmp_path / "model")
    return tmp_path / "model"


def test_weights_replaced_between_two_jobs_are_refused_or_another_model(own_model, tmp_path):
    settings, store = task_settings(tmp_path), tmp_path / "s"
    first = evaluate_task(spec_of(own_model), FEW[:1], settings, None, 5, store)
    replaced_weights(own_model)
    if (own_model / "manifest.json").exists():
        with pytest.raises(UserError, match=r"model\.safetensors: its content differs"):
            spec_of(own_model)
        return
    second = evaluate_task(spec_of(own_model), FEW, settings, None, 5, store)
    assert not set(first["weights"]) & set(second["weights"])
    base = second[second["plan"] == FEW[0].text]
    assert list(base["loglikelihoods"]) != list(first["loglikelihoods"])


@pytest.mark.parametrize("moment", ["before it is loaded", "while it is loaded", "in the sweep"])
def test_weights_replaced_during_a_job_give_no_row(own_model, tmp_path, monkeypatch, moment):
    settings, root = task_settings(tmp_path), tmp_path / "s"
    spec = spec_of(own_model)
    if moment == "before it is loaded":
        replaced_weights(own_model)
    else:
        where = {
            "while it is loaded": (ModelSpec, "load_engine"),
            "in the sweep": (TorchEngine, "place"),
        }
        original = getattr(*where[moment])

        def then_replaced(*arguments):
            made = original(*arguments)
            replaced_weights(own_model)
            return made

        monkeypatch.setattr(*where[moment], then_replaced)
    with pytest.raises(UserError, match=r"was replaced while|its content differs"):
        evaluate_task(spec, FEW, settings, None, 5, root)
    assert list(root.glob("*/part-*")) == []


def test_files_that_were_only_touched_are_no_other_model(own_model, tmp_path, monkeypatch):
    spec = spec_of(own_model)
    load = ModelSpec.load_engine

    def touched(self):
        os.utime(own_model / "model.safetensors")
        return load(self)

    monkeypatch.setattr(ModelSpec, "load_engine", touched)
    assert len(evaluate_task(spec, FEW, task_settings(tmp_path), None, 5, tmp_path / "s")) == 15


def test_a_data_file_that_its_manifest_does_not_know_is_refused(tiny, tmp_path):
    row = task_settings(tmp_path).data_file.read_bytes()
    make_directory(
        tmp_path / "data", {"key": "k"}, lambda d: (d / "arc.jsonl").write_bytes(row) and {}
    )
    file = tmp_path / "data" / "arc.jsonl"
    settings = task_settings(tmp_path, data_file=file)
    assert len(evaluate_task(spec_of(tiny()), FEW, settings, None, 5, tmp_path / "s")) == 15
    file.write_bytes(row.replace(b"?", b"!"))
    with pytest.raises(UserError, match=r"arc\.jsonl: its content differs"):
        evaluate_task(spec_of(tiny()), FEW, settings, None, 5, tmp_path / "s")


def test_an_exl2_directory_says_at_which_bitrate_it_is(tiny):
    """By its declaration; where exllamav2 wrote none, by the bits on disk."""
    fixture = DATA / "llama-tiny-exl2"
    spec = ModelSpec.for_directory(fixture, engine="exllamav2", device="cuda")
    assert (spec.quantization, spec.precision) == ("exl2-4.0", "float16")
    assert ModelSpec.for_directory(fixture).precision == "bfloat16"
    assert ModelSpec.for_directory(tiny()).quantization == "none"
    with pytest.raises(UserError, match="float16 only"):
        ModelSpec.for_directory(fixture, "bfloat16", "cuda", "exllamav2")


def test_an_exl2_directory_of_early_times_says_what_its_bits_on_disk_are(tmp_path):
    fixture = DATA / "llama-tiny-exl2"
    copy = shutil.copytree(fixture, tmp_path / "old")
    config = json.loads((copy / "config.json").read_text())
    del config["quantization_config"]
    (copy / "config.json").write_text(json.dumps(config))
    bits = Exl2Directory(fixture).bits_per_weight
    assert ModelSpec.for_directory(copy).quantization == f"exl2-{round(bits, 2)}"
