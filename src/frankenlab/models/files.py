"""Which files of a model's directory are read, and its JSON files."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frankenlab.io.directories import is_safe_name
from frankenlab.io.errors import UserError, excerpt, one_line

# Unpickling runs code, and so does importing: such files are never taken from anywhere.
NEVER = re.compile(r"\.(bin|pt|pth|ckpt|pkl|pickle|joblib|npy|npz|h5|msgpack|py|pyc|so)$", re.I)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
EXL2_WEIGHTS = "output*.safetensors"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt"),
)
ALLOWED = (
    "allowed: a Llama, Mistral or Qwen2 model with full attention and unquantized or EXL2 weights "
    "in safetensors"
)
# Files of a model that change nothing about what it computes from a text.
WITHOUT_EFFECT = ("LICENSE*", "NOTICE*", "generation_config.json", "chat_template.jinja")
# What a model that is made of another one has from it.
COMPANIONS = (*TOKENIZER_FILES, *WITHOUT_EFFECT)
# A model's directory consists of these files and of the shards that its index names; whatever else
# is in a repository stays there.
MODEL_FILES = (CONFIG, WEIGHTS, INDEX, EXL2_WEIGHTS, *COMPANIONS)
# Where config.json says how the weights are quantized, and what it calls EXL2.
QUANTIZATION, EXL2 = "quantization_config", "exl2"


def weight_files(directory: str | os.PathLike) -> list[Path]:
    """Return the files that hold the weights of a model's directory.

    They are those that transformers reads: model.safetensors, or else the shards that
    model.safetensors.index.json names, whatever their names are. Shards of an earlier upload,
    consolidated.safetensors or adapters beside them are not the model's weights.

    exllamav2 writes output*.safetensors and no index, and others rename them. An index in an EXL2
    directory is the unquantized model's, which its converter copies: it is never read.

    Raises:
        UserError: there are none, or the index names files that are not there.
    """
    directory = Path(directory)
    quantized = sorted(directory.glob(EXL2_WEIGHTS))
    if declares_exl2(read_json(directory / CONFIG)):
        files = quantized or sorted(directory.glob("*.safetensors"))
        if not files:
            raise UserError(f"{directory}: it has no output.safetensors")
        return files
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    names = shard_names(directory)
    absent = [name for name in names if not (directory / name).is_file()]
    # Early versions of exllamav2 declared nothing, and copied the index too.
    if quantized and (absent or not names):
        return quantized
    if not names:
        pickled = sorted(p.name for p in directory.glob("*") if NEVER.search(p.name))
        reason = f", only {pickled[0]} (pickled weights are never loaded)" if pickled else ""
        raise UserError(f"{directory}: it has no {WEIGHTS}{reason}; {ALLOWED}")
    if absent:
        raise UserError(f"{directory}: {INDEX} names '{excerpt(absent[0])}', which is not there")
    return [directory / name for name in names]


def shard_names(directory: Path) -> list[str]:
    """Return the files that a directory's index of shards names, relative to the directory; none
    without an index.

    Raises:
        UserError: it is no such index, or a name is not that of a safetensors file in there.
    """
    index = directory / INDEX
    if not index.is_file():
        return []
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index}: it needs a weight_map of tensors and the files that hold them")
    for name in places.values():
        if not isinstance(name, str) or not is_safe_name(name):
            raise UserError(f"{directory}: {INDEX} names '{excerpt(name)}', which is not there")
        if not name.endswith(".safetensors"):
            raise UserError(f"{directory}: {INDEX} names '{name}', which is no safetensors file")
    return sorted(set(places.values()))


def shards_to_fetch(directory: Path) -> list[str]:
    """Return the names of the shards that a directory needs beside `MODEL_FILES`.

    Raises:
        UserError: as `shard_names`.
    """
    if (directory / WEIGHTS).is_file() or any(directory.glob(EXL2_WEIGHTS)):
        return []
    return shard_names(directory)


def identity_files(directory: str | os.PathLike) -> dict[str, Path]:
    """Return the files that decide what a model computes from a text, by their relative names.

    Raises:
        UserError: as `weight_files`.
    """
    directory = Path(directory)
    tokenizer = [directory / name for name in TOKENIZER_FILES]
    files = [directory / CONFIG, *weight_files(directory), *filter(Path.is_file, tokenizer)]
    return {path.relative_to(directory).as_posix(): path for path in files}


def copy_companions(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copy the files of a model that one made of it keeps: tokenizer, chat template, license."""
    for pattern in COMPANIONS:
        for path in filter(Path.is_file, Path(source).glob(pattern)):
            # Not its mode, which may be read-only.
            shutil.copyfile(path, Path(target) / path.name)


def declares_exl2(config: Mapping[str, Any]) -> bool:
    """Tell whether a config.json says that the weights are EXL2."""
    declared = config.get(QUANTIZATION)
    return isinstance(declared, Mapping) and declared.get("quant_method") == EXL2


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        UserError: the file is missing, is not UTF-8 or not JSON, names a key twice, or holds
            something else than an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=_without_repeats)
    except FileNotFoundError:
        raise UserError(f"{path.parent}: it has no {path.name}; {ALLOWED}") from None
    except RecursionError:
        raise UserError(f"{path}: not readable as JSON (it is nested too deeply)") from None
    except (ValueError, OSError) as error:
        reason = one_line(error)
        raise UserError(f"{path}: not readable as JSON ({reason})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: it must hold a JSON object")
    return value


def write_settings(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file as transformers does, with its keys in order."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict; raise where a key is there twice, of which readers differ in
    which value they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"it has the key {repeated!r} twice")
    return found
