"""One function says which files are a model's weights, and everything reads these and no others."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.io.errors import UserError
from frankenlab.models.directory import check_llama_shaped, model_shape
from frankenlab.models.exl2.declaration import is_exl2
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.export import materialize
from frankenlab.models.fetch import fetch_model
from frankenlab.models.files import INDEX, identity_files, weight_files
from frankenlab.models.sources import source_from_config
from frankenlab.plans.plan import parse
from frankenlab.quantize.exllamav2.inputs import stage
from frankenlab.quantize.layerwise import LayerwiseModel
from frankenlab.quantize.reference import ReferenceQuantizer
from tests.support.models import load_hf
from tests.support.processes import one_line
from tests.support.tiny import make_tiny_exl2, make_tiny_model

TOKENS = list(range(5, 25))
BASE = parse("base", 4)


def logits(directory: Path) -> torch.Tensor:
    """What the engine computes."""
    return TorchEngine(directory, "float32").decoder(BASE, len(TOKENS)).feed(TOKENS)


def expected_logits(directory: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load_hf(directory)(torch.tensor([TOKENS])).logits[0, -1]


def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})


def single(directory: Path) -> None:
    pass


def transformers_shards(directory: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="60KB")


def shards_of_other_names(directory: Path) -> None:
    """One of them in a folder; the index says of one tensor that it is in the other file."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(weights)
    places = {}
    for file, part in (("first-half.safetensors", names[:20]), ("b/rest.safetensors", names[20:])):
        save({name: weights[name] for name in part}, directory / file)
        places |= dict.fromkeys(part, file)
    places[names[0]] = "b/rest.safetensors"
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (directory / INDEX).write_text(json.dumps(index))


LAYOUTS = (single, transformers_shards, shards_of_other_names)


def add_strangers(directory: Path) -> None:
    """Files that lie beside the weights of many repositories and are not the model's."""
    wrong = {}
    for path in weight_files(directory):
        wrong |= {name: tensor * 2 for name, tensor in load_file(path).items()}
    save(wrong, directory / "model-00001-of-00009.safetensors")
    save(wrong, directory / "model.fp16.safetensors")
    save({"layers.0.attention.wq.weight": torch.ones(4)}, directory / "consolidated.safetensors")
    save({"base_model.lora_A.weight": torch.ones(4)}, directory / "adapter_model.safetensors")
    (directory / "broken.safetensors").write_bytes(b"not one")
    if (directory / "model.safetensors").is_file():
        index = {
            "metadata": {},
            "weight_map": {n: "model-00001-of-00009.safetensors" for n in wrong},
        }
        (directory / INDEX).write_text(json.dumps(index))


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__)
def model(request, tmp_path) -> tuple[Path, Path]:
    """The model alone, and with strangers beside its weights."""
    alone = make_tiny_model(tmp_path / "alone", hidden=64)
    request.param(alone)
    beside = tmp_path / "beside"
    shutil.copytree(alone, beside)
    add_strangers(beside)
    return alone, beside


@pytest.mark.slow
def test_everything_reads_the_weights_that_transformers_reads(model, tmp_path, monkeypatch):
    alone, beside = model
    right = expected_logits(beside)
    assert torch.equal(right, expected_logits(alone))
    check_llama_shaped(beside, 4)
    assert model_shape(beside) == model_shape(alone)
    assert (logits(beside) - right).abs().max() < 1e-3

    materialize(beside, BASE, tmp_path / "export")
    assert torch.equal(expected_logits(tmp_path / "export"), right)

    # The reference quantizer and exllamav2's converter.
    names = ("model.embed_tokens.weight", "model.layers.3.mlp.up_proj.weight", "lm_head.weight")
    one, other = (LayerwiseModel(d, torch.device("cpu")) for d in model)
    assert all(torch.equal(one.tensor(name), other.tensor(name)) for name in names)
    quantizer = ReferenceQuantizer(torch.zeros((1, 4), dtype=torch.int64), {})
    assert quantizer.identity(beside) == quantizer.identity(alone)
    shown = Path(stage(beside, tmp_path / "work"))
    assert {p.resolve() for p in shown.glob("*.safetensors")} == {*weight_files(beside)}

    hashes = {ModelSpec.for_directory(d, "float32", "cpu").weights for d in model}
    assert len(hashes) == 1


def test_a_changed_weight_of_any_layout_is_another_model(model):
    _, beside = model
    before = ModelSpec.for_directory(beside, "float32", "cpu").weights
    path = weight_files(beside)[-1]
    save({n: t + 1 if "norm" in n else t for n, t in load_file(path).items()}, path)
    assert ModelSpec.for_directory(beside, "float32", "cpu").weights != before


def test_the_weights_alone_are_fetched_whatever_their_names_are(model, tmp_path):
    _, beside = model
    source = source_from_config({"path": str(beside)}, "models.m.source", "model")
    manifest = fetch_model(source, tmp_path / "fetched", 4, "")
    right = {path.relative_to(beside).as_posix() for path in weight_files(beside)}
    assert {name for name in manifest["files"] if name.endswith(".safetensors")} == right
    assert torch.equal(expected_logits(tmp_path / "fetched"), expected_logits(beside))


def test_the_identity_is_that_of_configuration_weights_and_tokenizer(tmp_path):
    directory = make_tiny_model(tmp_path / "m")
    (directory / "README.md").write_text("text")
    assert sorted(identity_files(directory)) == [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ]


def test_the_files_of_an_exl2_directory_are_exllamav2s(tmp_path):
    directory = make_tiny_exl2(tmp_path / "m", shard_bytes=100_000)
    files = weight_files(directory)
    assert len(files) > 1 and all(path.name.startswith("output-") for path in files)
    # Its converter copies the unquantized model's index, and others lay adapters beside it.
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (directory / INDEX).write_text(json.dumps(index))
    save({"x": torch.ones(1)}, directory / "adapter_model.safetensors")
    assert weight_files(directory) == files == Exl2Directory(directory).weight_files
    # Early versions declared nothing.
    config = json.loads((directory / "config.json").read_text())
    del config["quantization_config"]
    (directory / "config.json").write_text(json.dumps(config))
    assert weight_files(directory) == files and is_exl2(directory)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "index.json: it needs a weight_map"),
        ({"weight_map": []}, "index.json: it needs a weight_map"),
        ({"weight_map": {"a": "../up.safetensors"}}, "names '../up.safetensors', which is not"),
        ({"weight_map": {"a": "/etc/x.safetensors"}}, "names '/etc/x.safetensors', which is not"),
        ({"weight_map": {"a": 3}}, "names '3', which is not there"),
        ({"weight_map": {"a": "gone.safetensors"}}, "names 'gone.safetensors', which is not there"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "pytorch_model.bin', which is no safetensors"),
    ],
)
def test_an_index_that_cannot_be_followed_is_one_line(tmp_path, index, message):
    directory = make_tiny_model(tmp_path / "m")
    (directory / "model.safetensors").unlink()
    (directory / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=message) as error:
        check_llama_shaped(directory)
    assert str(directory) in one_line(error)


def test_a_tensor_in_two_shards_or_in_none_is_named(tmp_path):
    directory = make_tiny_model(tmp_path / "m")
    shards_of_other_names(directory)
    first = directory / "first-half.safetensors"
    weights = load_file(first)
    name = "model.layers.0.mlp.down_proj.weight"
    save({**weights, "model.norm.weight": torch.ones(32)}, first)
    with pytest.raises(UserError, match=r"model.norm.weight' is in .* and .*; keep one"):
        check_llama_shaped(directory)
    del weights[name]
    save(weights, first)
    with pytest.raises(UserError, match=f"tensor '{name}' is missing"):
        check_llama_shaped(directory)


NESTED = '{"a":' * 20_000 + "1" + "}" * 20_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        ('{"a": "größer"}'.encode("latin-1"), "can't decode"),
        ('{"a": 1}'.encode("utf-16"), "can't decode"),
        (NESTED.encode(), "nested too deeply"),
        (b'{"a": 1, "b": 2, "a": 3}', "it has the key 'a' twice"),
        (b"[1]", "must hold a JSON object"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not readable as JSON"),
        (b"", "not readable as JSON"),
    ],
)
def test_json_that_programs_read_differently_or_not_at_all_is_one_line(tmp_path, content, message):
    directory = make_tiny_model(tmp_path / "m")
    (directory / "config.json").write_bytes(content)
    for call in (check_llama_shaped, weight_files, Exl2Directory):
        with pytest.raises(UserError, match=message) as error:
            call(directory)
        assert "config.json" in one_line(error)
    assert not is_exl2(directory)


def test_damaged_headers_of_weights_are_one_line(tmp_path):
    directory = make_tiny_model(tmp_path / "m")
    path = directory / "model.safetensors"
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    first, second = sorted(name for name in header if name.endswith("up_proj.weight"))[:2]

    def with_header(**changes) -> bytes:
        text = json.dumps({**header, **changes}).encode()
        return len(text).to_bytes(8, "little") + text + whole[8 + size :]

    overlapping = {**header[first], "data_offsets": header[second]["data_offsets"]}
    damaged = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "huge header": (1 << 60).to_bytes(8, "little") + whole[8:],
        "zeroed": bytes(4096) + whole[4096:],
        "overlapping": with_header(**{first: overlapping}),
        "negative shape": with_header(**{first: {**header[first], "shape": [-1, 32]}}),
        "unknown dtype": with_header(**{first: {**header[first], "dtype": "F99"}}),
        "other shape": with_header(**{first: {**header[first], "shape": [1 << 62, 1 << 62]}}),
    }
    for name, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match="model.safetensors: damaged") as error:
            check_llama_shaped(directory)
        assert one_line(error), name
    path.write_bytes(with_header())
    check_llama_shaped(directory)
