"""What a model at a quantization takes, against known sizes and against real tensors."""

from dataclasses import replace

import pytest
from safetensors import safe_open

from frankenlab.engines import masks
from frankenlab.engines.scoring import CHUNK
from frankenlab.io.errors import UserError
from frankenlab.models.directory import model_shape
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.files import read_json
from frankenlab.models.memory import (
    GB,
    LOGIT_ROWS,
    MASK_ELEMENTS,
    Load,
    Memory,
    batch_bytes,
    disk_bytes,
    live_states,
    memory,
    pass_tokens,
)
from frankenlab.models.quantization import NONE, Quantization
from frankenlab.models.shape import ModelShape
from frankenlab.plans.plan import Window, looped, parse
from frankenlab.plans.trie import plan_trie
from tests.support.paths import ROOT
from tests.support.processes import one_line
from tests.support.tiny import make_tiny_model

EXL2 = ROOT / "tests" / "data" / "llama-tiny-exl2"
LLAMA_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
    "vocab_size": 32000, "num_hidden_layers": 32,
}  # fmt: skip
LOAD = Load(tokens=2048, row=512, passed=2048, states=10)
FOUR = Quantization("exl2", 4.0)


def need(weights=FOUR, engine="exllamav2", load=LOAD, config=LLAMA_7B, **settings) -> Memory:
    return memory(ModelShape.from_config(config), weights, 6, engine, load, **settings)


def test_floats_take_two_bytes_for_each_parameter_of_llama_7b():
    assert disk_bytes(ModelShape.from_config(LLAMA_7B), NONE, 6) == 2 * 6_738_415_616


@pytest.mark.parametrize("tied", [False, True])
def test_floats_take_what_a_model_directory_has(tmp_path, tied):
    directory = make_tiny_model(tmp_path, tied=tied)
    sizes = ModelShape.from_config(read_json(directory / "config.json"))
    assert disk_bytes(sizes, NONE, 6) == 2 * model_shape(directory).parameters


def test_exl2_takes_what_its_files_have():
    directory = Exl2Directory(EXL2)
    with safe_open(EXL2 / "output.safetensors", "np") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    found = sum(tensor.nbytes for tensor in tensors)
    bits = Quantization("exl2", directory.bits_per_weight)
    predicted = disk_bytes(ModelShape.from_config(directory.config), bits, 6)
    assert predicted == pytest.approx(found, rel=0.04)


def test_a_bit_less_per_weight_is_an_eighth_of_a_byte_less():
    sizes = ModelShape.from_config(LLAMA_7B)
    difference = disk_bytes(sizes, FOUR, 6) - disk_bytes(sizes, Quantization("exl2", 3.0), 6)
    assert difference == sizes.n_layers * sizes.layer_weights // 8


def test_torch_dequantizes_so_the_bitrate_changes_nothing():
    three = need(Quantization("exl2", 3.0), "torch")
    assert three == need(FOUR, "torch") == need(NONE, "torch")
    assert three.weights == disk_bytes(ModelShape.from_config(LLAMA_7B), NONE, 6)
    assert need(NONE, "torch", precision="float32").weights == 2 * three.weights
    tied = {**LLAMA_7B, "tie_word_embeddings": True}
    head = 2 * 32000 * 4096
    assert need(FOUR, "torch", config=tied).weights == three.weights
    assert need(NONE, "torch", config=tied).weights == three.weights - head


def test_exllamav2_keeps_the_bits_and_has_a_dequantized_head_in_place_of_the_embeddings():
    sizes = ModelShape.from_config(LLAMA_7B)
    assert need().weights == disk_bytes(sizes, FOUR, 6)
    assert need().weights < need(NONE, "torch").weights / 3


def test_each_load_is_in_its_own_part():
    plain = need()
    assert plain.states == 10 * 2048 * 4096 * 2 and plain.cache == 0
    assert plain.total == sum(
        (plain.weights, plain.states, plain.cache, plain.working, plain.overhead)
    )
    cached = need(load=Load(2048, 512, 2048, 10, cached=40 * 512))
    assert cached.cache == 2 * 40 * 512 * 4096 * 2
    fewer = need(load=Load(2048, 512, 2048, 10, 40 * 512),
                 config={**LLAMA_7B, "num_key_value_heads": 8})  # fmt: skip
    assert fewer.cache == cached.cache // 4
    # A decoder's scores of attention, where they take more than scoring's layer.
    short, long = (need(load=Load(256, row, 2048, 10)) for row in (8192, 16384))
    assert long.working - short.working == 2 * 3 * 32 * 2048 * 8192
    assert "weights 3.6" in str(plain) and "cache" not in str(plain)


def test_a_prefix_is_computed_once_and_its_keys_are_in_every_row():
    load = Load(tokens=8192, row=512, passed=8192, states=10)
    shots = replace(load, prefix=1000)
    copies = 8192 // 64 * 1000 * 2 * 4096 * 2
    layer = 1000 * (3 * 11008 + 6 * 4096) * 2
    for weights, engine in ((NONE, "torch"), (FOUR, "exllamav2")):
        plain, with_shots = (need(weights, engine, one) for one in (load, shots))
        assert with_shots.states - plain.states == 10 * 1000 * 4096 * 2
        assert with_shots.working - plain.working == copies + layer


def test_masks_take_no_more_than_the_engine_makes_at_once():
    assert MASK_ELEMENTS == masks.MASK_ELEMENTS
    of = {n: need(NONE, "torch", Load(n, n, n, 1)).working for n in (1024, 8192, 16384)}
    assert of[16384] - of[8192] == 8192 * (3 * 11008 + 6 * 4096) * 2
    assert of[8192] - of[1024] < 8 * (of[1024] + MASK_ELEMENTS)


def test_logits_are_of_as_many_rows_as_the_head_runs_on():
    assert LOGIT_ROWS == CHUNK
    more = need(config={**LLAMA_7B, "vocab_size": 64000}, load=Load(1, 1, 1, 1))
    less = need(load=Load(1, 1, 1, 1))
    assert more.working - less.working >= CHUNK * 32000 * 4


def test_a_pass_of_exllamav2_holds_a_context_but_no_endless_one():
    assert [pass_tokens(context) for context in (512, 4096, 131072)] == [512, 2048, 2048]


def test_a_batch_of_exllamav2_needs_what_the_whole_need_says_beside_the_weights():
    sizes = ModelShape.from_config(LLAMA_7B)
    whole = need(load=Load(2048, 512, 1, 34))
    scratch = 2 * sizes.head_weights
    assert batch_bytes(sizes, 2048) == whole.states + whole.working - scratch


@pytest.mark.parametrize(
    "plans",
    [
        [parse("base", 6)],
        [parse("base", 6), parse("0:3,2:6", 6)],
        [looped(i, j, 2, 6) for i in range(6) for j in range(i + 1, 7)],
        [parse("0:2,(2:5)x2*0.5,5", 6)],
        [parse("base", 6), *(Window(i, i + 3, 2, b).plan(6) for i in range(4) for b in (0.5, 2))],
    ],
)
def test_live_states_are_those_that_a_walk_keeps(plans):
    """The walk of `sweep`, with numbers for hidden states."""
    trie = plan_trie(plans)
    most, made, pending = 0, 0, [(trie, None, (0,))]
    while pending:
        node, step, states = pending.pop()
        if step is not None:
            made += 1
            most = max(most, len({*states, made, *(s for _, _, kept in pending for s in kept)}))
            states = (*states, made)[-node.reach :]
        pending += [(child, s, states) for s, child in reversed(node.children.items())]
    assert most <= live_states(trie) <= most + 1


def test_a_missing_size_is_named():
    config = {key: value for key, value in LLAMA_7B.items() if key != "vocab_size"}
    with pytest.raises(UserError) as error:
        ModelShape.from_config(config)
    assert "vocab_size" in one_line(error)


def test_a_7b_at_four_bits_fits_where_its_floats_do_not():
    assert need().total < 8 * GB < 13 * GB < need(NONE, "torch").total
