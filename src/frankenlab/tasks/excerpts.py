"""Excerpts of a task's documents, for people to read beside what a plan made of them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from frankenlab.tasks.index import TaskSettings
from frankenlab.tasks.loading import load_task

# The most characters of a text, and of an answer.
TEXT, ANSWER = 300, 120


def excerpts(settings: TaskSettings, tasks_folder: Path, numbers: Iterable[int]) -> pd.DataFrame:
    """Return what a task asks and its right answer, for some of its documents.

    Args:
        numbers: of documents, in lm-eval's order.

    Returns:
        Columns task, document, text (without few-shot examples), choices (a JSON list; empty where
        an answer is not chosen) and answer; long ones are cut.

    Raises:
        UserError: the task cannot be loaded (see `load_task`).
    """
    task = load_task(settings, tasks_folder)
    wanted = set(numbers)
    rows = []
    for number, doc in enumerate(task.eval_docs if wanted else []):
        if number not in wanted:
            continue
        text, target = task.doc_to_text(doc), task.doc_to_target(doc)
        choices = task.doc_to_choice(doc) if task.OUTPUT_TYPE == "multiple_choice" else []
        if task.multiple_input:
            # The prompts are the choices; the number of the right one is in the place of the text.
            text, target = target, text
        golds = target if isinstance(target, list) else [target]
        rows.append(
            {
                "task": settings.name,
                "document": number,
                "text": cut(text, TEXT),
                "choices": json.dumps([cut(c, ANSWER) for c in choices], ensure_ascii=False),
                "answer": " / ".join(cut(_answer(gold, choices), ANSWER) for gold in golds),
            }
        )
    return pd.DataFrame(rows, columns=["task", "document", "text", "choices", "answer"])


def cut(text: Any, length: int) -> str:
    """Return a text of at most `length` characters: its beginning and its end, where it is longer.

    Questions often stand at the end.
    """
    text = " ".join(str(text).split())
    if len(text) <= length:
        return text
    half = (length - 3) // 2
    return f"{text[:half]} … {text[-half:]}"


def _answer(gold: Any, choices: list[str]) -> str:
    return str(gold if isinstance(gold, str) else choices[gold])
