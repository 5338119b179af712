"""The reference quantizer on tiny models: what it writes, what it resumes, what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from frankenlab.io.directories import verify_directory
from frankenlab.io.errors import UserError
from frankenlab.models.exl2.options import OPTIONS, attainable_bits
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.shape import HEAD, ModelShape
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.quantize import reference, resume
from frankenlab.quantize.allocation import choose_options
from frankenlab.quantize.layerwise import LayerwiseModel
from frankenlab.quantize.quantizer import _range, measure_model, quantize_model
from frankenlab.quantize.reference import ReferenceQuantizer
from tests.support.models import load_hf
from tests.support.processes import one_line
from tests.support.tiny import make_tiny_model

# Hidden size, heads and key heads that the format holds in every linear layer.
SIZES = {"hidden": 64, "heads": 4, "kv_heads": 2}
FACTS = {"key": "tests", "calibration": {"dataset": "noise", "texts": "abc"}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "two": make_tiny_model(root / "two", n_layers=2, **SIZES),
        "tied": make_tiny_model(root / "tied", n_layers=2, tied=True, rope="llama3", **SIZES),
        "mistral": make_tiny_model(root / "mistral", "mistral", n_layers=2, **SIZES),
        "qwen2": make_tiny_model(root / "qwen2", "qwen2", n_layers=2, tied=True, **SIZES),
        "thirty": make_tiny_model(root / "thirty", n_layers=30, **SIZES),
    }


def measure(model: Path, target: Path, rows: torch.Tensor, work: Path) -> dict:
    measure_model(ReferenceQuantizer(rows, {}), model, target, work)
    return json.loads(target.read_text())


def quantize(
    model: Path,
    target: Path,
    bits: float,
    head_bits: int,
    rows: torch.Tensor,
    work: Path,
    measurement: Path | None = None,
    method: str = "gptq",
) -> dict:
    """Quantizes a model, which is measured first unless there is a measurement of it."""
    quantizer = ReferenceQuantizer(rows, FACTS["calibration"], method=method)
    if measurement is None:
        measurement = target.parent / f"{target.name}.json"
        if not measurement.exists():
            measure_model(quantizer, model, measurement, work)
    return quantize_model(
        quantizer, model, target, bits, head_bits, measurement, work / "quantizing", FACTS
    )


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randint(0, 384, (24, 32), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["two", "tied", "mistral", "qwen2"])
def test_layer_by_layer_is_what_transformers_computes(models, rows, name, monkeypatch):
    monkeypatch.setattr("frankenlab.quantize.layerwise.TOKENS", 100)
    model = load_hf(models[name])
    seen = {}
    for module_name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, inputs, key=module_name: seen.update({key: inputs[0].flatten(0, 1)})
            )
    # What o_proj and down_proj add to, and what they make of it.
    sums = {}
    for index, layer in enumerate(model.model.layers):
        layer.post_attention_layernorm.register_forward_pre_hook(
            lambda _, inputs, key=f"model.layers.{index}.self_attn.o_proj": sums.update(
                {key: inputs[0].flatten(0, 1)}
            )
        )
        layer.register_forward_hook(
            lambda _, __, output, key=f"model.layers.{index}.mlp.down_proj": sums.update(
                {key: output.flatten(0, 1)}
            )
        )
    expected = model(rows, output_hidden_states=True).hidden_states
    layers = LayerwiseModel(models[name], torch.device("cpu"))
    hidden = layers.embed(rows)
    visited = {}

    def visit(shared) -> None:
        visited.update(dict.fromkeys(shared.names, shared.hessian))

    for index in range(layers.n_layers):
        torch.testing.assert_close(hidden, expected[index], rtol=1e-4, atol=1e-4)
        hidden = layers.run_layer(index, hidden, visit)
    layers.run_head(hidden, visit)
    assert visited.keys() == seen.keys()
    for key, hessian in visited.items():
        x = seen[key]
        if key in sums:
            x = x / sums[key].square().mean(-1, keepdim=True).sqrt()
        torch.testing.assert_close(hessian, x.T @ x / len(x), rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_a_layer_runs_on_with_the_weights_that_it_is_given(models, rows):
    """True-sequential: what a visit changes, the later layers of the same block see."""
    layers = LayerwiseModel(models["two"], torch.device("cpu"))
    hidden = layers.embed(rows)
    moments = {}

    def silence(shared) -> None:
        moments.update(dict.fromkeys(shared.names, shared.hessian))
        if shared.names[0].endswith(("q_proj", "gate_proj")):
            for module in shared.modules:
                module.weight = torch.nn.Parameter(torch.zeros_like(module.weight))

    after = layers.run_layer(0, hidden, silence)
    assert not moments["model.layers.0.self_attn.o_proj"].any()
    assert not moments["model.layers.0.mlp.down_proj"].any()
    torch.testing.assert_close(after, hidden)
    # And they are gone with the layer.
    assert layers.run_layer(0, hidden, lambda _: None).ne(hidden).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "tied", "qwen2"])
def test_the_directory_reads_back_and_answers_like_the_model(models, rows, name, tmp_path):
    target = tmp_path / "exl2"
    manifest = quantize(models[name], target, 8.0, 8, rows, tmp_path / "work")
    made = Exl2Directory(target)
    original = load_hf(models[name])
    assert made.linears == set(made.shape.linears)
    assert made.declaration.quantizer == manifest["quantizer"] == "frankenlab-gptq"
    assert made.declaration.version == manifest["quantizer_version"]
    assert (made.declaration.bits, made.declaration.head_bits) == (8.0, 8)
    expected = {"rows": 24, "length": 32, "dataset": "noise", "texts": "abc"}
    assert made.declaration.calibration == manifest["calibration"] | {"rows": 24, "length": 32}
    assert made.declaration.calibration == expected
    assert 7.92 <= made.bits_per_weight <= 8.0
    assert manifest["bits_per_weight"] == pytest.approx(made.bits_per_weight, abs=1e-4)
    assert verify_directory(target, every_hash=True).manifest == manifest
    assert load_tokenizer(target).encode("river") == load_tokenizer(models[name]).encode("river")
    embeddings = made.get("model.embed_tokens.weight", torch.float32)
    assert torch.equal(embeddings, original.model.embed_tokens.weight.half().float())
    with torch.inference_mode():
        before = original(rows[:4]).logits.log_softmax(-1)
        head = original.lm_head
        head.weight = torch.nn.Parameter(head.weight.clone())
        for key, parameter in original.named_parameters():
            parameter.data = made.get(key, torch.float32)
        head.weight.data = made.get("lm_head.weight", torch.float32)
        after = original(rows[:4]).logits.log_softmax(-1)
    # Of log-probabilities that differ by one or so from token to token.
    assert before.std() > 0.5 and (before - after).abs().mean() < 0.02
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.slow
def test_every_layer_is_quantized_on_what_the_stored_layers_before_it_give(
    models, rows, tmp_path, monkeypatch
):
    entered, run = [], LayerwiseModel.run_head

    def spy(self, hidden, visit):
        entered.append(hidden)
        run(self, hidden, visit)

    monkeypatch.setattr(LayerwiseModel, "run_head", spy)
    quantize(models["two"], tmp_path / "exl2", 4.0, 6, rows, tmp_path / "work")
    made, layers = (
        Exl2Directory(tmp_path / "exl2"),
        LayerwiseModel(models["two"], torch.device("cpu")),
    )

    def take_stored(shared) -> None:
        for name, module in zip(shared.names, shared.modules, strict=True):
            weight = made.get(f"{name}.weight", torch.float32)
            module.weight = torch.nn.Parameter(weight, requires_grad=False)

    hidden = layers.embed(rows)
    unquantized = hidden
    for index in range(2):
        hidden = layers.run_layer(index, hidden, take_stored)
        unquantized = layers.run_layer(index, unquantized, lambda _: None)
    torch.testing.assert_close(entered[0], hidden)
    assert (entered[0] - unquantized).abs().max() > 0.1


@pytest.mark.slow
def test_targets_are_met_and_a_measurement_serves_them_all(models, rows, tmp_path, monkeypatch):
    """2 and 30 layers, several bitrates; the model is measured once."""
    for name in ("two", "thirty"):
        measurement = tmp_path / f"{name}.json"
        one = ReferenceQuantizer(rows[:4], {})
        low, high = measure_model(one, models[name], measurement, tmp_path / "work")
        assert not (tmp_path / "work").exists()
        with monkeypatch.context() as patch:
            patch.setattr(reference, "measure_errors", None)
            for bits in (round(low * 1.1, 2),) if name == "thirty" else (3.5, 4.0, 5.0, 6.0):
                target = tmp_path / f"{name}-{bits}"
                arguments = (models[name], target, bits, 6, rows[:4], tmp_path / "work")
                manifest = quantize(*arguments, measurement=measurement)
                assert 0.99 * bits <= Exl2Directory(target).bits_per_weight <= bits
                assert manifest["attainable"] == [round(low, 4), round(high, 4)]


def test_measured_errors_fall_with_the_bits_and_are_relative_to_the_outputs(models, rows, tmp_path):
    found = measure(models["two"], tmp_path / "m.json", rows, tmp_path / "work")
    names = set(
        ModelShape.from_config(json.loads((models["two"] / "config.json").read_text())).linears
    )
    assert found["linears"].keys() == names - {HEAD}
    for measured in found["linears"].values():
        errors = measured["errors"]
        assert errors[-1] < errors[4] < errors[0] < measured["energy"]
        assert errors[-1] < 1e-4 * measured["energy"]


def test_bits_go_where_the_hidden_states_change_most(models):
    shapes = ModelShape.from_config(json.loads((models["thirty"] / "config.json").read_text()))
    same = [4.0 ** -(index + 1) for index in range(len(OPTIONS))]

    def energy(name: str) -> float:
        """The MLPs of the first ten layers add a hundred times more than all else. What is
        inside a block has outputs of other sizes, which say nothing."""
        if name.endswith(("o_proj", "down_proj")):
            return 10.0 if "mlp" in name and int(name.split(".")[2]) < 10 else 0.1
        return 1000.0 if "v_proj" in name else 7.0

    linears = {
        name: {"energy": energy(name), "errors": [energy(name) * error for error in same]}
        for name in shapes.linears
        if name != HEAD
    }
    chosen = choose_options(shapes, linears, 4.0)
    numbers = {name: OPTIONS.index(option) for name, option in chosen.items()}
    first = [n for name, n in numbers.items() if "mlp" in name and int(name.split(".")[2]) < 10]
    others = [n for name, n in numbers.items() if "mlp" in name and int(name.split(".")[2]) >= 10]
    assert min(first) > max(others)
    values = [n for name, n in numbers.items() if "v_proj" in name]
    keys = [n for name, n in numbers.items() if "k_proj" in name]
    assert abs(sum(values) - sum(keys)) <= 15


@pytest.mark.slow
def test_rounding_to_nearest_has_the_same_options_and_larger_errors(models, rows, tmp_path):
    found, work = {}, tmp_path / "work"
    for method in ("gptq", "rtn"):
        target = tmp_path / method
        quantize(models["two"], target, 3.5, 6, rows, work, method=method)
        found[method] = Exl2Directory(target)
    assert found["rtn"].declaration.quantizer == "frankenlab-rtn"
    assert found["rtn"].bits_per_weight == found["gptq"].bits_per_weight
    original = load_file(models["two"] / "model.safetensors")
    layers = LayerwiseModel(models["two"], torch.device("cpu"))
    moments = {}

    def visit(shared) -> None:
        moments.update(dict.fromkeys(shared.names, shared.hessian))

    # The first layer sees the same inputs either way.
    layers.run_layer(0, layers.embed(rows), visit)
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"):
        groups = [made.linear(name).groups for made in found.values()]
        assert groups[0] == groups[1]
        errors = {}
        for method, made in found.items():
            change = made.get(f"{name}.weight", torch.float32) - original[f"{name}.weight"]
            errors[method] = float(((change @ moments[name]) * change).sum())
        assert errors["gptq"] < 0.9 * errors["rtn"]


class Killed(BaseException):
    """As a signal, no `except Exception` catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before-saving", "after-saving"])
def test_a_run_killed_anywhere_ends_with_the_same_bytes(models, rows, after, tmp_path, monkeypatch):
    """Killed at each thing that is saved, one after the other, in both passes."""
    model = models["two"]
    whole = quantize(model, tmp_path / "whole", 4.0, 6, rows[:4], tmp_path / "work-whole")
    target, work = tmp_path / "target", tmp_path / "work"
    save, layer, saved, run = resume.save_tensors, LayerwiseModel.run_layer, [], []

    def save_and_die(path, tensors):
        if after:
            save(path, tensors)
        if path.name in saved:
            return save(path, tensors)
        saved.append(path.name)
        raise Killed

    def count(self, index, hidden, visit):
        run.append(index)
        return layer(self, index, hidden, visit)

    monkeypatch.setattr(LayerwiseModel, "run_layer", count)
    monkeypatch.setattr(resume, "save_tensors", save_and_die)
    kills = 0
    while True:
        try:
            manifest = quantize(model, target, 4.0, 6, rows[:4], work)
            break
        except Killed:
            kills += 1
            assert not target.exists() and kills < 20
        if kills == 3:
            # The second pass saves under the same names.
            saved.clear()
    assert manifest == whole
    assert kills >= 5
    # Layer 0 of a pass is run again only while nothing after it is saved.
    assert len(run) <= 2 * kills + 4 and run[-1] == 1
    assert not list(work.rglob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["layer-0000", "hidden-0001"])
def test_what_was_damaged_after_a_kill_is_computed_again(
    models, rows, damaged, tmp_path, monkeypatch
):
    """A flipped bit in what a killed run left would be weights that nobody quantized."""
    target, work, save = tmp_path / "target", tmp_path / "work", resume.save_tensors

    def save_and_die(path, tensors):
        save(path, tensors)
        if path.name == "hidden-0001.safetensors" and "gptq" in str(path):
            raise Killed

    whole = quantize(models["two"], tmp_path / "w", 4.0, 6, rows[:4], tmp_path / "work-w")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(resume, "save_tensors", save_and_die)
        quantize(models["two"], target, 4.0, 6, rows[:4], work)
    (path,) = work.rglob(f"gptq*/{damaged}.safetensors")
    contents = bytearray(path.read_bytes())
    contents[-9] ^= 4
    path.write_bytes(contents)
    assert quantize(models["two"], target, 4.0, 6, rows[:4], work) == whole


def test_a_damaged_measurement_is_refused(models, rows, tmp_path):
    path = tmp_path / "m.json"
    damaged = measure(models["two"], path, rows[:4], tmp_path / "work")
    next(iter(damaged["linears"].values()))["errors"].pop()
    path.write_text(json.dumps(damaged))
    with pytest.raises(UserError) as error:
        quantize(models["two"], tmp_path / "x", 4.0, 6, rows[:4], tmp_path / "work", path)
    assert "errors: " in one_line(error) and "remove it and run again" in one_line(error)


def test_a_finished_directory_is_kept_without_any_work(models, rows, tmp_path, monkeypatch):
    arguments = (models["two"], tmp_path / "target", 4.0, 6, rows[:4], tmp_path / "work")
    first = quantize(*arguments)
    monkeypatch.setattr(LayerwiseModel, "run_layer", None)
    assert quantize(*arguments) == first


def test_a_bitrate_outside_what_the_shapes_allow_is_refused_with_the_range(models, rows, tmp_path):
    shapes = ModelShape.from_config(json.loads((models["two"] / "config.json").read_text()))
    low, high = attainable_bits(shapes, 6)
    measurement = tmp_path / "m.json"
    measure(models["two"], measurement, rows, tmp_path / "work")
    for bits in (low - 0.05, high + 0.05):
        with pytest.raises(UserError) as error:
            quantize(models["two"], tmp_path / "x", bits, 6, rows, tmp_path / "work", measurement)
        found_low, found_high = map(float, one_line(error).rpartition("allow ")[2].split(" to "))
        assert low <= found_low < low + 0.01 and high - 0.01 < found_high <= high
    assert not (tmp_path / "x").exists() and not (tmp_path / "work").exists()
    assert _range(2.211, 8.089) == "2.22 to 8.08"


def test_what_cannot_be_quantized_is_refused_before_any_work(models, rows, tmp_path):
    model, out = models["two"], (tmp_path / "x", 4.0, 6)
    work = tmp_path / "work"
    for tokens, reason in (
        (rows + 384, "takes 0 to 383"),
        (rows[0], "expected int64 [rows, length]"),
        (rows.float(), "expected int64"),
        (torch.zeros((1, 1024), dtype=torch.int64), "at most 512 a row"),
    ):
        with pytest.raises(UserError) as error:
            quantize(model, *out, tokens, work)
        assert reason in one_line(error)
    narrow = make_tiny_model(tmp_path / "narrow", n_layers=1, hidden=40)
    with pytest.raises(UserError) as error:
        quantize(narrow, *out, rows, work)
    assert "q_proj.weight': 40 inputs" in one_line(error) and str(narrow) in one_line(error)
    assert not work.exists()


def test_a_measurement_of_another_model_or_other_rows_is_refused(models, rows, tmp_path):
    measurement = tmp_path / "m.json"
    measure(models["two"], measurement, rows[:4], tmp_path / "work")
    for model, tokens in ((models["tied"], rows[:4]), (models["two"], rows[:5])):
        with pytest.raises(UserError) as error:
            quantize(
                *(model, tmp_path / "x", 4.0, 6, tokens, tmp_path / "work"),
                measurement=measurement,
            )
        assert "measure it again" in one_line(error)


def test_weights_that_make_the_stream_infinite_are_refused_by_name(models, rows, tmp_path):
    model = tmp_path / "broken"
    shutil.copytree(models["two"], model)
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 3] = float("inf")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as error:
        quantize(model, tmp_path / "x", 4.0, 6, rows[:2], tmp_path / "work")
    assert "'model.layers.0.mlp." in one_line(error)
    assert not (tmp_path / "x").exists()
