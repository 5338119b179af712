"""A tokenizer specification -> the files of a Hugging Face tokenizer."""

import json
import math
import random
import shutil
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast

from .specs import TokenizerSpec

BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"

# Words that the corpora and the texts of the tasks are made of.
WORDS = (
    *("the", "cat", "sat", "on", "mat", "and", "dog", "ran", "to", "old", "red", "barn", "theory"),
    *("answer", "question", "is", "a", "colour", "10", "2", "300", "walking", "walk", "er", "ing"),
    *("naïve", "Größe", "кот", "水", "魚が", "🦆", "e\u0301", "don't", "A.", "B:", "(x)", "_", "%"),
)

NORMALIZERS = {
    "none": None,
    "nfc": normalizers.NFC(),
    "nfkc": normalizers.NFKC(),
    "lower": normalizers.Lowercase(),
}
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def write_tokenizer(spec: TokenizerSpec, folder: Path) -> int:
    """Write the tokenizer's files into the folder; return how many tokens it has."""
    made, size = _made(spec)
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return size


@cache
def _made(spec: TokenizerSpec) -> tuple[Path, int]:
    """Return a folder with the files, made once in a process."""
    tokenizer = Tokenizer.from_str(
        _trained(spec.kind, spec.corpus, spec.merges, spec.splits, spec.prefix_space)
    )
    _normalize(tokenizer, spec)
    names = {"bos": BOS, "eos": EOS}
    wanted = [name for name in ("bos", "eos") if spec.adds in (name, "both")]
    if wanted:
        begin = [names["bos"]] if "bos" in wanted else []
        end = [names["eos"]] if "eos" in wanted else []
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join([*begin, "$A", *end]),
            special_tokens=[(names[n], tokenizer.token_to_id(names[n])) for n in wanted],
        )
    special = {f"{name}_token": names[name] for name in ("bos", "eos") if getattr(spec, name)}
    if spec.kind != "bytes":
        special["unk_token"] = UNKNOWN
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special
    )
    fast.add_tokens(list(spec.added))
    folder = Path(_root().name) / f"{len(list(Path(_root().name).iterdir()))}"
    fast.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("tokenizer_class", None)
    if spec.named is not None:
        settings["tokenizer_class"] = spec.named
    if spec.flag is not None:
        settings["add_bos_token"] = spec.flag
    path.write_text(json.dumps(settings))
    return folder, len(fast)


@cache
def _root() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="frankenlab-fuzz-tokenizers-")


@cache
def _trained(kind: str, corpus: int, merges: int, splits: bool, prefix_space: bool) -> str:
    """Return the trained tokenizer as JSON, without normalizer and post-processor."""
    special = [BOS, EOS] if kind == "bytes" else [BOS, EOS, UNKNOWN]
    settings = {"special_tokens": special, "show_progress": False}
    if kind == "bytes":
        tokenizer = Tokenizer(BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=prefix_space, use_regex=splits
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=256 + len(special) + merges,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            **settings,
        )
    elif kind == "pieces":
        tokenizer = Tokenizer(BPE(unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme="first" if prefix_space else "never", split=splits
        )
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
        settings["special_tokens"] = [*special, *BYTES]
        trainer = trainers.BpeTrainer(vocab_size=len(special) + 256 + 60 + merges, **settings)
    else:
        tokenizer = Tokenizer(Unigram(_unigrams(corpus, special, merges), unk_id=2))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme="always" if prefix_space else "never", split=splits
        )
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.add_special_tokens(special)
        return tokenizer.to_str()
    tokenizer.train_from_iterator(_corpus(corpus), trainer)
    return tokenizer.to_str()


def _unigrams(corpus: int, special: list[str], count: int) -> list[tuple[str, float]]:
    """Return pieces with log-probabilities: all characters and the longest of the frequent strings.

    The library's own trainer gives other pieces every time, and a case must be replayed.
    """
    found: Counter[str] = Counter()
    for line in _corpus(corpus):
        text = "▁" + line.replace(" ", "▁")
        for size in range(1, 7):
            found.update(text[i : i + size] for i in range(len(text) - size + 1))
    total = found.total()
    order = sorted(found, key=lambda piece: (-found[piece] * len(piece), piece))
    kept = [p for p in order if len(p) == 1] + [p for p in order if len(p) > 1][:count]
    return [(token, 0.0) for token in special] + [(p, math.log(found[p] / total)) for p in kept]


def _normalize(tokenizer: Tokenizer, spec: TokenizerSpec) -> None:
    if (normalizer := NORMALIZERS[spec.normalizer]) is not None:
        tokenizer.normalizer = normalizer


def _corpus(number: int) -> list[str]:
    draw = random.Random(number)
    return [" ".join(draw.choices(WORDS, k=12)) for _ in range(20)]
