"""Tokenizers are those that lm-eval takes, and are compared with their model and their files."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from frankenlab.io.errors import UserError
from frankenlab.models.export import materialize
from frankenlab.models.fetch import fetch_model
from frankenlab.models.sources import source_from_config
from frankenlab.models.tokenizer import SAMPLES, load_tokenizer
from frankenlab.plans.plan import parse
from tests.support.processes import one_line
from tests.support.tiny import make_tiny_model


@pytest.fixture
def model(tmp_path) -> Path:
    return make_tiny_model(tmp_path / "tiny")


def fetch(model: Path, target: Path) -> None:
    source = source_from_config({"path": str(model)}, "models.tiny.source", "model")
    fetch_model(source, target, 4, "")


def warnings(caplog) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]


# Names that a tokenizer_config.json may give, in transformers 4 and 5; None gives none.
TOKENIZER_CLASSES = (
    *("PreTrainedTokenizerFast", "TokenizersBackend", "PreTrainedTokenizer", "LlamaTokenizer"),
    *("LlamaTokenizerFast", "CodeLlamaTokenizerFast", "GPT2Tokenizer", "GPT2TokenizerFast"),
    *("Qwen2Tokenizer", "Qwen2TokenizerFast", "UnknownTokenizer", None),
)


def split_digits(directory: Path, name: str | None) -> None:
    """Makes tokenizer.json split digits as SmolLM2's does, and the settings name a class."""
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    digits = {"type": "Digits", "individual_digits": True}
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [digits, tokenizer["pre_tokenizer"]],
    }
    path.write_text(json.dumps(tokenizer))
    path = directory / "tokenizer_config.json"
    config = {**json.loads(path.read_text()), "tokenizer_class": name}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_a_tokenizer_is_that_of_auto_tokenizer_whatever_class_is_named(tmp_path, architecture):
    texts = [*SAMPLES, "1 20", "<|begin|>a", "<|end|> <|endoftext|>"]
    for name in TOKENIZER_CLASSES:
        directory = make_tiny_model(tmp_path / str(name), architecture)
        split_digits(directory, name)
        found, expected = load_tokenizer(directory), AutoTokenizer.from_pretrained(directory)
        assert type(found) is type(expected), name
        assert found.get_vocab() == expected.get_vocab()
        assert found.special_tokens_map == expected.special_tokens_map
        for text in texts:
            assert found.encode(text) == expected.encode(text), (name, text)
    (directory / "tokenizer_config.json").unlink()
    expected = AutoTokenizer.from_pretrained(directory)
    assert type(load_tokenizer(directory)) is type(expected)


def test_a_tokenizer_json_that_transformers_does_not_follow_is_warned_of(tmp_path, model, caplog):
    """GPT2Tokenizer replaces how a tokenizer.json like SmolLM2's splits digits; lm-eval scores the
    tokens that come of it, and so do we, before and after an export."""
    split_digits(model, "GPT2Tokenizer")
    before = (model / "tokenizer_config.json").read_text()
    fetch(model, tmp_path / "m")
    (warning,) = warnings(caplog)
    assert "GPT2Tokenizer cuts 'In 1969" in warning and "into ' 1' and not ' '" in warning
    assert (tmp_path / "m" / "tokenizer_config.json").read_text() == before
    materialize(tmp_path / "m", parse("0:3,1:4", 4), tmp_path / "franken")
    tokenizers = [load_tokenizer(tmp_path / "m"), AutoTokenizer.from_pretrained(model)]
    tokenizers.append(AutoTokenizer.from_pretrained(tmp_path / "franken"))
    assert {tuple(tokenizer.tokenize("1 20")) for tokenizer in tokenizers} == {("1", "Ġ2", "0")}


def test_a_tokenizer_as_transformers_takes_it_is_not_warned_of(tmp_path, model, caplog):
    fetch(model, tmp_path / "m")
    assert not warnings(caplog)


def test_an_added_token_without_an_embedding_is_warned_of(tmp_path, model, caplog):
    """Many models were given a "[PAD]" that way; only a text with it is refused."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["[PAD]"])
    tokenizer.save_pretrained(model)
    fetch(model, tmp_path / "m")
    (warning,) = warnings(caplog)
    assert "id 384, the model only 384 embeddings; token '[PAD]' is id 384" in warning


@pytest.mark.parametrize(
    "settings",
    [
        {"model_max_length": "512"},  # noticed when a text is encoded
        {"model_max_length": {}},
        {"fast_tokenizer_files": ["tokenizer.4.0.json"]},  # an export would have another tokenizer
    ],
)
def test_settings_that_cannot_be_followed_are_refused(model, settings):
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(UserError) as error:
        load_tokenizer(model)
    assert one_line(error).startswith(f"{model}: its tokenizer cannot be loaded")


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_damaged_tokenizer_json_is_refused(tmp_path, architecture):
    model = make_tiny_model(tmp_path / "damaged", architecture)
    path = model / "tokenizer.json"
    content = json.loads(path.read_text())
    for damaged in (content | {"pre_tokenizer": {"type": "Nothing"}}, {}, "{"):
        path.write_text(damaged if isinstance(damaged, str) else json.dumps(damaged))
        with pytest.raises(UserError) as error:
            fetch(model, tmp_path / "m")
        assert "its tokenizer cannot be loaded" in one_line(error)
