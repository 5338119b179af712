"""Models become Hugging Face directories of one shape, or are refused in one line."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GemmaConfig,
    GPT2Config,
    MixtralConfig,
    Qwen3Config,
)

from frankenlab.engines.torch import TorchEngine
from frankenlab.io.errors import UserError
from frankenlab.models.directory import check_llama_shaped, model_shape, weights_hash
from frankenlab.models.export import materialize
from frankenlab.models.fetch import fetch_model
from frankenlab.models.files import read_json
from frankenlab.models.shape import ModelShape
from frankenlab.models.sources import source_from_config
from frankenlab.plans.plan import parse
from frankenlab.quantize.layerwise import LayerwiseModel
from tests.support.paths import DATA
from tests.support.tiny import make_tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = "Question: What melts when it is heated? Answer: Ice."


def source(**value):
    return source_from_config(value, "models.tiny.source", "model")


def logits(directory: Path) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(directory)(TEXT, return_tensors="pt").input_ids
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(directory)(ids).logits


def edit_config(directory: Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(directory: Path, change) -> None:
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture
def model(tmp_path) -> Path:
    return make_tiny_model(tmp_path / "tiny")


# --- a local Hugging Face directory ----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("rope", ["default", "llama3"])
def test_a_local_directory_comes_as_it_is_but_for_what_older_readers_need(
    tmp_path, architecture, rope
):
    original = make_tiny_model(tmp_path / "mine", architecture, rope=rope)
    (original / "pytorch_model.bin").write_bytes(b"pickled")
    before = (original / "config.json").read_bytes()
    manifest = fetch_model(source(path=str(original)), tmp_path / "m", 4, "a tiny model")

    assert manifest["description"] == "a tiny model" and manifest["n_layers"] == 4
    assert manifest["source"] == "local mine"
    added = "rope_theta" if rope == "default" else "rope_theta and rope_scaling"
    assert manifest["made"] == f"files as distributed; {added} added to config.json"
    assert sorted(manifest["files"]) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (tmp_path / "m/model.safetensors").is_symlink()
    assert (original / "config.json").read_bytes() == before
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert config["rope_theta"] == 10000.0
    assert config.get("rope_scaling", {}).get("factor") == (8.0 if rope == "llama3" else None)
    assert torch.equal(logits(tmp_path / "m"), logits(original))


def test_a_model_that_is_distributed_as_exl2_is_taken_as_it_is(tmp_path):
    original = DATA / "llama-tiny-exl2"
    manifest = fetch_model(source(path=str(original)), tmp_path / "m", 2, "")
    assert "output.safetensors" in manifest["files"]
    assert model_shape(tmp_path / "m").dtype == "exl2"


def test_a_local_model_that_changes_is_read_again(tmp_path, model):
    first = fetch_model(source(path=str(model)), tmp_path / "m", 4, "")
    edit_weights(model, lambda weights: weights["model.norm.weight"].mul_(2))
    second = fetch_model(source(path=str(model)), tmp_path / "m", 4, "")
    assert weights_hash(first) != weights_hash(second)


def test_the_wrong_depth_is_refused_for_a_new_and_for_a_kept_directory(tmp_path, model):
    for _ in range(2):
        with pytest.raises(UserError, match="has 4 layers, .* declares n_layers: 30"):
            fetch_model(source(path=str(model)), tmp_path / "m", 30, "")
    assert fetch_model(source(path=str(model)), tmp_path / "m", None, "")["n_layers"] == 4


@pytest.mark.parametrize(
    ("size", "wrong", "found"),
    [("vocab_size", 7, "vocab_size: "), ("tied_embeddings", None, "tied: ")],
)
def test_a_model_with_other_sizes_than_declared_is_refused(tmp_path, model, size, wrong, found):
    right = model_shape(model)
    fetch_model(source(path=str(model)), tmp_path / "m", 4, "", right)
    value = not right.tied_embeddings if wrong is None else wrong
    with pytest.raises(UserError, match=f"the model has {found}.*declares shapes.{found}"):
        fetch_model(source(path=str(model)), tmp_path / "m", 4, "", replace(right, **{size: value}))


def test_code_beside_a_model_is_neither_taken_nor_run(tmp_path, model):
    trap = f"open({str(tmp_path / 'executed')!r}, 'w')\n"
    (model / "modeling_tiny.py").write_text(trap)
    (model / "tokenization_tiny.py").write_text(trap)
    edit_config(model, auto_map={"AutoModelForCausalLM": "modeling_tiny.Tiny"})
    path = model / "tokenizer_config.json"
    auto = {"auto_map": {"AutoTokenizer": [None, "tokenization_tiny.Tiny"]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **auto}))
    manifest = fetch_model(source(path=str(model)), tmp_path / "m", 4, "")
    logits(tmp_path / "m")
    assert not (tmp_path / "executed").exists()
    assert not any(name.endswith(".py") for name in manifest["files"])


def test_a_tokenizer_that_does_not_fit_or_is_missing_is_refused(tmp_path, model):
    edit_config(model, vocab_size=300)
    edit_weights(
        model,
        lambda w: w.update(
            {n: w[n][:300].clone() for n in ("model.embed_tokens.weight", "lm_head.weight")}
        ),
    )
    with pytest.raises(UserError, match="tokenizer has id 383, the model only 300 embeddings"):
        fetch_model(source(path=str(model)), tmp_path / "m", 4, "")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    with pytest.raises(UserError, match="tokenizer cannot be loaded"):
        fetch_model(source(path=str(model)), tmp_path / "m", 4, "")


# --- the hub ---------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """Makes a folder look like the hub's only repository."""

    def serve(folder: Path):
        def listing(*arguments, **keywords):
            siblings = []
            for path in sorted(folder.iterdir()):
                content = path.read_bytes()
                blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                lfs = SimpleNamespace(sha256=hashlib.sha256(content).hexdigest())
                large = path.suffix in (".safetensors", ".bin")
                siblings.append(
                    SimpleNamespace(rfilename=path.name, blob_id=blob, lfs=lfs if large else None)
                )
            return SimpleNamespace(siblings=siblings)

        def download(repository, *, revision, repo_type, allow_patterns, local_dir):
            assert (repository, revision, repo_type) == ("owner/tiny", COMMIT, "model")
            for name in allow_patterns:
                shutil.copy(folder / name, local_dir)

        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", listing)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)

    return serve


def test_a_hub_model_is_taken_without_pickles_and_code(tmp_path, model, hub):
    for name in ("pytorch_model.bin", "modeling_tiny.py", "training_args.bin", "LICENSE"):
        (model / name).write_text(name)
    hub(model)
    place = source(hub="owner/tiny", revision=COMMIT)
    manifest = fetch_model(place, tmp_path / "m", 4, "")
    assert "LICENSE" in manifest["files"] and "model.safetensors" in manifest["files"]
    assert not any(name.endswith((".bin", ".py")) for name in manifest["files"])
    assert manifest["source"] == f"Hugging Face hub owner/tiny at {COMMIT}"
    assert torch.equal(logits(tmp_path / "m"), logits(model))
    hub(tmp_path / "gone")
    assert fetch_model(place, tmp_path / "m", 4, "") == manifest


def test_of_a_hub_models_shards_those_are_downloaded_that_its_index_names(tmp_path, model, hub):
    weights = load_file(model / "model.safetensors")
    names = sorted(weights)
    (model / "model.safetensors").unlink()
    places = {}
    for file, part in (("weights.safetensors", names[:9]), ("rest.safetensors", names[9:])):
        save_file({n: weights[n] for n in part}, model / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": places}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    for stranger in ("model-00001-of-00002.safetensors", "consolidated.safetensors"):
        (model / stranger).write_bytes(b"of an earlier upload")
    hub(model)
    manifest = fetch_model(source(hub="owner/tiny", revision=COMMIT), tmp_path / "m", 4, "")
    found = {name for name in manifest["files"] if name.endswith(".safetensors")}
    assert found == {*places.values()}
    assert torch.equal(logits(tmp_path / "m"), logits(model))


def test_a_hub_model_with_pickled_weights_only_is_refused_before_it_is_downloaded(
    tmp_path, model, hub, monkeypatch
):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    hub(model)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(UserError, match="no safetensors weights .pickled weights are never"):
        fetch_model(source(hub="owner/tiny", revision=COMMIT), tmp_path / "m", 4, "")


# --- the shape -------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_shape_of_a_model_is_read_from_its_headers(tmp_path, architecture, tied):
    directory = make_tiny_model(tmp_path / "m", architecture, tied)
    check_llama_shaped(directory, 4)
    info = model_shape(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    assert info.parameters == sum(p.numel() for p in model.parameters())
    assert info.parameters_per_layer == layer
    assert info.parameters_embeddings == 384 * 32
    assert info.parameters_head == (0 if tied else 384 * 32)
    assert (info.n_layers, info.hidden_size, info.intermediate_size) == (4, 32, 96)
    assert (info.n_heads, info.n_kv_heads, info.head_dim) == (4, 2, 8)
    assert (info.vocab_size, info.max_position_embeddings) == (384, 512)
    assert (info.architecture, info.tied_embeddings) == (architecture, tied)
    assert info.dtype == "float32"


def test_the_manifest_of_a_fetched_model_has_its_shape(tmp_path, model):
    target = tmp_path / "fetched"
    manifest = fetch_model(source(path=str(model)), target, 4, "")
    assert ModelShape.from_manifest(manifest, target) == model_shape(model)
    stored = read_json(target / "manifest.json")
    assert ModelShape.from_manifest(stored, target) == model_shape(model)
    del manifest["shape"]
    with pytest.raises(UserError, match="fetch --config"):
        ModelShape.from_manifest(manifest, target)


def test_the_shape_is_taken_from_the_manifest_of_a_whole_directory_only(tmp_path, model):
    target = tmp_path / "fetched"
    fetch_model(source(path=str(model)), target, 4, "")
    for name in ("manifest.json", ".manifest.json"):
        text = (target / name).read_text().replace('"dtype": "float32"', '"dtype": "noted"')
        (target / name).write_text(text)
    assert model_shape(target).dtype == "noted"
    (target / "config.json").write_text((target / "config.json").read_text() + "\n")
    assert model_shape(target) == model_shape(model)


# Importing the configuration of any model brings a good part of torch with it.
IMPORTS = """
import sys
from frankenlab.engines.torch import TorchEngine
from frankenlab.models.tokenizer import load_tokenizer
print(len(load_tokenizer(sys.argv[1]).encode("one two")), TorchEngine(sys.argv[1]).n_layers)
print(*(name for name in ("torch.distributed.tensor", "torch._dynamo") if name in sys.modules))
"""


@pytest.mark.slow
def test_a_fetched_model_is_loaded_without_the_configurations_of_transformers(tmp_path, model):
    target = tmp_path / "fetched"
    fetch_model(source(path=str(model)), target, 4, "")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(target)], check=True, capture_output=True, text=True
    )
    loaded, imported = done.stdout.splitlines()
    tokens = len(AutoTokenizer.from_pretrained(model).encode("one two"))
    assert loaded == f"{tokens} 4" and imported == ""


def test_shards_biases_and_other_precisions_are_allowed(tmp_path, model):
    model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    config = model.config
    config.attention_bias = config.mlp_bias = True
    biased = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    biased.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    check_llama_shaped(tmp_path / "sharded", 4)
    info = model_shape(tmp_path / "sharded")
    assert info.dtype == "bfloat16"
    assert info.parameters == sum(p.numel() for p in biased.parameters())


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 384}
OTHERS = {
    "GPT2LMHeadModel": GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=384),
    "Qwen3ForCausalLM": Qwen3Config(**SMALL, num_attention_heads=4, head_dim=8),
    "GemmaForCausalLM": GemmaConfig(**SMALL, num_attention_heads=4, head_dim=8),
    "MixtralForCausalLM": MixtralConfig(**SMALL, num_attention_heads=4, num_local_experts=2),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_are_refused(tmp_path, name):
    AutoModelForCausalLM.from_config(OTHERS[name]).save_pretrained(tmp_path / "m")
    with pytest.raises(UserError, match=f"the architecture is {name}; allowed: a Llama") as caught:
        check_llama_shaped(tmp_path / "m")
    assert str(caught.value).startswith(str(tmp_path / "m")) and "\n" not in str(caught.value)


def test_a_gemma_that_calls_itself_llama_is_refused_by_its_class(tmp_path, model):
    edit_config(model, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(UserError, match="architecture is LlamaForSequenceClassification"):
        check_llama_shaped(model)


K = "model.layers.1.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(K), f"tensor '{K}' is missing"),
        (lambda w: w.pop("lm_head.weight"), "tensor 'lm_head.weight' is missing"),
        (lambda w: w.update({K: w[K][:8].clone()}), r"k_proj.weight' is \[8, 32\], expected \[16"),
        (lambda w: w.update({K: w[K].to(torch.int8)}), "is stored as I8"),
        (
            lambda w: w.update({"model.layers.1.self_attn.q_norm.weight": torch.ones(8)}),
            "q_norm.weight' does not belong",
        ),
        (
            lambda w: w.update({"model.layers.4.input_layernorm.weight": torch.ones(32)}),
            "layers.4.*does not belong to a llama model of 4 layers",
        ),
        (
            lambda w: w.update({K.replace("weight", "bias"): torch.ones(16)}),
            "k_proj.bias' does not belong",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(model, change, message):
    edit_weights(model, change)
    with pytest.raises(UserError, match=message) as caught:
        check_llama_shaped(model)
    assert str(caught.value).startswith(str(model)) and "\n" not in str(caught.value)


HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_a_head_that_config_json_ties_and_the_file_stores_apart_is_refused(
    tmp_path, monkeypatch, architecture
):
    """transformers runs the stored one, lm-eval ties again, other programs take the embeddings."""
    monkeypatch.setattr("frankenlab.models.tensor_files.COMPARED", 1000)
    directory = make_tiny_model(tmp_path / "m", architecture, tied=True)
    edit_weights(directory, lambda w: w.update({HEAD: w[EMBEDDINGS].clone()}))
    info = model_shape(directory)
    assert info.tied_embeddings and info.parameters_head == 0

    def change_the_last_value(weights):
        weights[HEAD][-1, -1] += 1

    edit_weights(directory, change_the_last_value)
    with pytest.raises(UserError, match=f"tensors '{HEAD}' and '{EMBEDDINGS}' differ") as caught:
        check_llama_shaped(directory)
    assert "tie_word_embeddings: true" in str(caught.value) and "\n" not in str(caught.value)
    edit_config(directory, tie_word_embeddings=False)
    check_llama_shaped(directory)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_an_untied_model_without_a_head_is_refused(tmp_path, architecture):
    """transformers would draw one at random."""
    directory = make_tiny_model(tmp_path / "m", architecture, tied=True)
    edit_config(directory, tie_word_embeddings=False)
    with pytest.raises(UserError, match=f"tensor '{HEAD}' is missing"):
        check_llama_shaped(directory)
    config = read_json(directory / "config.json")
    del config["tie_word_embeddings"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"tensor '{HEAD}' is missing"):
        check_llama_shaped(directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_no_numbers_are_named_when_they_are_read(tmp_path, model, value, dtype):
    def spoil(weights):
        for name, tensor in list(weights.items()):
            weights[name] = tensor.to(dtype)
        weights[K][-1, 0] = value

    edit_weights(model, spoil)
    for read in (
        lambda: TorchEngine(model, "float32"),
        lambda: materialize(model, parse("0:3,1:4", 4), tmp_path / "f"),
        lambda: LayerwiseModel(model, torch.device("cpu")).tensor(K),
    ):
        with pytest.raises(UserError, match=f"model.safetensors: tensor '{K}': not finite"):
            read()
    assert not (tmp_path / "f").exists()


def test_rotary_frequencies_of_old_checkpoints_are_harmless(model):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(model, lambda w: w.update({name: torch.ones(4)}))
    check_llama_shaped(model)
    expected = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(model).parameters())
    assert model_shape(model).parameters == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 3}, "layers.3.*does not belong to a llama model of 3 layers"),
        ({"num_hidden_layers": 5}, "layers.4.*is missing"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"weights are quantized \(gptq\)"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu, allowed is silu"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, allowed is 1.0"),
    ],
)
def test_settings_that_do_not_fit_are_named(model, changes, message):
    edit_config(model, **changes)
    with pytest.raises(UserError, match=message):
        check_llama_shaped(model)


# Newer configs of Qwen2 say of each layer whether it slides, older ones name the first that does.
DERIVED = {"layer_types": None, "max_window_layers": 3}


def test_the_declared_depth_is_compared(model):
    with pytest.raises(UserError, match="has 4 layers, the configuration declares n_layers: 5"):
        check_llama_shaped(model, 5)


@pytest.mark.parametrize(
    ("architecture", "changes", "used"),
    [
        ("mistral", {"sliding_window": 128}, True),
        ("mistral", {"sliding_window": 512}, False),
        ("qwen2", {"sliding_window": 128, "use_sliding_window": True, **DERIVED}, True),
        ("qwen2", {"sliding_window": 128, "use_sliding_window": True}, False),
        ("qwen2", {"sliding_window": 128, "use_sliding_window": False}, False),
    ],
)
def test_a_sliding_window_is_refused_where_it_is_used(tmp_path, architecture, changes, used):
    directory = make_tiny_model(tmp_path / "m", architecture)
    edit_config(directory, **changes)
    if used:
        with pytest.raises(UserError, match="slides over a window of 128"):
            check_llama_shaped(directory)
    else:
        check_llama_shaped(directory)


def test_pickled_weights_are_refused_by_name(tmp_path, model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pytorch_model.bin \(pickled weights are never"):
        fetch_model(source(path=str(model)), tmp_path / "m", 4, "")
    with pytest.raises(UserError, match="pickled weights are never loaded"):
        check_llama_shaped(model)


def test_directories_that_are_no_models_are_refused(tmp_path, model):
    with pytest.raises(UserError, match="it has no config.json"):
        check_llama_shaped(tmp_path)
    (model / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json: not readable as JSON"):
        check_llama_shaped(model)


def test_damaged_and_missing_weight_files_are_refused(model):
    path = model / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(UserError, match="model.safetensors: damaged"):
        check_llama_shaped(model)
    path.unlink()
    for name in ("model-00001-of-00002.safetensors", "../model.safetensors"):
        index = {"weight_map": {"model.norm.weight": name}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match=f"names '{name}', which is not there"):
            check_llama_shaped(model)


def test_the_identity_of_the_weights_ignores_what_does_not_compute():
    files = {
        "config.json": {"sha256": "a"},
        "model.safetensors": {"sha256": "b"},
        "tokenizer.json": {"sha256": "c"},
        "LICENSE": {"sha256": "d"},
        "generation_config.json": {"sha256": "e"},
    }
    identity = weights_hash({"files": files, "description": "x"})
    for name, counts in zip(files, (True, True, True, False, False), strict=True):
        changed = {**files, name: {"sha256": "other"}}
        assert (weights_hash({"files": changed}) != identity) == counts, name
