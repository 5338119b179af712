"""Check a task's other prompts before hours of search, and show what each of them looks like."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError
from frankenlab.tasks.draws import DrawnTask
from frankenlab.tasks.index import TaskSettings
from frankenlab.tasks.task import MIN_STAGE_DOCUMENTS, Document


def check_prompts(
    own: TaskSettings,
    others: Mapping[str, TaskSettings],
    tasks_folder: Path,
    limit: int | None,
    draw: int = 0,
) -> dict[str, dict[str, Any]]:
    """Return for a task's own prompt and its others by name how many confirm documents each has,
    how many of them all have, and the first request of one of those.

    Args:
        others: name -> the task under another prompt.
        limit, draw: see `evaluate.runner.evaluate_task`.

    Raises:
        UserError: a prompt cannot be made or scored (see `EvaluationTask`), two of them are the
            same word for word, or too few documents are left that no prompt has as an example.
    """
    found: dict[str, list[Document]] = {}
    for name, settings in {own.name: own, **others}.items():
        task = DrawnTask(settings, tasks_folder, draw)
        found[name] = task.documents(task.indices("confirm", limit))
    common = set.intersection(*({d.index for d in documents} for documents in found.values()))
    if len(common) < MIN_STAGE_DOCUMENTS:
        raise UserError(
            f'task "{own.name}": its prompts have {len(common)} confirm documents in common, at '
            f"least {MIN_STAGE_DOCUMENTS} are needed; take worked examples off, or raise the limit"
        )
    seen: dict[Sequence[tuple[tuple[str, ...], ...]], str] = {}
    made = {}
    for name, documents in found.items():
        requests = tuple(d.requests for d in documents if d.index in common)
        same = seen.setdefault(requests, name)
        if same != name:
            raise UserError(
                f'task "{name}": its prompts are those of "{same}", word for word; take it off, or '
                "write another one"
            )
        made[name] = {
            "documents": len(documents),
            "compared": len(common),
            "example": list(requests[0][0]),
        }
    return made
