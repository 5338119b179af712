"""The tokenizer in a GGUF file, as transformers loads it.

It is built here from the metadata, because transformers (5.23) ignores how most vocabularies,
SmolLM's among them, split text before merging: it separates digits from the spaces before them
differently than the tokenizer that the model was trained with.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frankenlab.io.errors import UserError
from frankenlab.models.files import write_settings
from frankenlab.models.tokenizer import SAMPLES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Splitting:
    """What a byte-level BPE does before merging: `tokenizer.ggml.pre` names it.

    Attributes:
        patterns: each splits the pieces that the one before left; a match is a piece, as is what
            lies between matches.
        whole_pieces: whether a piece that is a token as a whole is not put together by merges.
        add_bos: whether text begins with BOS where the metadata doesn't say.
    """

    patterns: tuple[str, ...]
    whole_pieces: bool = False
    add_bos: bool = False
    nfc: bool = False


# As llama.cpp (src/llama-vocab.cpp) reads the names, and as the models' own tokenizer.json do.
SPLITTINGS = {
    "gpt-2": Splitting((_GPT2,)),
    "smollm": Splitting((r"\p{N}", _GPT2)),
    "llama-bpe": Splitting((_LLAMA3,), whole_pieces=True, add_bos=True),
    "qwen2": Splitting((_LLAMA3.replace("{1,3}", ""),), nfc=True),
}

CONTROL, USER_DEFINED = 3, 4
# transformers' names of the special tokens, and those of the metadata.
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def check_vocabulary(metadata: Mapping[str, Any]) -> None:
    """Check that the metadata describe a tokenizer that can be built.

    Raises:
        UserError: they lack or contradict something, or it is another kind of tokenizer.
    """
    lists = [f"tokenizer.ggml.{key}" for key in ("tokens", "token_type", "merges")]
    for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre", *lists):
        if key not in metadata:
            raise UserError(f"its metadata lack '{key}'; take another conversion")
        if not isinstance(metadata[key], list if key in lists else str):
            raise UserError(f"'{key}' is of another type; take another conversion")
    model, pre = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    if model != "gpt2" or pre not in SPLITTINGS:
        raise UserError(
            f"tokenizer '{model}' splitting as '{pre}' is not supported; allowed: "
            f"'gpt2' (byte-level BPE) splitting as {', '.join(SPLITTINGS)}"
        )
    tokens, kinds, merges = (metadata[key] for key in lists)
    known = set(tokens)
    if len(kinds) != len(tokens) or len(known) != len(tokens):
        raise UserError(
            f"'tokenizer.ggml.tokens' has {len(tokens)} tokens, {len(known)} of them "
            f"distinct, and types for {len(kinds)}"
        )
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else []
        if len(parts) != 2 or not {*parts, "".join(parts)} <= known:
            raise UserError(
                f"'tokenizer.ggml.merges' has {merge!r}, expected two tokens that make a third"
            )
    for key, name in SPECIAL.items():
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None and not (isinstance(number, int) and 0 <= number < len(tokens)):
            raise UserError(f"the {key} token is {number}, of {len(tokens)} tokens")
    for key in ("add_eos_token", "add_sep_token"):
        if metadata.get(f"tokenizer.ggml.{key}"):
            raise UserError(f"tokenizer.ggml.{key} is true: a text would end before its answer")
    if not isinstance(metadata.get("tokenizer.chat_template", ""), str):
        raise UserError("'tokenizer.chat_template' is no text")
    if adds_bos(metadata) and metadata.get("tokenizer.ggml.bos_token_id") is None:
        raise UserError("its metadata lack 'tokenizer.ggml.bos_token_id', with which texts begin")


def adds_bos(metadata: Mapping[str, Any]) -> bool:
    """Return whether text begins with the BOS token."""
    default = SPLITTINGS[metadata["tokenizer.ggml.pre"]].add_bos
    return metadata.get("tokenizer.ggml.add_bos_token", default)


def build_tokenizer(metadata: Mapping[str, Any]) -> "Tokenizer":
    """Return the tokenizer that the metadata describe."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.processors import TemplateProcessing

    splitting = SPLITTINGS[metadata["tokenizer.ggml.pre"]]
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=splitting.whole_pieces))
    if splitting.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in splitting.patterns]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos(metadata):
        bos = tokens[metadata["tokenizer.ggml.bos_token_id"]]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
        )
    for token, kind in zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True):
        if kind in (CONTROL, USER_DEFINED):
            added = AddedToken(token, normalized=False, special=kind == CONTROL)
            (tokenizer.add_special_tokens if kind == CONTROL else tokenizer.add_tokens)([added])
    return tokenizer


def save_tokenizer(metadata: Mapping[str, Any], directory: Path) -> None:
    """Write the tokenizer that the metadata describe as transformers' files."""
    from transformers import PreTrainedTokenizerFast

    tokens = metadata["tokenizer.ggml.tokens"]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(metadata),
        model_max_length=metadata[f"{metadata['general.architecture']}.context_length"],
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": tokens[i] for name, i in special_ids(metadata).items()},
    )
    wrapped.chat_template = metadata.get("tokenizer.chat_template")
    wrapped.save_pretrained(directory)
    # The name that transformers 4 and 5 both know; 5 writes one of its own.
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_settings(path, {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})


def special_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of the special tokens, by transformers' name ("bos")."""
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in SPECIAL.items()}
    return {name: i for name, i in ids.items() if i is not None}


def check_tokenizer(tokenizer: Any, metadata: Mapping[str, Any]) -> None:
    """Check that the tokenizer which transformers loads is the one that the metadata describe.

    Some of its classes bring a vocabulary's order or a splitting of their own. Compared are
    vocabulary, merges, special tokens, and the encodings of texts and of control tokens.

    Raises:
        UserError: they differ; names the first difference.
    """
    tokens, kinds = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type"))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    expected_merges = metadata["tokenizer.ggml.merges"]
    _compare("vocabulary size", len(tokenizer), len(tokens))
    _compare("tokens", tokenizer.convert_ids_to_tokens(range(len(tokens))), tokens)
    _compare("number of merges", len(merges), len(expected_merges))
    _compare("merges", merges, expected_merges)
    for name, number in special_ids(metadata).items():
        _compare(f"{name}_token", getattr(tokenizer, f"{name}_token_id"), number)
    built = build_tokenizer(metadata)
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    for text in (*SAMPLES, *control):
        _compare(f"encoding of {text!r}", tokenizer.encode(text), built.encode(text).ids)


def _compare(what: str, found: Any, expected: Any) -> None:
    if found == expected:
        return
    if isinstance(found, list) and len(found) == len(expected) > 20:
        found, expected = next(p for p in zip(found, expected, strict=True) if p[0] != p[1])
    raise UserError(
        f"the tokenizer differs from the file's metadata: {what} is {found}, expected {expected}"
    )
