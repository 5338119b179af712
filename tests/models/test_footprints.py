"""What weights take, from the directories themselves."""

import math
from pathlib import Path

import pytest
from safetensors import safe_open

from frankenlab.models.footprint import Footprint, weights_row
from frankenlab.plans.plan import parse
from tests.support.paths import DATA

PLAIN, EXL2 = DATA / "llama-tiny-hf", DATA / "llama-tiny-exl2"


def stored(directory: Path, name: str) -> tuple[int, int]:
    """(bytes, values) of all tensors whose names begin so."""
    size = values = 0
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is not a mapping)
                if key.startswith(name):
                    tensor = file.get_tensor(key)
                    size, values = size + tensor.nbytes, values + tensor.numel()
    return size, values


def test_exl2_counts_what_is_stored():
    size = Footprint.of_directory(EXL2)
    for layer in range(2):
        whole, _ = stored(EXL2, f"model.layers.{layer}.")
        assert size.parts["attn"][layer] + size.parts["mlp"][layer] == whole
    assert size.head == stored(EXL2, "lm_head")[0] + stored(EXL2, "model.norm")[0]
    assert size.weight_bytes == stored(EXL2, "")[0]


def test_plain_weights_count_16_bits_however_they_are_stored():
    size = Footprint.of_directory(PLAIN)
    assert size.weight_bytes == 2 * stored(PLAIN, "")[1]
    assert size.bits_per_weight == size.head_bits == 16
    own_head = stored(PLAIN, "lm_head")[1] > 0
    assert (size.embeddings > 0) == own_head


def test_a_repeated_layer_costs_the_layer_that_it_is():
    """Layers of one EXL2 model differ in bits."""
    size = Footprint.of_directory(EXL2)
    base, twice = parse("base", 2), parse("0:2,1", 2)
    layer = size.parts["attn"][1] + size.parts["mlp"][1]
    assert size.read_bytes(twice) - size.read_bytes(base) == layer
    assert size.materialized_bytes(twice) - size.weight_bytes == layer
    attention = size.read_bytes(parse("0:2,1@attn", 2)) - size.read_bytes(base)
    assert attention == size.parts["attn"][1]
    plain = Footprint.of_directory(PLAIN)
    assert size.relative_compute(twice) == pytest.approx(plain.relative_compute(twice))
    assert 1 < size.relative_compute(twice) < 1.5


def test_the_row_of_a_directory_says_who_made_it_from_what():
    row = weights_row("m", "exl2-4.0", EXL2, {"attainable": [2.2, 8.0]})
    assert row["quantizer"].startswith("exllamav2") and row["bits_per_weight"] > 3.5
    assert (row["attainable_low"], row["attainable_high"]) == (2.2, 8.0)
    manifest = {"quantizer": "frankenlab-gptq", "calibration": {"texts": 64, "hash": "77aa"}}
    assert weights_row("m", "q", EXL2, manifest)["quantizer"] == "frankenlab-gptq"
    assert "texts 64, hash 77aa" in weights_row("m", "q", EXL2, manifest)["calibration"]
    plain = weights_row("m", "none", PLAIN, {"made": "files as distributed"})
    assert plain["quantizer"] is None and plain["calibration"] is None
    assert plain["made"] == "files as distributed" and math.isclose(plain["head_bits"], 16)
