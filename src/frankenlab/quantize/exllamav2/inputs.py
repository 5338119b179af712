"""What exllamav2's converter is given: a model that it can convert, and texts, as it reads them."""

import importlib.util
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frankenlab.engines.exllamav2_loading import INSTALL, ROPE_TYPES, as_exllamav2_reads, rope_type
from frankenlab.io.directories import complete_manifest
from frankenlab.io.errors import UserError
from frankenlab.io.files import atomic_path, content_hash, write_json
from frankenlab.models.directory import check_llama_shaped, weights_hash
from frankenlab.models.exl2.format import ALIGNMENT, check_inputs
from frankenlab.models.files import TOKENIZER_FILES, read_json, weight_files
from frankenlab.models.shape import HEAD, ModelShape
from frankenlab.models.tokenizer import load_tokenizer

CONVERTER = (sys.executable, "-m", "exllamav2.conversion.convert_exl2")

# Its tokenizer may split a text into a few tokens fewer than ours counts.
TOKEN_MARGIN = 1.02

# Files beside the weights that are as good for the quantized model.
COMPANIONS = (*TOKENIZER_FILES, "generation_config.json", "chat_template.jinja", "LICENSE")


def exllamav2_usable() -> str | None:
    """Why exllamav2 cannot run here, in words that say what helps; None where it can.

    Does not import it: that would compile its extension, which takes minutes the first time.
    """
    if importlib.util.find_spec("exllamav2") is None:
        return f"exllamav2 is not installed; {INSTALL} installs it"
    import torch

    if not torch.cuda.is_available():
        return "exllamav2 runs on CUDA only, and torch finds no CUDA device here"
    if importlib.util.find_spec("exllamav2_ext") is None:
        from torch.utils.cpp_extension import CUDA_HOME

        if CUDA_HOME is None:
            return (
                "exllamav2 has to compile its extension, and there is no CUDA compiler here; "
                "install CUDA's toolkit (nvcc) or a wheel of exllamav2 that was built for this "
                "version of torch"
            )
    return None


@dataclass(frozen=True)
class Calibration:
    """The texts that fill `rows` rows of `length` tokens."""

    texts: tuple[str, ...]
    rows: int
    length: int

    @property
    def name(self) -> str:
        return f"texts of hash {content_hash(self.texts)}"


def check_job(model: Path, converter: Sequence[str]) -> dict[str, Any]:
    """The model's config.json, once it is known that the job can be done."""
    if tuple(converter) == CONVERTER and (why := exllamav2_usable()):
        raise UserError(f"{model}: {why}; the reference quantizer works without")
    check_llama_shaped(model)
    config = read_json(model / "config.json")
    if config.get("mlp_bias"):
        raise UserError(f"{model}: mlp_bias is true; exllamav2 does not keep the MLP's biases")
    if (kind := rope_type(config)) not in ROPE_TYPES:
        known = ", ".join(ROPE_TYPES)
        raise UserError(f'{model}: rope type "{kind}"; exllamav2 computes {known} as it should be')
    linears = ModelShape.from_config(config).linears
    for name, (_, inputs) in linears.items():
        try:
            check_inputs(name, inputs)
        except UserError as error:
            raise UserError(f"{model}: {error}") from None
    for name, (outputs, _) in linears.items():
        # Of the head alone exllamav2 drops the columns that it pads with.
        if outputs % ALIGNMENT and name != HEAD:
            raise UserError(
                f"{model}: tensor '{name}': {outputs} outputs; exllamav2 takes multiples of "
                f"{ALIGNMENT}"
            )
    return config


def calibrate(
    model: Path, config: Mapping[str, Any], texts: Sequence[str], rows: int, length: int
) -> Calibration:
    """As many texts as fill the rows; a row is never longer than the model's context."""
    length = min(length, int(config.get("max_position_embeddings") or length))
    tokenizer = load_tokenizer(model)
    kept: list[str] = []
    tokens = 0
    for text in texts:
        if tokens >= rows * length * TOKEN_MARGIN:
            break
        if text.strip():
            tokens += len(tokenizer.encode(text, add_special_tokens=False, verbose=False))
            kept.append(text)
    filled = min(rows, int(tokens / TOKEN_MARGIN / length))
    if not filled:
        raise UserError(
            f"the calibration texts have {tokens} tokens for {model}; one row takes {length} "
            f"(and up to {rows} rows are used)"
        )
    return Calibration(tuple(kept), filled, length)


def write_parquet(calibration: Calibration, work: Path) -> str:
    """exllamav2 joins the columns of a row, so there is one column."""
    import pyarrow
    from pyarrow import parquet

    path = work / "calibration.parquet"
    table = pyarrow.table({"text": pyarrow.array(calibration.texts, pyarrow.string())})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary)
    return str(path)


def identity(
    model: Path, config: Mapping[str, Any], calibration: Calibration, converter: Sequence[str]
) -> dict[str, Any]:
    """What a job must have in common with one that was broken off, to go on from there."""
    weights = [
        [path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in weight_files(model)
    ]
    return {
        "model": content_hash([str(model.resolve()), config, weights]),
        "calibration": [calibration.name, calibration.rows, calibration.length],
        "converter": [*converter, installed_version()],
    }


def model_hash(model: Path, config: Mapping[str, Any]) -> str:
    """Of the weights where the directory has a manifest, else of the config alone."""
    manifest = complete_manifest(model)
    return content_hash(config) if manifest is None else weights_hash(manifest)


def stage(model: Path, config: Mapping[str, Any], work: Path) -> str:
    """Make a folder of what the converter may see of the model, and return its path.

    The converter copies every file that is no tensor, stale indices and read-only modes too, and
    loads every safetensors file.
    """
    folder = work / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in weight_files(model):
        # It does not look into folders, where an index may have its shards.
        name = path.relative_to(model).as_posix().replace("/", "-")
        (folder / name).symlink_to(path.resolve())
    for name in COMPANIONS:
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)
    write_json(folder / "config.json", as_exllamav2_reads(config))
    return str(folder)


def installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("exllamav2")
    except PackageNotFoundError:
        return "not installed"
