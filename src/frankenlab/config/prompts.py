"""Other prompts of a task: each is the task again, with other keys that make its prompt."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from frankenlab.config.settings import PromptEntry
from frankenlab.io.errors import UserError
from frankenlab.tasks.index import TaskSettings
from frankenlab.tasks.yaml_files import task_keys

# Between the task's name and the prompt's, in which it cannot be.
AT = "@"
# The name of a task's own prompt.
OWN = "own"
# Keys that say where worked examples come from.
EXAMPLES = {"fewshot_config", "fewshot_split"}


class Variant(NamedTuple):
    """A task under another prompt; `settings` are those of a task named `task@prompt`."""

    task: str
    prompt: str
    settings: TaskSettings


def own_task(name: str) -> str:
    """Return the name of the task that a task, or a variant of it, is in the config."""
    return name.partition(AT)[0]


def variants(
    task: TaskSettings, entries: Mapping[str, PromptEntry], file: Path
) -> dict[str, Variant]:
    """Return a task under its other prompts, by names of the form `task@prompt`.

    Worked examples of a task with `data` are the first documents of its file, if nothing else says
    where they come from. They are then in no stage.

    Args:
        file: the task's YAML.

    Raises:
        UserError: a prompt says nothing, says what another one does, or runs code.
    """
    found: dict[str, Variant] = {}
    said: dict[str, str] = {}
    for prompt, entry in entries.items():
        where = f"config: tasks.{task.name}.prompts.{prompt}"
        keys = entry.plain()
        if prompt == OWN:
            raise UserError(f"{where}: {OWN} is the task's own prompt; take another name")
        if not keys:
            allowed = ", ".join(PromptEntry.model_fields)
            raise UserError(f"{where}: it says nothing; give it at least one of {allowed}")
        if (same := said.setdefault(repr(sorted(keys.items())), prompt)) != prompt:
            raise UserError(f"{where}: it is the same prompt as {same}; take one of them off")
        overrides = {**task.overrides, **keys}
        shots = keys.get("num_fewshot") and task.data_file and not task.fewshot_file
        if shots and not EXAMPLES & overrides.keys() and not _carries_examples(file):
            overrides["fewshot_config"] = {"sampler": "first_n"}
        own_shots = None if "num_fewshot" in keys else task.num_fewshot
        name = f"{task.name}{AT}{prompt}"
        try:
            settings = replace(task, name=name, num_fewshot=own_shots, overrides=overrides)
        except UserError as error:
            raise UserError(str(error).replace(f'task "{name}": overrides', where)) from None
        found[name] = Variant(task.name, prompt, settings)
    return found


def _carries_examples(file: Path) -> bool:
    """Tell whether a task's YAML, or one that it includes, carries worked examples of its own."""
    return "samples" in (task_keys(file).get("fewshot_config") or {})
