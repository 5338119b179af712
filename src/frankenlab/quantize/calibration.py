"""Calibration text of a quantizer, kept apart from every document that is evaluated."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from frankenlab.config.experiment import Experiment
from frankenlab.config.settings import CalibrationSettings
from frankenlab.io.directories import verify_file
from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash
from frankenlab.models.quantization import Quantization
from frankenlab.tasks.data_files import read_data


def evaluation_excludes(experiment: Experiment, quantization: str) -> list[str]:
    """Return the texts that the weights were calibrated on: no evaluated document may hold one.

    Raises:
        UserError: as `calibration_texts`; the data file is not what its manifest says.
    """
    settings = experiment.calibration
    if settings is None or Quantization.parse(quantization).bits is None:
        return []
    return configured_texts(settings)


def configured_texts(settings: CalibrationSettings) -> list[str]:
    """Return the calibration texts that the config names.

    Raises:
        UserError: as `evaluation_excludes`.
    """
    file = Path(settings.file)
    verify_file(file)
    return calibration_texts(file, settings.field, settings.texts)


def calibration_texts(file: Path, field: str, count: int) -> list[str]:
    """Distinct texts of a data file's field, by falling hash of their content.

    Stages of tasks take documents by rising hash of their cluster: where the cluster is this field
    the two are disjoint as long as the limits leave room.

    Raises:
        UserError: the file is unreadable, the field is missing or holds no text, or there are
            fewer than `count` different texts.
    """
    data = read_data(Path(file))
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
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, rows: int, length: int
) -> torch.Tensor:
    """Texts one after the other, with the tokens that the tokenizer puts around each, cut into
    rows: int64 [rows, length]. What is left over is dropped.

    Raises:
        UserError: the texts have too few tokens.
    """
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
    """Sees that no document shares a calibration text: what the weights have seen proves nothing.

    Args:
        documents: JSON-able; a text may stand anywhere in one.

    Raises:
        UserError: one does.
    """
    for document in documents:
        written = json.dumps(document, ensure_ascii=False)
        found = next((t for t in texts if json.dumps(t, ensure_ascii=False)[1:-1] in written), None)
        if found is not None:
            raise UserError(
                f'{where}: a document holds a text that the weights were calibrated on ("'
                f'{found[:40]}…"); lower its limit or exl2.calibration.texts, or take another file'
            )
