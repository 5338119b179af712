"""EXL2 directories as models: inspected as any other, dequantized by the torch engine."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from frankenlab.engines import torch as torch_engine
from frankenlab.engines.torch import TorchEngine
from frankenlab.io.errors import UserError
from frankenlab.models.directory import check_llama_shaped, model_shape
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.plans.plan import base, parse
from tests.support.engines import TOKENS, logprobs
from tests.support.models import assert_close
from tests.support.paths import DATA
from tests.support.processes import one_line
from tests.support.tiny import make_tiny_exl2

FIXTURE, ORIGINAL = DATA / "llama-tiny-exl2", DATA / "llama-tiny-hf"

TIED_WITH_A_HEAD = {"edit": lambda config: config.update(tie_word_embeddings=True)}
VARIANTS = {
    "plain": {},
    "several-files": {"shard_bytes": 200_000},
    "head-is-the-embeddings": {"tied_head": True},
    "tied-with-a-head-of-its-own": TIED_WITH_A_HEAD,
    "qwen2": {"architecture": "qwen2"},
    "all-biases": {"edit": lambda config: config.update(attention_bias=True, mlp_bias=True)},
    "two-bits": {"bits": 2},
}


def as_hugging_face(directory: Path, folder: Path) -> torch.nn.Module:
    """The directory's tensors in transformers' own model."""
    exl2 = Exl2Directory(directory)
    config = {k: v for k, v in exl2.config.items() if k != "quantization_config"}
    config["tie_word_embeddings"] = "lm_head.weight" not in exl2
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(folder), dtype=torch.float32
    )
    tensors = {name: exl2.get(name, torch.float32) for name in exl2.names}
    found = model.load_state_dict(tensors, strict=False)
    assert not found.unexpected_keys
    assert set(found.missing_keys) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_torch_engine_is_the_dequantized_model(tmp_path, variant):
    directory = make_tiny_exl2(tmp_path / "exl2", **VARIANTS[variant])
    model = as_hugging_face(directory, tmp_path / "hf")
    with torch.inference_mode():
        expected = model(torch.tensor([TOKENS])).logits[0].log_softmax(-1)
    found = logprobs(TorchEngine(directory, "float32"), base(3))
    assert_close(found, expected)
    assert expected.std() > 0.5


def test_the_fixture_says_about_what_its_original_says():
    """Its weights are off by up to a fifth; a mixed-up order of inputs would be off by far more."""
    for plan in (base(2), parse("0:2,1", 2)):
        found = logprobs(TorchEngine(FIXTURE, "float32"), plan)
        expected = logprobs(TorchEngine(ORIGINAL, "float32"), plan)
        assert torch.corrcoef(torch.stack((found.flatten(), expected.flatten())))[0, 1] > 0.95


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_smaller_precisions_are_the_same_model_but_for_rounding(dtype):
    engine = TorchEngine(FIXTURE, dtype)
    assert engine.layers[0].qkv.dtype == engine.head.dtype == torch_engine.DTYPES[dtype]
    difference = logprobs(engine, base(2)) - logprobs(TorchEngine(FIXTURE, "float32"), base(2))
    assert 0 < difference.abs().mean() < 0.05


def test_tensors_are_dequantized_once_and_layer_by_layer(tmp_path, monkeypatch):
    """So that no more than a layer's parts are in memory beside the model."""
    directory = make_tiny_exl2(tmp_path / "exl2", n_layers=4)
    asked, get = [], Exl2Directory.get

    def note(self, name, *rest):
        asked.append(name)
        return get(self, name, *rest)

    monkeypatch.setattr(Exl2Directory, "get", note)
    TorchEngine(directory, "float32")
    assert sorted(asked) == sorted(Exl2Directory(directory).names)
    layers = [name.split(".")[2] for name in asked if ".layers." in name]
    assert layers == sorted(layers)


def test_the_shape_of_an_exl2_model_is_that_of_its_original():
    found, expected = model_shape(FIXTURE), model_shape(ORIGINAL)
    assert found.dtype == "exl2" and found.parameters == expected.parameters
    for name in expected.__dataclass_fields__:
        assert name == "dtype" or getattr(found, name) == getattr(expected, name)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_those_of_the_dequantized_tensors(tmp_path, variant):
    directory = make_tiny_exl2(tmp_path / "exl2", **VARIANTS[variant])
    exl2, info = Exl2Directory(directory), model_shape(directory)
    assert info.parameters == sum(exl2.get(name).numel() for name in exl2.names)
    assert info.tied_embeddings == (variant == "head-is-the-embeddings")
    assert info.n_layers == 3


def test_another_number_of_layers_than_declared_is_refused():
    check_llama_shaped(FIXTURE, 2)
    with pytest.raises(UserError, match="the model has 2 layers"):
        check_llama_shaped(FIXTURE, 3)


def test_damage_is_named_before_anything_is_loaded(tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(FIXTURE, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    for check in (check_llama_shaped, model_shape, TorchEngine):
        with pytest.raises(UserError) as error:
            check(directory)
        assert "'model.layers.2." in one_line(error) and "missing" in str(error.value)


def test_other_quantizations_are_still_refused(tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(FIXTURE, directory)
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq"}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        check_llama_shaped(directory)
    assert "quantized (gptq)" in one_line(error) and "EXL2" in str(error.value)
