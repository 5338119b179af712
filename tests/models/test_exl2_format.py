"""The EXL2 format against exllamav2's own file, a slow reading of the same words, and damage."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from frankenlab.io.errors import UserError
from frankenlab.models.exl2 import format as exl2_format
from frankenlab.models.exl2.declaration import Declaration, is_exl2
from frankenlab.models.exl2.format import (
    PARTS,
    Codes,
    QuantizedLinear,
    check_linear,
    dequantize,
    pack,
)
from frankenlab.models.exl2.limits import BITS
from frankenlab.models.exl2.packing import unpack_columns, unpack_nibbles
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.exl2.writing import stored_tensors, write_exl2
from tests.support.paths import DATA
from tests.support.processes import one_line

# Random, 2 layers, written by exllamav2's converter at 4 bits per weight, and what it was made of.
FIXTURE, ORIGINAL = DATA / "llama-tiny-exl2", DATA / "llama-tiny-hf"
DOWN = "model.layers.1.mlp.down_proj"
DECLARED = Declaration("tests", "1.0", 4.0, 6, {"rows": 1, "length": 2, "dataset": "none"})


def unpack(linear: QuantizedLinear, out_features: int) -> Codes:
    """The codes and scales of a layer, without the padding."""
    ends = [(group.bits, group.first_word, group.words) for group in linear.groups]
    values = [unpack_columns(linear.q_weight[start:][:words], b) for b, start, words in ends]
    return Codes(
        values=torch.cat(values)[:, :out_features],
        scales=unpack_nibbles(linear.q_scale)[:, :out_features],
        scale_max=linear.q_scale_max,
        groups=tuple((group.bits, group.rows) for group in linear.groups),
        order=torch.argsort(linear.q_invperm),
        bias=None if linear.bias is None else linear.bias[:out_features],
    )


def read_slowly(linear: QuantizedLinear) -> np.ndarray:
    """The weight [padded out, in] in float16, one column of one group at a time, as the format's
    description says it: columns are streams of bits, here one large integer each."""
    words = linear.q_weight.numpy().view(np.uint32)
    scales = linear.q_scale.numpy().view(np.uint32)
    entries = linear.q_groups.numpy().view(np.uint16).tolist()
    largest = linear.q_scale_max.numpy()
    inputs, outputs = len(linear.q_invperm), words.shape[1]
    rows = np.zeros((inputs, outputs), dtype=np.float16)
    first_row = 0
    for group, (bits, start) in enumerate(zip(entries[::2], entries[1::2], strict=True)):
        is_last = 2 * group + 2 == len(entries)
        end = len(words) if is_last else entries[2 * group + 3]
        count = inputs - first_row if is_last else (end - start) * 32 // bits
        for n in range(outputs):
            stream = int.from_bytes(words[start:end, n].tobytes(), "little")
            codes = [(stream >> (k * bits)) & (2**bits - 1) for k in range(count)]
            nibble = (int(scales[group, n // 8]) >> (4 * (n % 8))) & 15
            scale = np.float16((nibble + 1) ** 2) * np.float16(largest[group] / np.float16(256))
            signed = np.array([code - 2 ** (bits - 1) for code in codes], dtype=np.float16)
            rows[first_row : first_row + count, n] = signed * scale
        first_row += count
    return rows[linear.q_invperm.numpy()].T


def random_codes(bits_of_groups, outputs: int, rows: int = 32, seed: int = 0) -> Codes:
    generator = torch.Generator().manual_seed(seed)
    groups = tuple((bits, rows) for bits in bits_of_groups)
    values = torch.cat(
        [torch.randint(0, 2**bits, (rows, outputs), generator=generator) for bits, _ in groups]
    )
    return Codes(
        values=values.to(torch.uint8),
        scales=torch.randint(0, 16, (len(groups), outputs), generator=generator).to(torch.uint8),
        scale_max=(torch.rand(len(groups), generator=generator) + 0.01).half(),
        groups=groups,
        order=torch.randperm(rows * len(groups), generator=generator),
    )


def same_tensors(one: QuantizedLinear, other: QuantizedLinear) -> bool:
    pairs = zip(one.tensors().items(), other.tensors().items(), strict=True)
    return all(a == b and x.dtype == y.dtype and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize(
    "name",
    [DOWN, "model.layers.0.mlp.gate_proj", "model.layers.0.self_attn.k_proj", "lm_head"],
)
def test_the_fixture_reads_as_its_description_says(name):
    directory = Exl2Directory(FIXTURE)
    expected = read_slowly(directory.linear(name))
    found = directory.get(f"{name}.weight").numpy()
    assert found.dtype == np.float16 and np.array_equal(found, expected)
    assert len(np.unique(found)) > 100


def test_the_fixture_is_near_the_model_that_it_was_made_of():
    directory, original = Exl2Directory(FIXTURE), load_file(ORIGINAL / "model.safetensors")
    assert directory.names == set(original)
    for name, tensor in original.items():
        found = directory.get(name, torch.float32)
        error = (found - tensor.float()).norm() / tensor.float().norm()
        # 3 to 4 bits of random weights; what is not quantized is the same.
        assert error < (0.22 if name.removesuffix(".weight") in directory.linears else 1e-9), name


def test_what_is_unpacked_from_the_fixture_packs_to_the_same_bytes():
    directory = Exl2Directory(FIXTURE)
    assert len(directory.linears) == 15
    for name in directory.linears:
        stored = directory.linear(name)
        codes = unpack(stored, directory.shape.linears[name][0])
        assert same_tensors(pack(codes), stored), name


def test_the_fixture_declares_who_made_it_and_how_large_it_is():
    directory = Exl2Directory(FIXTURE)
    assert directory.declaration.quantizer == "exllamav2 0.3.2"
    assert (directory.declaration.bits, directory.declaration.head_bits) == (4.0, 6)
    # Every stored bit of the decoder layers' linear layers, by hand.
    tensors = load_file(FIXTURE / "output.safetensors")
    kept = [t for n, t in tensors.items() if ".q_" in n and not n.startswith("lm_head")]
    weights = 2 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 128 * 352)
    assert directory.bits_per_weight == pytest.approx(sum(8 * t.nbytes for t in kept) / weights)
    assert 8 < directory.head_bits < 8.2


@pytest.mark.parametrize("outputs", [64, 40, 8, 3])
@pytest.mark.parametrize("bits", BITS)
def test_every_width_survives_packing(bits, outputs):
    codes = random_codes((bits, bits), outputs, seed=bits)
    linear = pack(codes)
    check_linear("x", linear, outputs, 64)
    assert linear.q_weight.shape == (2 * bits, -(-outputs // 32) * 32)
    again = unpack(linear, outputs)
    assert torch.equal(again.values, codes.values) and torch.equal(again.scales, codes.scales)
    assert torch.equal(again.order, codes.order) and again.groups == codes.groups
    expected = read_slowly(linear)
    assert np.array_equal(dequantize(linear, outputs).numpy(), expected[:outputs])
    assert not expected[outputs:].any(), "padding means zero"


def test_widths_mix_and_groups_of_other_sizes_read_right():
    many = random_codes((8, 6, 6, 5, 4, 3, 3, 2), 48)
    assert np.array_equal(dequantize(pack(many), 48).numpy(), read_slowly(pack(many))[:48])
    # exllamav2 can read 2-bit groups of 16.
    short = random_codes((2, 2, 2, 2), 32, rows=16)
    assert np.array_equal(dequantize(pack(short), 32).numpy(), read_slowly(pack(short)))


def test_scales_below_normal_float16_are_as_the_kernels_have_them():
    codes = random_codes((4, 4), 32)
    tiny = pack(Codes(**{**vars(codes), "scale_max": torch.tensor([1e-3, 2e-5]).half()}))
    assert np.array_equal(dequantize(tiny, 32).numpy(), read_slowly(tiny))
    assert dequantize(tiny, 32).abs().max() > 0


def test_dequantizing_in_small_chunks_changes_nothing(monkeypatch):
    linear = pack(random_codes((5, 3, 2), 200))
    whole = dequantize(linear, 200, torch.float32)
    monkeypatch.setattr(exl2_format, "CHUNK", 96 * 24)
    assert torch.equal(dequantize(linear, 200, torch.float32), whole)


def test_starts_of_groups_are_unsigned():
    # 32768 rows of q_weight before the last group: negative as signed 16-bit numbers.
    codes = random_codes((8, 8), 1)
    groups = ((8, 32768), (8, 32736))
    order = torch.randperm(65504, generator=torch.Generator().manual_seed(1))
    values = torch.randint(0, 256, (65504, 1), dtype=torch.uint8)
    large = pack(Codes(values, codes.scales, codes.scale_max, groups, order))
    assert large.groups[1].first_word == 8192
    shifted = torch.tensor([8, 0, 8, 40000 - 65536], dtype=torch.int16)
    assert exl2_format.parse_groups(shifted, 40008, 160032)[1].first_word == 40000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tensors_are_cast_from_their_float16_values(dtype):
    directory = Exl2Directory(FIXTURE)
    for name in (f"{DOWN}.weight", "lm_head.weight", "model.norm.weight"):
        assert torch.equal(directory.get(name, dtype), directory.get(name).to(dtype))


def copy_of(tmp_path: Path, edit=None, config=None) -> Path:
    """A copy of the fixture with its tensors and config.json changed by functions."""
    target = tmp_path / "copy"
    shutil.copytree(FIXTURE, target)
    if edit:
        tensors = load_file(FIXTURE / "output.safetensors")
        edit(tensors)
        save_file({n: t.contiguous() for n, t in tensors.items()}, target / "output.safetensors")
    if config:
        values = json.loads((FIXTURE / "config.json").read_text())
        config(values)
        (target / "config.json").write_text(json.dumps(values))
    return target


def test_shards_read_as_one_file(tmp_path):
    one, tensors = Exl2Directory(FIXTURE), load_file(FIXTURE / "output.safetensors")
    config = {k: v for k, v in one.config.items() if k != "quantization_config"}
    write_exl2(tmp_path, config, DECLARED, tensors.items(), shard_bytes=100_000)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[:2] == ["config.json", "output-00001-of-00004.safetensors"] and len(names) == 5
    # A stale index and the unquantized weights' files are what exllamav2's converter leaves.
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "y"}}')
    shutil.copy(ORIGINAL / "model.safetensors", tmp_path)
    several = Exl2Directory(tmp_path)
    assert several.names == one.names
    assert all(torch.equal(several.get(name), one.get(name)) for name in one.names)
    assert several.bits_per_weight == one.bits_per_weight


def test_files_of_another_name_are_found(tmp_path):
    target = copy_of(tmp_path)
    (target / "output.safetensors").rename(target / "model.safetensors")
    assert Exl2Directory(target).names == Exl2Directory(FIXTURE).names


def test_written_bytes_are_those_of_exllamav2(tmp_path):
    directory, written = Exl2Directory(FIXTURE), {}
    for name, (outputs, _) in directory.shape.linears.items():
        written |= stored_tensors(name, pack(unpack(directory.linear(name), outputs)))
    written |= {name: directory.get(name) for name in directory.shape.others}
    write_exl2(tmp_path, directory.config, directory.declaration, written.items())
    original = load_file(FIXTURE / "output.safetensors")
    found = load_file(tmp_path / "output.safetensors")
    assert found.keys() == original.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in original.items())


def test_config_json_gets_exllamav2s_keys_and_the_quantizer(tmp_path):
    config = {"hidden_size": 1, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    write_exl2(tmp_path, config, DECLARED, [("x", torch.ones(2))])
    written = json.loads((tmp_path / "config.json").read_text())
    expected = json.loads((FIXTURE / "config.json").read_text())["quantization_config"]
    assert set(written["quantization_config"]) == {*expected, "quantizer"}
    assert written["quantization_config"]["quantizer"] == "tests"
    assert written["rope_theta"] == 5e5 and written["hidden_size"] == 1
    assert load_file(tmp_path / "output.safetensors")["x"].dtype == torch.float16


def test_a_value_that_float16_cannot_hold_is_refused_before_config_json_is_there(tmp_path):
    with pytest.raises(UserError, match="tensor 'x': values beyond float16") as error:
        write_exl2(tmp_path, {}, DECLARED, [("x", torch.tensor([1e6]))])
    one_line(error)
    assert not (tmp_path / "config.json").exists()


def add_bias(tensors: dict[str, torch.Tensor], size: int) -> None:
    for layer in (0, 1):
        for name, width in (("q", 128), ("k", 64), ("v", 64)):
            bias = torch.arange(max(width, size)).half()
            tensors[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = bias[: max(width, size)]


def test_biases_are_read(tmp_path):
    target = copy_of(tmp_path, lambda t: add_bias(t, 0), lambda c: c.update(model_type="qwen2"))
    directory = Exl2Directory(target)
    name = "model.layers.1.self_attn.k_proj.bias"
    assert torch.equal(directory.get(name, torch.float32), torch.arange(64.0))
    assert len(directory.names) == len(Exl2Directory(FIXTURE).names) + 6


def test_padded_outputs_are_cut(tmp_path):
    """A vocabulary of 500 tokens is stored as 512 columns."""

    def cut(tensors):
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:500]

    directory = Exl2Directory(copy_of(tmp_path, cut, lambda c: c.update(vocab_size=500)))
    whole = Exl2Directory(FIXTURE).get("lm_head.weight")
    assert torch.equal(directory.get("lm_head.weight"), whole[:500])


def head_of(bits: int) -> dict[str, torch.Tensor]:
    groups = (8, bits, bits, bits)
    return stored_tensors("lm_head", pack(random_codes(groups, 512)))


@pytest.mark.parametrize("bits", [6, 8])
def test_heads_of_6_and_8_bits_are_read(tmp_path, bits):
    directory = Exl2Directory(copy_of(tmp_path, lambda t: t.update(head_of(bits))))
    expected = read_slowly(directory.linear("lm_head"))
    assert np.array_equal(directory.get("lm_head.weight").numpy(), expected)
    assert (8 + 3 * bits) / 4 < directory.head_bits < (8 + 3 * bits) / 4 + 0.3


def without_head(tensors):
    for part in PARTS:
        del tensors[f"lm_head.{part}"]


def test_a_head_may_be_unquantized_or_the_embeddings(tmp_path):
    def unquantize(tensors):
        without_head(tensors)
        tensors["lm_head.weight"] = torch.ones(512, 128).half()

    plain = Exl2Directory(copy_of(tmp_path / "plain", unquantize))
    assert plain.head_bits == 16 and plain.get("lm_head.weight").sum() == 512 * 128
    tied = copy_of(tmp_path / "tied", without_head, lambda c: c.update(tie_word_embeddings=True))
    assert "lm_head.weight" not in Exl2Directory(tied) and Exl2Directory(tied).head_bits is None


def test_early_files_without_a_declaration_are_recognized(tmp_path):
    target = copy_of(tmp_path, config=lambda c: c.pop("quantization_config"))
    assert is_exl2(target) and is_exl2(FIXTURE) and not is_exl2(ORIGINAL)
    assert "not recorded" in Exl2Directory(target).declaration.quantizer


def set_part(part: str, change):
    def edit(tensors):
        tensors[f"{DOWN}.{part}"] = change(tensors[f"{DOWN}.{part}"].clone())

    return edit


def set_group(index: int, value: int):
    def change(groups):
        groups[index] = value
        return groups

    return set_part("q_groups", change)


def drop(name: str):
    return lambda tensors: tensors.pop(name)


def swap_inputs(places):
    places[0] = places[1]
    return places


BAD_TENSORS = {
    "missing part": (drop(f"{DOWN}.q_scale"), "down_proj.q_scale' is missing"),
    "missing norm": (drop("model.norm.weight"), "'model.norm.weight' is missing"),
    "missing layer": (drop(f"{DOWN}.q_weight"), "'model.layers.1.mlp.down_proj.weight' is missing"),
    "missing head": (without_head, "'lm_head.weight' is missing .and so is 'lm_head.q_weight'"),
    "unknown width": (set_group(2, 7), r"down_proj.q_groups': group 1 has 7 bits; EXL2 has 2, 3"),
    "rising width": (set_group(4, 5), "group 2 has 5 bits after one of 4; widths fall"),
    "starts not ascending": (
        set_group(5, 8),
        "group 1 starts at row 8 .* ends at 8; starts ascend",
    ),
    "first start": (set_group(1, 1), "group 0 starts at row 1 of q_weight"),
    "start beyond the end": (
        set_group(21, 40),
        "group 10 starts at row 40 of q_weight and ends at 40",
    ),
    "broken group": (
        set_group(5, 11),
        "group 1 has 3 rows of q_weight; at 4 bits .* multiple of 32",
    ),
    "too few inputs": (
        set_part("q_weight", lambda t: t[:-3]),
        "q_groups': .*(hold 320 inputs; the layer has 352|starts at row 37 .* ends at 37)",
    ),
    "wrong width": (
        set_part("q_weight", lambda t: t[:, :96]),
        r"down_proj.q_weight': shape \[40, 96\], expected \[40, 128\]",
    ),
    "wrong scales": (
        set_part("q_scale", lambda t: t[:-1]),
        r"down_proj.q_scale': shape \[10, 16\], expected \[11, 16\]",
    ),
    "wrong largest scales": (
        set_part("q_scale_max", lambda t: t[:-1]),
        r"down_proj.q_scale_max': shape \[10\], expected \[11\]",
    ),
    "infinite scale": (set_part("q_scale_max", lambda t: t / 0), "q_scale_max': not finite"),
    "odd groups": (set_part("q_groups", lambda t: t[:-1]), r"q_groups': shape \[21\]"),
    "no groups": (set_part("q_groups", lambda t: t[:0]), r"q_groups': shape \[0\]|q_scale'"),
    "wrong order": (set_part("q_invperm", swap_inputs), "q_invperm': not each of 0 to 351 once"),
    "short order": (set_part("q_invperm", lambda t: t[:-32]), r"\[320\], expected \[352\]"),
    "one number for words": (
        set_part("q_weight", lambda t: t.reshape(-1)[0].clone()),
        r"q_weight': shape \[\], expected two dimensions",
    ),
    "flat words": (
        set_part("q_weight", lambda t: t.reshape(-1)),
        "q_weight': shape .*, expected two dimensions",
    ),
    "groups in rows": (
        set_part("q_groups", lambda t: t.reshape(2, -1)),
        r"q_groups': shape \[2, 11\], expected \[22\]",
    ),
    "order in rows": (
        set_part("q_invperm", lambda t: t.reshape(2, -1)),
        r"q_invperm': shape \[2, 176\], expected \[352\]",
    ),
    "wrong type": (
        set_part("q_weight", lambda t: t.float()),
        "torch.float32, expected torch.int32",
    ),
    "bias": (lambda t: add_bias(t, 0), "q_proj.bias': this config.json has no bias there|k_proj"),
    "extra layer": (
        lambda t: t.update({"model.layers.2.mlp.up_proj.q_weight": torch.ones(1).int()}),
        r"'model.layers.2.mlp.up_proj.q_weight' does not belong .* of 2 layers",
    ),
    "norm's shape": (
        lambda t: t.update({"model.norm.weight": torch.ones(64).half()}),
        r"'model.norm.weight' is \[64\], expected \[128\]",
    ),
    "integer norm": (
        lambda t: t.update({"model.norm.weight": torch.ones(128).int()}),
        "'model.norm.weight' is stored as I32",
    ),
}


def test_scales_beyond_float16_are_named_when_the_weight_is_read(tmp_path):
    target = copy_of(tmp_path, set_part("q_scale_max", lambda t: t.fill_(60000)))
    with pytest.raises(UserError, match=f"'{DOWN}.weight': its scales give more") as error:
        Exl2Directory(target).get(f"{DOWN}.weight")
    assert one_line(error)


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_damage_is_named_when_the_directory_is_opened(tmp_path, case):
    edit, message = BAD_TENSORS[case]
    target = copy_of(tmp_path, edit)
    with pytest.raises(UserError, match=message) as error:
        Exl2Directory(target)
    assert one_line(error).startswith(str(target))


BAD_CONFIGS = {
    "another method": (
        lambda c: c["quantization_config"].update(quant_method="gptq"),
        "quant_method is 'gptq', expected 'exl2'",
    ),
    "no size": (lambda c: c.pop("hidden_size"), "hidden_size is None, expected a positive"),
    "other size": (lambda c: c.update(vocab_size=600), r"is \[512, 128\], expected \[600, 128"),
    "more layers": (lambda c: c.update(num_hidden_layers=3), "'model.layers.2.*' is missing"),
    "fewer layers": (lambda c: c.update(num_hidden_layers=1), "'model.layers.1.*not belong"),
    "input width": (
        lambda c: c.update(intermediate_size=350),
        "350 inputs cannot be stored as EXL2, which takes multiples of 32",
    ),
    "declared bias": (lambda c: c.update(mlp_bias=True), "gate_proj.bias' is missing"),
    "bias's shape": (lambda c: c.update(model_type="qwen2"), "q_proj.bias' is missing"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_config_that_does_not_fit_is_named(tmp_path, case):
    change, message = BAD_CONFIGS[case]
    target = copy_of(tmp_path, config=change)
    with pytest.raises(UserError, match=message) as error:
        Exl2Directory(target)
    assert one_line(error).startswith(str(target))


def test_a_bias_of_another_size_is_refused(tmp_path):
    target = copy_of(tmp_path, lambda t: add_bias(t, 96), lambda c: c.update(model_type="qwen2"))
    with pytest.raises(UserError, match=r"k_proj.bias': shape \[96\], expected \[64\]"):
        Exl2Directory(target)


def test_a_directory_that_only_claims_to_be_exl2_is_refused(tmp_path):
    target = copy_of(tmp_path)
    shutil.copy(ORIGINAL / "model.safetensors", target / "output.safetensors")
    with pytest.raises(UserError, match="says that the weights are EXL2, but tensor .* missing"):
        Exl2Directory(target)


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("config.json", None, "it has no config.json"),
        ("config.json", "{", "not readable as JSON"),
        ("config.json", "[]", "must hold a JSON object"),
        ("output.safetensors", None, "it has no output.safetensors"),
        ("output.safetensors", "short", "damaged or not safetensors"),
    ],
)
def test_missing_and_damaged_files_are_named(tmp_path, name, contents, message):
    target = copy_of(tmp_path)
    (target / name).unlink()
    if contents is not None:
        (target / name).write_text(contents)
    with pytest.raises(UserError, match=message) as error:
        Exl2Directory(target)
    assert one_line(error).startswith(str(target))


def test_one_tensor_in_two_files_is_refused(tmp_path):
    target = copy_of(tmp_path)
    shutil.copy(target / "output.safetensors", target / "output-2.safetensors")
    with pytest.raises(UserError, match="is in output-2.safetensors and output.safetensors"):
        Exl2Directory(target)


@pytest.mark.slow
def test_a_model_of_135_million_weights_loads_within_5_seconds_of_2_cores(tmp_path):
    """SmolLM2-135M's shape, random codes: the time of reading does not depend on the values."""
    config = {
        **{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536},
        **{"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152},
        **{"num_hidden_layers": 30, "tie_word_embeddings": True},
    }
    from frankenlab.models.shape import ModelShape

    shapes = ModelShape.from_config(config)

    def tensors():
        for name, shape in shapes.others.items():
            yield name, torch.ones(shape)
        for name, (outputs, inputs) in shapes.linears.items():
            groups = [4, 0] + [v for g in range(1, inputs // 32) for v in (3, 1 + 3 * g)]
            words = 4 + 3 * (inputs // 32 - 1)
            n_groups = inputs // 32
            yield from {
                f"{name}.q_weight": torch.randint(-(2**31), 2**31, (words, outputs)).int(),
                f"{name}.q_scale": torch.randint(-(2**31), 2**31, (n_groups, outputs // 8)).int(),
                f"{name}.q_scale_max": torch.rand(n_groups).half(),
                f"{name}.q_groups": torch.tensor(groups, dtype=torch.int16),
                f"{name}.q_invperm": torch.randperm(inputs).int(),
            }.items()

    write_exl2(tmp_path, config, DECLARED, tensors())
    started = time.process_time()
    directory = Exl2Directory(tmp_path)
    total = sum(directory.get(name, torch.bfloat16).numel() for name in directory.names)
    # Seconds of one core, so that other work on the machine cannot fail the test.
    assert time.process_time() - started < 10
    assert total == 134_515_008 + 49152 * 576
