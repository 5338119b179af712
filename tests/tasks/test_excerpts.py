"""Excerpts of documents, as people read them beside a plan's flips."""

import json

import pytest
import yaml

from frankenlab.tasks.excerpts import cut, excerpts
from frankenlab.tasks.index import TaskSettings
from tests.tasks.test_task_documents import CHOICE, GOOD, TEXT

pytestmark = pytest.mark.slow


def excerpted(folder, rows, keys, numbers):
    (folder / "own.yaml").write_text(yaml.safe_dump(keys))
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = TaskSettings("mine", "own", role="guard", metric="acc", data_file=file)
    return excerpts(settings, folder, numbers).to_dict("records")


def test_a_question_has_its_choices_and_the_right_one(tmp_path):
    rows = [GOOD, GOOD | {"q": "why\n so", "a": 2}, GOOD]
    assert excerpted(tmp_path, rows, CHOICE, [1]) == [
        {
            "task": "mine",
            "document": 1,
            "text": "why so",
            "choices": '["x", "y y", "z"]',
            "answer": "z",
        }
    ]
    assert excerpted(tmp_path, rows, CHOICE, []) == []


def test_an_answer_that_is_not_chosen_is_its_text(tmp_path):
    (found,) = excerpted(tmp_path, [GOOD | {"a": "end"}], TEXT, [0])
    assert (found["text"], found["choices"], found["answer"]) == ("what", "[]", "end")


def test_where_the_prompts_are_the_choices_the_shared_ending_is_the_text(tmp_path):
    keys = CHOICE | {"doc_to_text": "a", "doc_to_target": "q"}
    (found,) = excerpted(tmp_path, [GOOD], keys, [0])
    assert (found["text"], found["answer"]) == ("what", "y y")


def test_a_long_text_keeps_its_beginning_and_its_end():
    text = cut("begin " + "word " * 200 + "end?", 300)
    assert len(text) <= 300 and text.startswith("begin ") and text.endswith(" end?")
    assert cut("short", 300) == "short"
