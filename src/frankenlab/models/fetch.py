"""Models and data from their source to a directory with a manifest."""

import glob
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frankenlab.io.directories import make_directory
from frankenlab.io.errors import UserError
from frankenlab.io.files import write_json
from frankenlab.io.fingerprints import (
    CONVERSION_LIBRARIES,
    MESSAGES,
    code_fingerprint,
    library_versions,
)
from frankenlab.models.data_sets import DataSet, fetch_data_set
from frankenlab.models.directory import check_depth, check_llama_shaped, check_sizes, model_shape
from frankenlab.models.download import fetch_files, hub_commit
from frankenlab.models.files import CONFIG, MODEL_FILES, read_json, shards_to_fetch
from frankenlab.models.model_config import with_old_rope_keys
from frankenlab.models.shape import ModelShape
from frankenlab.models.sources import (
    DATA_FILES,
    Source,
    is_gguf,
    source_from_config,
    source_key,
)
from frankenlab.models.tokenizer import check_vocabulary, load_tokenizer, warn_of_other_tokens

log = logging.getLogger(__name__)

# The first bytes of a GGUF file, whatever its name.
GGUF_MAGIC = b"GGUF"
# In the manifest of a converted model. Directories without it were made when headers were taken on
# trust: they are made again. To be renamed when the same file is converted into another model.
CONVERSION = "gguf_header_checked"
# Beside the manifest: what converted the GGUF file. It is no part of the manifest, so that another
# version that makes the same model makes nothing else stale.
CONVERTED_BY = ".converted-by.json"


def fetch_model(
    source: Source,
    target_dir: str | os.PathLike,
    n_layers: int | None,
    description: str,
    sizes: ModelShape | None = None,
) -> dict[str, Any]:
    """Make `target_dir` a Hugging Face directory with the model of `source`.

    A GGUF file is converted. Other files come as distributed (those of a local directory as
    links), except that config.json says rotary parameters also where older readers look. A
    directory that is complete, by its hashes too, is kept.

    Args:
        n_layers: the depth that the configuration declares; None takes any.
        description: what the model is, in the user's words, for manifest and report.
        sizes: the shapes that the configuration declares, which predictions rest on; None takes
            any.

    Returns:
        The manifest (see `directories.make_directory`), with `made`: how the weights came about,
        and `shape`: see `ModelShape.to_manifest`.

    Raises:
        UserError: the source is not available, or is not a model that can be worked with.
    """
    facts = _facts("model", source, description)

    def fill(directory: Path) -> Mapping[str, Any]:
        try:
            return _fill_model(source, directory)
        except UserError as error:
            # A temporary directory means nothing to a user.
            raise UserError(str(error).replace(str(directory), source.text)) from error

    record = Path(target_dir) / CONVERTED_BY
    outdated = record.is_file() and read_json(record) != conversion()
    refresh = source.kind == "path" or outdated
    filled = ("shape", CONVERSION) if is_gguf(source) else ("shape",)
    manifest = make_directory(target_dir, facts, fill, refresh=refresh, filled=filled)
    if CONVERSION in manifest:
        write_json(record, conversion())
    check_depth(manifest["n_layers"], n_layers, source.text)
    if sizes is not None:
        check_sizes(manifest["shape"], sizes, source.text)
    return manifest


def conversion() -> dict[str, Any]:
    """Return what differs where a GGUF file may be converted into another model."""
    return {
        "code": code_fingerprint("frankenlab.models.gguf.conversion", without=MESSAGES),
        "libraries": library_versions(CONVERSION_LIBRARIES),
    }


def fetch_data(
    source: Source | DataSet, target: str | os.PathLike, description: str = ""
) -> dict[str, Any]:
    """Fetch a data source into the directory `target`, files under their names in the source; of a
    data set of the hub, a file per split.

    A directory that is complete, by its hashes too, is kept. A local source is linked, not copied;
    it can change, so it is always looked at again.

    Returns:
        The manifest (see `directories.make_directory`).

    Raises:
        UserError: the source is not available, or is not what was expected.
    """
    if isinstance(source, DataSet):
        return fetch_data_set(source, target)
    facts = _facts("data", source, description) | {"made": "files as distributed"}

    def fill(directory: Path) -> Mapping[str, Any]:
        return fetch_files(source, directory, source.include or DATA_FILES, "data")

    return make_directory(target, facts, fill, refresh=source.kind == "path")


def model_of_hub(name: str, revision: str = "main") -> Source:
    """Return a model of the Hugging Face hub as a source, at the commit that a branch or a tag
    names now.

    Raises:
        UserError: it is no name of a repository, or the hub does not say.
    """
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        source_from_config({"hub": name, "revision": "0" * 40}, f'model "{name}"', "model")
        revision = hub_commit(name, revision)
    return source_from_config({"hub": name, "revision": revision}, f'model "{name}"', "model")


def _facts(kind: str, source: Source, description: str) -> dict[str, Any]:
    key = source_key(source)
    return {"kind": kind, "key": key, "source": source.text, "description": description}


def _fill_model(source: Source, directory: Path) -> dict[str, Any]:
    if source.kind == "path" and Path(source.location).expanduser().is_dir() and not source.file:
        # Named as the user knows it, and before its pickles and leftovers drop out of sight.
        check_llama_shaped(Path(source.location).expanduser())
    with tempfile.TemporaryDirectory(prefix=".source-", dir=directory) as folder:
        facts: dict[str, Any] = dict(fetch_files(source, Path(folder), MODEL_FILES, "model"))
        gguf = next(filter(_is_gguf, sorted(Path(folder).rglob("*"))), None)
        if gguf is not None:
            # Imported here: torch takes seconds, and data are fetched without.
            from frankenlab.models.gguf.conversion import convert_gguf, read_gguf

            log.info("%s: converting to a Hugging Face directory", source.text)
            made = convert_gguf(read_gguf(gguf), directory)
            made = f"weights as distributed: {made}; not the original checkpoint"
            facts[CONVERSION] = True
        else:
            _fetch_shards(source, Path(folder))
            made = "files as distributed"
            for path in Path(folder).iterdir():
                path.rename(directory / path.name)
    config = read_json(directory / CONFIG)
    if (repaired := with_old_rope_keys(config)) != config:
        write_json(directory / CONFIG, repaired)
        added = " and ".join(key for key in repaired if repaired[key] != config.get(key))
        made += f"; {added} added to config.json"
    log.info("%s: checking the model", source.text)
    shape = model_shape(directory)
    tokenizer = load_tokenizer(directory)
    check_vocabulary(tokenizer, shape.vocab_size, source.text)
    warn_of_other_tokens(tokenizer, directory, source.text)
    return {"made": made, "n_layers": shape.n_layers, "shape": shape.to_manifest(), **facts}


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return path.suffix == ".gguf" or handle.read(len(GGUF_MAGIC)) == GGUF_MAGIC


def _fetch_shards(source: Source, folder: Path) -> None:
    """Fetch the shards that the index names, where the weights are in shards; a repository may
    hold those of an earlier upload too."""
    if names := shards_to_fetch(folder):
        fetch_files(source, folder, [glob.escape(name) for name in names], "model")
