"""Prepare what exllamav2's converter is given: a model that it can convert, and texts."""

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import torch

from frankenlab.engines.exllamav2_loading import INSTALL, ROPE_TYPES, as_exllamav2_reads, rope_type
from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash, write_json
from frankenlab.io.fingerprints import library_versions
from frankenlab.io.parquet import write_parquet
from frankenlab.models.exl2.limits import check_outputs
from frankenlab.models.files import copy_companions, read_json, weight_files
from frankenlab.models.shape import ModelShape
from frankenlab.models.tokenizer import load_tokenizer

CONVERTER = (sys.executable, "-m", "exllamav2.conversion.convert_exl2")

# Its tokenizer may split a text into a few tokens fewer than ours counts.
TOKEN_MARGIN = 1.02


@dataclass(frozen=True)
class CalibrationRows:
    """The texts that fill `rows` rows of `length` tokens."""

    texts: tuple[str, ...]
    rows: int
    length: int

    @property
    def name(self) -> str:
        return f"texts of hash {content_hash(self.texts)}"


def why_unusable() -> str | None:
    """Return why exllamav2 cannot run here, in words that say what helps; None where it can.

    Does not import it: that would compile its extension, which takes minutes the first time.
    """
    if importlib.util.find_spec("exllamav2") is None:
        return f"exllamav2 is not installed; {INSTALL} installs it"
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


def check_convertible(model: Path) -> None:
    """Check that the converter does not garble a model that EXL2 can store.

    Raises:
        UserError: it would; the message names the key or the tensor.
    """
    config = read_json(model / "config.json")
    if config.get("mlp_bias"):
        raise UserError(f"{model}: mlp_bias is true; exllamav2 does not keep the MLP's biases")
    if (kind := rope_type(config)) not in ROPE_TYPES:
        known = ", ".join(ROPE_TYPES)
        raise UserError(f'{model}: rope type "{kind}"; exllamav2 computes {known} as it should be')
    shape = ModelShape.from_config(config)
    try:
        # Only of the head does the converter drop the columns that it pads with.
        check_outputs(shape, tuple(shape.layer_linears))
    except UserError as error:
        raise UserError(f"{model}: {error}") from None


def fill_rows(model: Path, texts: Sequence[str], rows: int, length: int) -> CalibrationRows:
    """Return as many texts as fill the rows; a row is never longer than the model's context.

    Raises:
        UserError: the texts do not fill one row.
    """
    context = read_json(model / "config.json").get("max_position_embeddings")
    length = min(length, int(context or length))
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
    return CalibrationRows(tuple(kept), filled, length)


def write_rows(rows: CalibrationRows, work: Path) -> str:
    """Write the texts as the converter reads them, and return the file's path.

    It joins the columns of a row, so there is one column.
    """
    path = work / "calibration.parquet"
    write_parquet(pyarrow.table({"text": pyarrow.array(rows.texts, pyarrow.string())}), path)
    return str(path)


def stage(model: Path, work: Path) -> str:
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
    copy_companions(model, folder)
    write_json(folder / "config.json", as_exllamav2_reads(read_json(model / "config.json")))
    return str(folder)


def installed_version() -> str:
    """Return exllamav2's version, "none" where it is not installed."""
    return library_versions(("exllamav2",))["exllamav2"]
