"""Checks of a task's documents, where lm-eval would score nonsense without an error.

It warns of a right answer that is none of the choices, and scores it as wrong. In the place of a
missing column's value it shows the column's name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import UndefinedError
from lm_eval.api.task import Task

from frankenlab.io.errors import UserError, describe, one_line

# A text that reads like the name of a column, and not like a sentence or a template.
_COLUMN = re.compile(r"[A-Za-z_]\w*")


class _Wrong(Exception):  # noqa: N818 (it never leaves this module)
    """A key of the task is wrong for a document; the message says how."""


def check_documents(task: Task, docs: Iterable[Mapping[str, Any]], where: str) -> None:
    """Check that lm-eval's prompt, choices and right answer make sense for every document.

    Raises:
        UserError: they do not; names the document by its number, the key of the task and its field.
    """
    for index, doc in enumerate(docs):
        try:
            _check(task, doc)
        except _Wrong as wrong:
            raise UserError(f"{where}: document {index}: {wrong}") from wrong.__cause__


def check_example(task: Task, doc: Mapping[str, Any], where: str) -> None:
    """Check that the answer of a few-shot example is one of its choices.

    Raises:
        UserError: it is not.
    """
    form = task.fewshot_cfg
    try:
        target = _value(task, "doc_to_target", doc, form.doc_to_target)
        if target is None:
            raise _Wrong(f"{_key(task, 'doc_to_target', form.doc_to_target)}: it is null")
        if form.doc_to_choice and type(target) is int:
            choices = _value(task, "doc_to_choice", doc, form.doc_to_choice)
            _check_gold(target, choices, _key(task, "doc_to_target", form.doc_to_target))
    except _Wrong as wrong:
        raise UserError(f"{where}: few-shot example {dict(doc)!r:.80}…: {wrong}") from wrong


def _check(task: Task, doc: Mapping[str, Any]) -> None:
    text = _value(task, "doc_to_text", doc)
    target = _value(task, "doc_to_target", doc)
    if task.OUTPUT_TYPE == "multiple_choice":
        _check_choice(task, text, target, _value(task, "doc_to_choice", doc))
        return
    _check_text(text, _key(task, "doc_to_text"))
    _check_text(target, _key(task, "doc_to_target"))
    _check_column(task, "doc_to_target")
    if task.OUTPUT_TYPE == "loglikelihood" and not target:
        raise _Wrong(f"{_key(task, 'doc_to_target')}: the text to be scored is empty")


def _check_choice(task: Task, text: Any, target: Any, choices: Any) -> None:
    key = _key(task, "doc_to_choice")
    if not isinstance(choices, list | tuple):
        raise _Wrong(f"{key}: a list of choices is expected, not {_shown(choices)}")
    if not choices:
        raise _Wrong(f"{key}: there are no choices")
    for number, choice in enumerate(choices):
        if not isinstance(choice, str):
            raise _Wrong(f"{key}: choice {number} is no text but {_shown(choice)}")
        if not choice:
            raise _Wrong(f"{key}: choice {number} is empty")
    if task.multiple_input:
        # The prompts are the choices; the number of the right one is in the place of the text.
        _check_gold(text, choices, _key(task, "doc_to_text"))
        if target is None or target == "":
            raise _Wrong(f"{_key(task, 'doc_to_target')}: the text to be scored is {target!r}")
        return
    _check_text(text, _key(task, "doc_to_text"))
    if callable(task.config.process_results):
        return
    key = _key(task, "doc_to_target")
    if target not in choices:
        _check_column(task, "doc_to_target")
    if isinstance(target, list) != bool(task.multiple_target):
        form = "several" if task.multiple_target else "one"
        raise _Wrong(f"{key}: {_shown(target)}, where the first document has {form} right answers")
    for gold in target if isinstance(target, list) else [target]:
        _check_gold(gold, choices, key, texts=not isinstance(target, list))


def _check_gold(gold: Any, choices: Sequence[str], key: str, texts: bool = False) -> None:
    if texts and isinstance(gold, str):
        if gold not in choices:
            raise _Wrong(
                f"{key}: the right answer {_shown(gold)} is none of {list(choices)!r:.120}"
            )
    elif not isinstance(gold, int | np.integer):
        raise _Wrong(f"{key}: the right answer is {_shown(gold)}, not the number of a choice")
    elif not 0 <= gold < len(choices):
        raise _Wrong(
            f"{key}: the right answer is choice {gold}, and there are choices 0 to "
            f"{len(choices) - 1}"
        )


def _check_text(value: Any, key: str) -> None:
    if not isinstance(value, str):
        raise _Wrong(f"{key}: a text is expected, not {_shown(value)}")


def _check_column(task: Task, key: str) -> None:
    """Refuse the name of a column that is not there, which lm-eval would take for the text."""
    given = getattr(task.config, key)
    if isinstance(given, str) and _COLUMN.fullmatch(given) and given not in task.features:
        columns = ", ".join(task.features)
        raise _Wrong(f"{key}: the data have no column {given}; they have {columns}")


def _value(task: Task, key: str, doc: Mapping[str, Any], form: Any = None) -> Any:
    """Return what lm-eval makes of a document for this key."""
    if key != "doc_to_target":
        _check_column(task, key)
    try:
        return getattr(task, key)(doc, form)
    except Exception as error:  # of any kind: it runs the task's templates and functions
        nulls = [name for name, value in doc.items() if value is None]
        hint = f"; null in it: {', '.join(nulls)}" if nulls else ""
        if not nulls and isinstance(error, UndefinedError):
            hint = f"; the data have {', '.join(doc)}"
        raise _Wrong(f"{_key(task, key, form)}: {describe(error)}{hint}") from error


def _key(task: Task, key: str, form: Any = None) -> str:
    """Return the key with the field or template that it stands for."""
    given = getattr(task.config, key) if form is None else form
    return f"{key} ({one_line(given)[:80]})" if isinstance(given, str) else key


def _shown(value: Any) -> str:
    return "null" if value is None else f"{value!r:.60}"
