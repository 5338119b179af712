"""Synthetic rows in the schemas of real tasks, and the settings of tasks made of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frankenlab.config.experiment import TASKS_FOLDER
from frankenlab.tasks.index import TaskSettings
from frankenlab.tasks.task import EvaluationTask
from tests.support.tiny import CORPUS

WORDS = CORPUS.split()


def passage(number: int, n_words: int) -> str:
    """A text of the tiny tokenizer's own words, different for every number."""
    return " ".join(WORDS[(7 * number + i * (1 + number % 5)) % len(WORDS)] for i in range(n_words))


def arc_row(number: int) -> dict[str, Any]:
    """A question in ARC's schema, with four choices of which one begins another."""
    words = passage(number, 12).split()
    choices = [words[0], f"{words[0]} {words[1]}", words[5], " ".join(words[6:9])]
    return {
        "id": f"q{number}",
        "question": f"{passage(number, 5 + number % 7)} {number}?",
        "choices": {"text": choices, "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[number % 4],
    }


def winogrande_row(number: int) -> dict[str, Any]:
    """A sentence in WinoGrande's schema: the choices are different contexts of one ending."""
    return {
        "sentence": f"{passage(number, 6)} {number} _ {passage(number + 1, 4)}",
        "option1": WORDS[number % len(WORDS)],
        "option2": " ".join(WORDS[number % 50 + 3 : number % 50 + 5]),
        "answer": "12"[number % 2],
    }


def lambada_row(number: int) -> dict[str, Any]:
    return {"text": f"{number} {passage(number, 10 + number % 9)}"}


def boolq_row(number: int) -> dict[str, Any]:
    """A question in BoolQ's schema: two questions share a passage."""
    return {
        "question": f"is it {number}",
        "passage": f"{number // 2} {passage(number // 2, 15 + number // 2 % 30)}",
        "answer": number % 2 == 0,
    }


# lm-eval's name of a task (ours for the last) -> rows in its schema and its primary metric.
TASKS = {
    "arc_easy": (arc_row, "acc"),
    "winogrande": (winogrande_row, "acc"),
    "lambada_openai": (lambada_row, "acc"),
    "boolq_passages": (boolq_row, "word_perplexity"),
}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def task_settings(folder: Path, name: str = "arc_easy", n: int = 12, **changes) -> TaskSettings:
    """Settings of one of `TASKS` with `n` synthetic rows in a file of `folder`; a guard task
    unless `changes` say otherwise, so that few rows are enough."""
    make_row, metric = TASKS[name]
    file = write_rows(folder / f"{name}-{n}.jsonl", [make_row(i) for i in range(n)])
    given = {"name": name, "task": name, "role": "guard", "metric": metric, "data_file": file}
    return TaskSettings(**(given | changes))


def load_task(settings: TaskSettings) -> EvaluationTask:
    return EvaluationTask(settings, TASKS_FOLDER)
