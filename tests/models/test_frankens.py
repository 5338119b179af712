"""What a franken is said to cost is what it costs."""

import json

import pytest
import torch
from safetensors import safe_open

from frankenlab.engines.torch import TorchEngine
from frankenlab.io.errors import UserError
from frankenlab.models.directory import model_shape
from frankenlab.models.export import materialize
from frankenlab.models.franken import franken, layer_tensors, manifest, plans_of
from frankenlab.plans.plan import parse
from tests.support.models import VARIANTS, load_hf, parse_all

TEXTS = ("base", "0:3,1:4", "0:1,1x3,2:4", "0,3", "0:4,1@attn,2:4@mlp")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("text", ["base", "0:3,1:4", "0:1,1x3,2:4", "0,3"])
def test_parameters_are_those_of_the_exported_model(tiny, tmp_path, variant, text):
    plan = parse(text, 4)
    materialize(tiny(variant), plan, tmp_path / "out")
    made = franken(plan, "explicit", model_shape(tiny(variant)))
    assert made["parameters"] == load_hf(tmp_path / "out").num_parameters()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_parameters_of_a_part_are_those_of_its_tensors(tiny, variant):
    shape = model_shape(tiny(variant))
    sizes = {part: shape.part_parameters(part) for part in ("attn", "mlp")}
    with safe_open(tiny(variant) / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name).numel() for name in file.keys()}  # noqa: SIM118
    for part in ("attn", "mlp"):
        names = [f"{name}.{kind}" for name in layer_tensors(2, part) for kind in ("weight", "bias")]
        assert sizes[part] == sum(stored.get(name, 0) for name in names)
    assert 4 * sum(sizes.values()) == sum(
        size for name, size in stored.items() if name.startswith("model.layers.")
    )


def test_parts_are_counted_by_occurrence_and_stored_once(tiny):
    info = model_shape(tiny("all-biases"))
    sizes = {part: info.part_parameters(part) for part in ("attn", "mlp")}
    whole = franken(parse("base", 4), "base", info)
    more = franken(parse("0:4,1@attn,1@attn,2@mlp", 4), "explicit", info)
    assert more["parameters"] - whole["parameters"] == 2 * sizes["attn"] + sizes["mlp"]
    stored = whole["stored_parameters"]
    assert more["stored_parameters"] == stored == whole["parameters"]
    few = franken(parse("0,1@attn,1@attn", 4), "explicit", info)
    without = 2 * (sizes["attn"] + sizes["mlp"]) + sizes["mlp"]
    assert few["stored_parameters"] == stored - without
    assert (more["depth"], more["relative_depth"]) == (5.5, 5.5 / 4)


@pytest.mark.parametrize("variant", ["untied", "one-key-head", "all-key-heads"])
@pytest.mark.parametrize("text", TEXTS)
def test_the_kv_cache_is_as_large_as_what_decoding_keeps(tiny, variant, text):
    plan, n_tokens = parse(text, 4), 7
    decoder = TorchEngine(tiny(variant), "bfloat16").decoder(plan, n_tokens)
    decoder.feed([5] * n_tokens)
    kept = [t for c in decoder.caches if c is not None for t in (c.keys, c.values)]
    assert {t.dtype for t in kept} == {torch.bfloat16}
    made = franken(plan, "explicit", model_shape(tiny(variant)))
    assert made["kv_bytes_per_token"] * n_tokens == sum(t.nbytes for t in kept)


def test_a_manifest_gives_its_plans_back_through_json(tiny):
    plans = parse_all([*TEXTS, "0:4,1*0.3333333333333333", "0,(1:3)x2*0.5,3"])
    info = model_shape(tiny("qwen2"))
    made = json.loads(json.dumps(manifest("m", "none", info, [(p, "explicit") for p in plans])))
    assert plans_of(made) == plans and plans_of(made, without=["explicit"]) == []
    assert made["n_layers"] == 4 and len(made["frankens"]) == len(plans)
    loop = made["frankens"][1]
    assert (loop["plan"], loop["loop"], loop["depth"]) == ("0:3,1:4", [1, 3, 2], 6)
    assert loop["occurrences"][3] == [1, "block", 1.0]


@pytest.mark.parametrize("variant", ["tied", "qwen2", "all-biases"])
def test_a_manifest_names_exactly_the_stored_tensors_of_the_layers_in_use(tiny, variant):
    made = manifest("m", "none", model_shape(tiny(variant)), [(parse("1:3x2", 4), "explicit")])
    assert set(made["tensors"]) == {"1", "2"}
    named = {name for layer in made["tensors"].values() for part in layer.values() for name in part}
    with safe_open(tiny(variant) / "model.safetensors", "pt") as file:
        stored = {name.rpartition(".")[0] for name in file.keys()}  # noqa: SIM118
    of_layers = {name for name in stored if name.startswith(("model.layers.1.", "model.layers.2."))}
    assert named == of_layers


@pytest.mark.parametrize("change", [["occurrences", 3, [2, "block", 1.0]], ["plan", None, "0:4"]])
def test_a_manifest_whose_steps_are_not_its_plans_is_refused(tiny, change):
    made = manifest("m", "none", model_shape(tiny()), [(parse("0:3,1:4", 4), "rys")])
    key, index, value = change
    entry = made["frankens"][0]
    if index is None:
        entry[key] = value
    else:
        entry[key][index] = value
    with pytest.raises(UserError, match="does not match its occurrences"):
        plans_of(made)
