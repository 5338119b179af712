"""config.json means what transformers computes from it, or the model is refused in one line."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from frankenlab.engines.torch import TorchEngine
from frankenlab.io.errors import UserError
from frankenlab.models.directory import check_llama_shaped, model_shape
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.export import materialize
from frankenlab.models.footprint import Footprint
from frankenlab.models.model_config import load_config, with_old_rope_keys
from frankenlab.models.shape import ModelShape
from frankenlab.plans.plan import parse
from tests.support.models import load_hf
from tests.support.processes import one_line
from tests.support.tiny import make_tiny_exl2, make_tiny_model

TOKENS = list(range(5, 45))
ARCHITECTURES = ("llama", "mistral", "qwen2")
DROPPED = object()


def edit(directory: Path, changes: dict[str, Any]) -> Path:
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not DROPPED}))
    return directory


def difference(directory: Path, plan: str, exported: Path) -> float:
    """Between the engine running a plan and transformers running its export."""
    decoder = TorchEngine(directory, "float32").decoder(parse(plan, 4), len(TOKENS))
    virtual = torch.stack([decoder.feed([token]) for token in TOKENS])
    with torch.inference_mode():
        found = load_hf(exported)(torch.tensor([TOKENS])).logits[0]
    return float((found - virtual).abs().max())


FULL, SLIDING = ["full_attention"] * 4, ["sliding_attention"] * 4
# Windows: the model's context is 512 tokens. Without layer_types, Qwen2's layers slide from
# max_window_layers on, 28 where it is not there.
ATTENDING_FULLY = [
    ("llama", {"sliding_window": 8}),
    ("llama", {"layer_types": FULL}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": 512}),
    ("mistral", {"sliding_window": DROPPED}),  # 4096 then
    ("mistral", {"sliding_window": 512, "layer_types": SLIDING}),
    ("mistral", {"sliding_window": 16, "layer_types": FULL}),
    ("qwen2", {"sliding_window": 16, "use_sliding_window": False, "layer_types": DROPPED}),
    ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "layer_types": FULL}),
    (
        "qwen2",
        {
            "sliding_window": 16,
            "use_sliding_window": True,
            "layer_types": DROPPED,
            "max_window_layers": 4,
        },
    ),
    (
        "qwen2",
        {
            "sliding_window": 16,
            "use_sliding_window": True,
            "layer_types": DROPPED,
            "max_window_layers": DROPPED,
        },
    ),
    ("qwen2", {"sliding_window": 512, "use_sliding_window": True, "layer_types": SLIDING}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "changes"), ATTENDING_FULLY)
def test_layers_that_attend_fully_are_run_and_exported(tmp_path, architecture, changes):
    directory = edit(make_tiny_model(tmp_path / "m", architecture), changes)
    assert model_shape(directory).architecture == architecture
    assert difference(directory, "base", directory) < 1e-3
    plan = "0:3,1:4"
    materialize(directory, parse(plan, 4), tmp_path / "f")
    assert difference(directory, plan, tmp_path / "f") < 1e-3


def test_a_franken_deeper_than_the_first_layer_that_would_slide_attends_fully(tmp_path):
    windowed = {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": DROPPED}
    changes = {**windowed, "layer_types": DROPPED}
    directory = edit(make_tiny_model(tmp_path / "m", "qwen2"), changes)
    materialize(directory, parse("0x30,1:4", 4), tmp_path / "f")
    assert set(load_hf(tmp_path / "f").config.layer_types) == {"full_attention"}


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("llama", {"layer_types": SLIDING}, "layer_types has 'sliding_attention'"),
        ("mistral", {"sliding_window": 511}, "slides over a window of 511"),
        ("mistral", {"sliding_window": 0}, "slides over a window of 0"),
        ("mistral", {"layer_types": FULL}, "layer_types but no sliding_window"),
        (
            "mistral",
            {"sliding_window": DROPPED, "max_position_embeddings": 32768},
            "slides over a window of 4096",
        ),
        (
            "mistral",
            {"sliding_window": 16, "layer_types": [*FULL[:3], *SLIDING[:1]]},
            "slides over a window of 16",
        ),
        (
            "qwen2",
            {
                "sliding_window": 16,
                "use_sliding_window": True,
                "layer_types": DROPPED,
                "max_window_layers": 3,
            },
            "slides over a window of 16",
        ),
        (
            "qwen2",
            {"sliding_window": 16, "use_sliding_window": True, "layer_types": SLIDING},
            "slides over a window of 16",
        ),
        (
            "qwen2",
            {"sliding_window": 16, "use_sliding_window": False, "layer_types": SLIDING},
            "layer_types but no sliding_window",
        ),
        ("qwen2", {"layer_types": ["chunked_attention"] * 4}, "layer_types has 'chunked_attention"),
        ("qwen2", {"layer_types": FULL[:3]}, "config.json"),
        ("qwen2", {"head_dim": None}, "head_dim is null, with which transformers fails; write 8"),
        (
            "mistral",
            {"sliding_window": 16, "layer_types": FULL, "head_dim": DROPPED},
            "head_dim is null, with which transformers fails; write 8",
        ),
    ],
)
def test_windows_and_what_transformers_cannot_run_are_refused(
    tmp_path, architecture, changes, message
):
    directory = edit(make_tiny_model(tmp_path / "m", architecture), changes)
    with pytest.raises(UserError, match=message) as error:
        check_llama_shaped(directory)
    assert one_line(error).startswith(str(directory))


# What other architectures compute from these keys, and these three do not.
IGNORED = {
    "attention_multiplier": 2.0,
    "embedding_multiplier": 3.0,
    "logits_scaling": 4.0,
    "pretraining_tp": 2,
    "residual_multiplier": 0.5,
    "attention_dropout": 0.5,
    "attention_chunk_size": 8,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_transformers_ignores_is_ignored(tmp_path, architecture):
    directory = edit(make_tiny_model(tmp_path / "m", architecture), IGNORED)
    if architecture != "qwen2":
        edit(directory, {"head_dim": None})
    assert difference(directory, "base", directory) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5000.0},
        {"rope_scaling": None, "rope_theta": 5000},
        {},
        {"rope_parameters": {"rope_type": "linear", "factor": 3, "rope_theta": 500.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_theta": 5000.0},
    ],
)
def test_rotary_parameters_of_old_and_new_configs_are_those_of_transformers(
    tmp_path, architecture, changes
):
    directory = make_tiny_model(tmp_path / "m", architecture)
    edit(directory, {"rope_parameters": DROPPED, **changes})
    assert difference(directory, "base", directory) < 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_absent_key_value_heads_are_those_of_the_class(architecture):
    """Mistral has 8 and Qwen2 32 where config.json has none; null is as many as heads."""
    sizes = {"hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 9}
    config = {"model_type": architecture, "num_attention_heads": 32, **sizes}
    absent = ModelShape.from_config(config).tensors()
    null = ModelShape.from_config({**config, "num_key_value_heads": None}).tensors()
    expected = {"llama": 32, "mistral": 8, "qwen2": 32}[architecture]
    assert absent["model.layers.0.self_attn.k_proj.weight"] == (2 * expected, 64)
    assert null["model.layers.0.self_attn.k_proj.weight"] == (64, 64)


@pytest.mark.parametrize(
    ("architecture", "key", "biased"),
    [("mistral", "attention_bias", 0), ("qwen2", "mlp_bias", 3), ("llama", "attention_bias", 4)],
)
def test_biases_are_those_that_the_class_builds(architecture, key, biased):
    sizes = {"hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 9}
    config = {"model_type": architecture, "num_attention_heads": 4, "num_key_value_heads": 2}
    shapes = ModelShape.from_config({**config, **sizes, key: True})
    assert len(shapes.biased) == biased


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformers_weights": "other.safetensors"}, "config.json has transformers_weights"),
        ({"configuration_files": ["config.4.0.0.json"]}, "config.json has configuration_files"),
        ({"per_layer_config": {"1": {"intermediate_size": 8}}}, "config.json has per_layer_config"),
        ({"text_config": {"hidden_size": 8}}, "config.json has text_config"),
        ({"is_causal": False}, "is_causal is False, allowed is true"),
        ({"quantization_config": {}}, r"weights are quantized \(some method\)"),
        ({"quantization_config": "int8"}, r"weights are quantized \(some method\)"),
        ({"pad_token_id": 384}, "pad_token_id is 384, which transformers refuses for 384"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0, expected a number from 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, expected a number from 0"),
        ({"rms_norm_eps": "1e-5"}, "transformers does not read config.json"),
        ({"head_dim": 7}, "config.json|head_dim"),
        ({"hidden_act": "swish"}, "hidden_act is swish, allowed is silu"),
        ({"max_position_embeddings": 0}, "max_position_embeddings is 0, expected 1 to"),
        ({"max_position_embeddings": 10**30}, "max_position_embeddings is 10*, expected 1 to"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0, expected a number above 0"),
        ({"rope_parameters": {"rope_theta": None}}, "rope_theta is None, expected a number above"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "full_attention of the rotary parameters is no number",
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 0}},
            "factor is 0, expected a number above 0",
        ),
        ({"rope_scaling": "linear"}, "config.json|JSON object"),
        ({"rope_theta": 500.0}, "rope_theta is 500.0 in config.json and 10000.0 in its rotary"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_type is linear in rope_scaling and default in rope_parameters",
        ),
    ],
)
def test_settings_that_would_change_what_is_computed_are_refused(tmp_path, changes, message):
    directory = edit(make_tiny_model(tmp_path / "m"), changes)
    with pytest.raises(UserError, match=message) as error:
        check_llama_shaped(directory)
    assert one_line(error).startswith(str(directory))


def test_an_adapter_counts_where_transformers_would_load_it(tmp_path, monkeypatch):
    directory = make_tiny_model(tmp_path / "m")
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_llama_shaped(directory)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "peft")
    with pytest.raises(UserError, match="with peft would change the weights by that adapter"):
        check_llama_shaped(directory)


SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
HEADS = ("num_attention_heads", "num_key_value_heads", "head_dim")
NONSENSE = ("3", 4.0, 1e9, True, -1, 0, 10**8, 10**4000, [4], {"a": 4}, float("inf"))


def test_more_layers_than_any_model_has_are_never_listed():
    sizes = {"hidden_size": 64, "intermediate_size": 8, "vocab_size": 9, "num_attention_heads": 4}
    with pytest.raises(UserError, match="num_hidden_layers is 10001, expected at most 10000"):
        ModelShape.from_config({**sizes, "num_hidden_layers": 10_001})


@pytest.mark.slow
@pytest.mark.parametrize("key", [*SIZES, *HEADS])
def test_sizes_that_no_model_has_are_one_line_without_memory_or_minutes(tmp_path, key):
    plain, exl2 = make_tiny_model(tmp_path / "m"), make_tiny_exl2(tmp_path / "e")
    for value in NONSENSE:
        started = time.monotonic()
        for directory, read in (
            (plain, load_config),
            (plain, check_llama_shaped),
            (plain, Footprint.of_directory),
            (exl2, Exl2Directory),
            (exl2, check_llama_shaped),
        ):
            before = (directory / "config.json").read_text()
            edit(directory, {key: value})
            with pytest.raises(UserError, match=key) as error:
                read(directory)
            assert len(one_line(error)) < 400
            (directory / "config.json").write_text(before)
        assert time.monotonic() - started < 20


TWO_LINES = "a\nb"


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": TWO_LINES, "architectures": [TWO_LINES]},
        {"hidden_act": TWO_LINES},
        {"num_hidden_layers": TWO_LINES},
        {"rms_norm_eps": TWO_LINES},
        {"rope_theta": TWO_LINES},
        {"rope_parameters": {"rope_type": "default", "rope_theta": TWO_LINES}},
        {"rope_parameters": {"rope_type": TWO_LINES, "rope_theta": 1e4}},
        {"rope_scaling": {"type": TWO_LINES, "factor": 2.0}},
        {"pad_token_id": TWO_LINES},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_what_a_message_quotes_stays_on_its_line(tmp_path, changes):
    directory = edit(make_tiny_model(tmp_path / "model"), changes)
    with pytest.raises(UserError) as error:
        TorchEngine(directory, "float32")
    one_line(error)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0}


@pytest.mark.parametrize(
    ("config", "added"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {"rope_theta": 5e5}),
        ({"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 5e5}, {}),
        (
            {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_theta": 5e5},
            {"rope_scaling": LLAMA3},
        ),
        (
            {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_scaling": None},
            {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        ),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, {}),
        ({"rope_parameters": ["rope_theta"]}, {}),
    ],
)
def test_older_readers_find_the_rotary_parameters_too(config, added):
    assert with_old_rope_keys(config) == config | added
