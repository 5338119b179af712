"""Calibration text: which, in what order, cut how."""

import json

import pytest
import torch

from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.quantize.calibration import calibration_rows, calibration_texts
from frankenlab.tasks.index import TaskSettings
from frankenlab.tasks.task import EvaluationTask
from tests.support.processes import one_line

TEXTS = [f"Passage {i}: the river runs past the old mill." for i in range(40)]


def data_file(folder, texts):
    path = folder / "data.jsonl"
    lines = [json.dumps({"passage": text, "id": i}) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_distinct_texts_by_falling_hash(tmp_path):
    path = data_file(tmp_path, TEXTS + TEXTS[:10])
    expected = sorted(TEXTS, key=content_hash, reverse=True)
    assert calibration_texts(path, "passage", 40) == expected
    assert calibration_texts(path, "passage", 7) == expected[:7]


def test_texts_and_a_limited_stage_are_disjoint(tmp_path):
    """A stage takes its documents from the other end of the same order."""
    path = data_file(tmp_path, TEXTS)
    (tmp_path / "passages.yaml").write_text(
        "task: passages\ndataset_path: json\noutput_type: loglikelihood_rolling\n"
        "validation_split: validation\ndoc_to_text: ''\ndoc_to_target: '{{passage}}'\n"
        "metric_list:\n  - metric: word_perplexity\n"
    )
    settings = TaskSettings(
        name="passages",
        task="passages",
        role="guard",
        metric="word_perplexity",
        cluster="passage",
        split="validation",
        data_file=path,
    )
    task = EvaluationTask(settings, tmp_path)
    documents = task.documents(task.indices("confirm", 25))
    evaluated = {document.requests[0][0] for document in documents}
    texts = calibration_texts(path, "passage", 15)
    assert len(evaluated) == 25 and evaluated.isdisjoint(texts)
    assert evaluated | set(texts) == set(TEXTS)


def test_too_few_texts_or_no_such_field_are_refused(tmp_path):
    path = data_file(tmp_path, [*TEXTS, ""])
    for count in (41, 0):
        with pytest.raises(UserError) as error:
            calibration_texts(path, "passage", count)
        assert "allows 1 to 40" in one_line(error) and "data.jsonl" in one_line(error)
    with pytest.raises(UserError) as error:
        calibration_texts(path, "text", 3)
    assert '"text" is missing; it has passage, id' in one_line(error)
    with pytest.raises(UserError) as error:
        calibration_texts(path, "id", 3)
    assert "must hold text" in one_line(error)


def test_rows_are_the_texts_one_after_the_other(tiny):
    tokenizer = load_tokenizer(tiny())
    rows = calibration_rows(TEXTS, tokenizer, 5, 32)
    assert rows.shape == (5, 32) and rows.dtype == torch.int64
    joined = [token for text in TEXTS for token in tokenizer(text)["input_ids"]]
    assert rows.flatten().tolist() == joined[:160]


def test_each_text_has_the_tokens_that_the_tokenizer_puts_around_it():
    def tokenizer(text):
        return {"input_ids": [0, *map(int, text.split()), 1]}

    rows = calibration_rows(["5 6", "7"], tokenizer, 1, 7)
    assert rows.tolist() == [[0, 5, 6, 1, 0, 7, 1]]


def test_too_few_tokens_are_refused(tiny):
    with pytest.raises(UserError) as error:
        calibration_rows(TEXTS[:2], load_tokenizer(tiny()), 5, 320)
    assert "2 texts" in one_line(error) and "5 rows of 320 need 1600" in one_line(error)
