"""GGUF files: their metadata, their tokenizer, and their conversion to a Hugging Face directory.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The weights are dequantized by
the library gguf (see `gguf_model`). The tokenizer is built here from the metadata, because
transformers (5.23) ignores how most vocabularies, SmolLM's among them, split text before merging:
it separates digits from the spaces before them differently than the tokenizer that the model was
trained with.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError
from frankenlab.models.gguf_model import SUPPORTED, check_tensors, float_tensors, model_config

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Splitting:
    """What a byte-level BPE does before merging: `tokenizer.ggml.pre` names it.

    Each pattern splits the pieces that the one before left; a match is a piece, as is what lies
    between matches.
    """

    patterns: tuple[str, ...]
    # A piece that is a token as a whole is not put together by merges.
    whole_pieces: bool = False
    # Whether text begins with BOS where the metadata doesn't say.
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

# Where tokenizers of this family are known to disagree: digits after runs of spaces and line
# breaks, contractions, capitals, accents (composed and not), scripts, symbols, code.
SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "In 1969, 600 million people watched; 12,345.678 + 9 = ?",
    "a  12\n\n34\t 5\r\n   6",
    "Question: What's 7 x 8?\nAnswer: 56",
    "I'll say they've DON'T it's WE'RE",
    "  leading and trailing  ",
    "caf\u00e9 cafe\u0301 na\u00efve \u0416\u0443\u043a \u6771\u4eac \u0639\u0631\u0628\u064a",
    "def f(x):\n    return x**2  # squared\n\n\nclass A: pass",
    "\U0001f642 \u2014 \u201cquoted\u201d \u2260 \u00bd \u00b2 \u2167",
    "",
)


@dataclass(frozen=True)
class Gguf:
    """The contents of a GGUF file but for the weights: `metadata` by key, `tensors` name → type,
    `config` as transformers has it in config.json."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, str]
    config: Mapping[str, Any]

    @property
    def weights(self) -> str:
        """The types of the stored tensors, the most frequent first: "Q4_1 (210 tensors), …"."""
        counts = Counter(self.tensors.values()).most_common()
        return ", ".join(f"{name} ({count} tensors)" for name, count in counts)

    @property
    def splitting(self) -> Splitting:
        return SPLITTINGS[self.metadata["tokenizer.ggml.pre"]]

    @property
    def add_bos(self) -> bool:
        """Whether text begins with the BOS token."""
        return self.metadata.get("tokenizer.ggml.add_bos_token", self.splitting.add_bos)


def read_gguf(path: Path) -> Gguf:
    """Reads metadata and the names, types and shapes of the tensors.

    Raises:
        UserError: it is not a GGUF file, or one that cannot be converted without loss: another
            architecture, tensors that have no place in it, scaled rotary positions (GGUF stores
            them otherwise than transformers reads them), a tokenizer that isn't known here.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {t.name: t.tensor_type.name for t in reader.tensors}
        shapes = {t.name: tuple(map(int, reversed(t.shape))) for t in reader.tensors}
    except Exception as error:  # Whatever a reader meets in a damaged file.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path.name}: not a readable GGUF file ({reason})") from error
    try:
        _check_kind(metadata)
        _check_vocabulary(metadata)
        config = model_config(metadata, tuple(tensors))
        check_tensors(config, shapes)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None
    return Gguf(path, metadata, tensors, config)


def _check_kind(metadata: Mapping[str, Any]) -> None:
    architecture = metadata.get("general.architecture")
    if architecture not in SUPPORTED:
        raise UserError(
            f"architecture '{architecture}' is not supported; allowed: {', '.join(SUPPORTED)}"
        )
    if metadata.get("split.count", 1) not in (0, 1):
        raise UserError(
            "a file in several parts cannot be converted; take a Hugging Face directory"
        )
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


def _check_vocabulary(metadata: Mapping[str, Any]) -> None:
    tokens, kinds, merges = (
        metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "merges")
    )
    if len(kinds) != len(tokens) or len(set(tokens)) != len(tokens):
        raise UserError(
            f"'tokenizer.ggml.tokens' has {len(tokens)} tokens, {len(set(tokens))} of them "
            f"distinct, and types for {len(kinds)}"
        )
    known = set(tokens)
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
    default = SPLITTINGS[metadata["tokenizer.ggml.pre"]].add_bos
    adds = metadata.get("tokenizer.ggml.add_bos_token", default)
    if adds and metadata.get("tokenizer.ggml.bos_token_id") is None:
        raise UserError("its metadata lack 'tokenizer.ggml.bos_token_id', with which texts begin")


def convert_gguf(gguf: Gguf, directory: Path) -> str:
    """Writes the model and its tokenizer as a Hugging Face directory; returns how it was made.

    The weights become float32, because that alone is exact: of the values that Q4_1 stands for in
    SmolLM2-135M, bfloat16 changes 82 % and float16 48 %. It costs space (538 MB instead of 269),
    not speed: an engine casts to the precision that it computes in.

    Raises:
        UserError: weights cannot be read, or the tokenizer differs from the metadata.
    """
    import transformers

    from frankenlab.models.weight_writing import write_weights

    try:
        write_weights(directory, float_tensors(gguf.path, gguf.config))
    except UserError as error:
        raise UserError(f"{gguf.path.name}: {error}") from None
    generation = {key: gguf.config[key] for key in gguf.config if key.endswith("_token_id")}
    for name, values in (("config", gguf.config), ("generation_config", generation)):
        text = json.dumps(values, indent=2, sort_keys=True)
        (directory / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    save_tokenizer(gguf, directory)
    check_tokenizer(transformers.AutoTokenizer.from_pretrained(directory), gguf)
    quantized = any(kind not in ("F32", "F16", "BF16") for kind in gguf.tensors.values())
    return f"{gguf.weights} {'dequantized' if quantized else 'converted'} to float32"


def save_tokenizer(gguf: Gguf, directory: Path) -> None:
    """Writes the tokenizer that the metadata describes."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    metadata, splitting = gguf.metadata, gguf.splitting
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        BPE(
            {token: i for i, token in enumerate(tokens)},
            merges,
            ignore_merges=splitting.whole_pieces,
        )
    )
    if splitting.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in splitting.patterns]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = {name: tokens[i] for name, i in special_ids(gguf).items()}
    if gguf.add_bos:
        bos = special["bos_token"]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokens.index(bos))]
        )
    for token, kind in zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True):
        if kind in (CONTROL, USER_DEFINED):
            added = AddedToken(token, normalized=False, special=kind == CONTROL)
            (tokenizer.add_special_tokens if kind == CONTROL else tokenizer.add_tokens)([added])
    architecture = metadata["general.architecture"]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=metadata[f"{architecture}.context_length"],
        clean_up_tokenization_spaces=False,
        **special,
    )
    wrapped.chat_template = metadata.get("tokenizer.chat_template")
    wrapped.save_pretrained(directory)
    # The name that transformers 4 and 5 both know; 5 writes one of its own.
    path = directory / "tokenizer_config.json"
    config = {
        **json.loads(path.read_text(encoding="utf-8")),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def special_ids(gguf: Gguf) -> dict[str, int]:
    """The ids of the special tokens, by the name that transformers gives them."""
    ids = {
        f"{name}_token": gguf.metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in SPECIAL.items()
    }
    return {name: i for name, i in ids.items() if i is not None}


def check_tokenizer(tokenizer: Any, gguf: Gguf) -> None:
    """Compares a transformers tokenizer with the metadata: vocabulary, merges, special tokens,
    BOS, and encodings, the latter with `reference_encode`.

    Raises:
        UserError: they differ; names the first difference.
    """
    tokens = list(gguf.metadata["tokenizer.ggml.tokens"])
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    facts = {
        "vocabulary size": (len(tokenizer), len(tokens)),
        "tokens": (tokenizer.convert_ids_to_tokens(list(range(len(tokens)))), tokens),
        "number of merges": (len(merges), len(gguf.metadata["tokenizer.ggml.merges"])),
        "merges": (merges, list(gguf.metadata["tokenizer.ggml.merges"])),
    }
    for name, expected in special_ids(gguf).items():
        facts[name] = (getattr(tokenizer, f"{name}_id"), expected)
    start = [special_ids(gguf)["bos_token"]] if gguf.add_bos else []
    for text in SAMPLES:
        expected = start + reference_encode(text, gguf)
        facts[f"encoding of {text!r}"] = (tokenizer.encode(text), expected)
    kinds = gguf.metadata["tokenizer.ggml.token_type"]
    for token, kind in zip(tokens, kinds, strict=True):
        if kind == CONTROL:
            found = tokenizer.encode(token, add_special_tokens=False)
            facts[f"control token {token!r}"] = (found, [tokens.index(token)])
    for what, (found, expected) in facts.items():
        if found != expected:
            if isinstance(found, list) and len(found) == len(expected) > 20:
                found, expected = next(p for p in zip(found, expected, strict=True) if p[0] != p[1])
            raise UserError(
                f"{gguf.path.name}: the tokenizer differs from the file's metadata: {what} is "
                f"{found}, expected {expected}"
            )


def reference_encode(text: str, gguf: Gguf) -> list[int]:
    """Token ids of text without special tokens, by byte-level BPE as its authors describe it
    (Sennrich et al. 2016, Radford et al. 2019): slow, and independent of `tokenizers`."""
    import unicodedata

    import regex

    splitting = gguf.splitting
    ids = {token: i for i, token in enumerate(gguf.metadata["tokenizer.ggml.tokens"])}
    merges = enumerate(gguf.metadata["tokenizer.ggml.merges"])
    ranks = {tuple(merge.split(" ")): rank for rank, merge in merges}
    spelling = byte_spelling()
    pieces = [unicodedata.normalize("NFC", text) if splitting.nfc else text]
    for pattern in splitting.patterns:
        pieces = [p for piece in pieces for p in regex.split(f"({pattern})", piece) if p]
    encoded = []
    for piece in pieces:
        symbols = [spelling[byte] for byte in piece.encode()]
        if splitting.whole_pieces and "".join(symbols) in ids:
            symbols = ["".join(symbols)]
        while len(symbols) > 1:
            pairs = list(zip(symbols, symbols[1:], strict=False))
            best = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
            if pairs[best] not in ranks:
                break
            symbols[best : best + 2] = ["".join(pairs[best])]
        encoded += [ids[symbol] for symbol in symbols if symbol in ids]
    return encoded


def byte_spelling() -> dict[int, str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    moved = {byte: chr(256 + i) for i, byte in enumerate(others)}
    return {byte: moved.get(byte, chr(byte)) for byte in range(256)}
