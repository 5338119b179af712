"""Choose the text that a quantizer sees, and keep it apart from the documents of evaluations."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frankenlab.config.experiment import Experiment
from frankenlab.io.directories import verify_file
from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash
from frankenlab.models.quantization import Quantization
from frankenlab.tasks.data_files import read_data

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def evaluation_excludes(experiment: Experiment, quantization: str) -> list[str]:
    """Return the texts that the weights were calibrated on: no evaluated document may hold one.

    Raises:
        UserError: see `configured_texts`.
    """
    calibrated = experiment.calibration is not None
    if not calibrated or Quantization.parse(quantization).bits is None:
        return []
    return configured_texts(experiment)


def configured_texts(experiment: Experiment) -> list[str]:
    """Return the calibration texts that the config names.

    Raises:
        UserError: see `calibration_texts`; the data file is not what its manifest says.
    """
    settings = experiment.calibration
    assert settings is not None, "nothing is quantized in this experiment"
    file = Path(settings.file)
    verify_file(file)
    return calibration_texts(file, settings.field, settings.texts)


def calibration_texts(file: Path, field: str, count: int) -> list[str]:
    """Return distinct texts of a data file's field, by falling hash of their content.

    Stages of tasks take documents by rising hash of their cluster. Where the cluster is this field,
    the two are disjoint as long as the limits leave room.

    Raises:
        UserError: the file is unreadable, the field is missing or holds something else than text,
            or there are fewer than `count` different texts.
    """
    data = read_data(file)
    if field not in data.column_names:
        fields = ", ".join(data.column_names)
        raise UserError(f'{file}: calibration field "{field}" is missing; it has {fields}')
    texts = set(data[field])
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f'{file}: calibration field "{field}" must hold text in every row')
    texts.discard("")
    if not 1 <= count <= len(texts):
        raise UserError(
            f'{file}: {count} calibration texts asked for; field "{field}" allows 1 to {len(texts)}'
        )
    # The text itself breaks ties of the shortened hash.
    return sorted(texts, key=lambda text: (content_hash(text), text), reverse=True)[:count]


def calibration_rows(
    texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", rows: int, length: int
) -> "torch.Tensor":
    """Return the tokens of the texts, one after the other, cut into rows: int64 [rows, length].

    Each text has the tokens that the tokenizer puts around it. What is left over is dropped.

    Raises:
        UserError: the texts have too few tokens.
    """
    # Imported here: evaluations reach this module too, and torch takes seconds.
    import torch

    needed = rows * length
    tokens: list[int] = []
    for text in texts:
        tokens += tokenizer(text)["input_ids"]
        if len(tokens) >= needed:
            return torch.tensor(tokens[:needed]).reshape(rows, length)
    raise UserError(
        f"calibration: {len(texts)} texts have {len(tokens)} tokens, {rows} rows of {length} need "
        f"{needed}; use more texts, or fewer or shorter rows"
    )


def check_disjoint(texts: Sequence[str], documents: Sequence[object], where: str) -> None:
    """Check that no document holds a calibration text: what the weights have seen proves nothing.

    Args:
        documents: values that JSON can hold; a text may stand anywhere in one.
        where: what the documents belong to, for the message.

    Raises:
        UserError: a document holds one.
    """
    for document in documents:
        written = json.dumps(document, ensure_ascii=False)
        found = next((t for t in texts if json.dumps(t, ensure_ascii=False)[1:-1] in written), None)
        if found is not None:
            raise UserError(
                f'{where}: a document holds a text that the weights were calibrated on ("'
                f'{found[:40]}…"); lower its limit or exl2.calibration.texts, or take another file'
            )
