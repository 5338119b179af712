"""Stamps: small files whose contents decide what is stale.

A stamp is an input of jobs. Snakemake compares its checksum, so a job is stale exactly when the
contents change, and results that are copied without Snakemake's metadata take their stamps with
them. A run writes the stamps that its jobs need. A dry run, a report and a summary must write
nothing: where a stamp would change, a temporary file takes its place among the inputs. It is newer
than every output, so that Snakemake shows what a run would do.
"""

import atexit
import os
import tempfile
from pathlib import Path
from typing import Any

from frankenlab.config.experiment import TASKS_FOLDER, Experiment
from frankenlab.config.settings import CalibrationSettings, DataEntry
from frankenlab.io.files import write_if_changed
from frankenlab.models.data_sets import local_files
from frankenlab.models.sources import file_identity
from frankenlab.tasks.index import task_file
from frankenlab.tasks.yaml_files import task_fingerprint, task_keys

# Keys of a task that change none of its prompts.
_NOT_ITS_PROMPT = ("prompts", "limit")


class Stamps:
    """The stamps in one folder."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self._folder = Path(folder)
        self._temporary: tempfile.TemporaryDirectory | None = None
        self._known: dict[str, Path] = {}

    def place(self, name: str) -> Path:
        """Return the path that a stamp has when it is written."""
        return self._folder / f"{name}.json"

    def known(self, name: str) -> Path | None:
        """Return the file that `file` returned for a stamp before, or None."""
        return self._known.get(name)

    def file(self, name: str, text: str, write: bool) -> Path:
        """Return a file with the stamp's text: its own, or a temporary one.

        It is a temporary one where the stamp has another text and `write` is false.

        Raises:
            UserError: the file system refused.
        """
        path = self.place(name)
        if write:
            write_if_changed(path, text)
        elif not (path.is_file() and path.read_text(encoding="utf-8") == text):
            path = self._temporary_folder() / f"{name}.json"
            write_if_changed(path, text)
        self._known[name] = path
        return path

    def _temporary_folder(self) -> Path:
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="frankenlab-stamps-")
            atexit.register(self._temporary.cleanup)
        return Path(self._temporary.name)


def local_data(given: CalibrationSettings | DataEntry | None) -> Any:
    """Return what identifies a file of this machine that a config names, with its worked examples;
    None for one of a package."""
    if given is None or given.source:
        return None
    examples = given.fewshot if isinstance(given, DataEntry) else None
    found = file_identity(given.file)
    return [found, file_identity(examples)] if examples else found


def task_facts(experiment: Experiment, task: str) -> dict[str, Any]:
    """Return what decides the prompts and the documents of a task, or of one under another prompt,
    before any limit."""
    settings, entry = experiment.task(task), experiment.task_entry(task)
    # Other prompts change nothing in the task itself, and a limit nothing in a prompt.
    config = {key: value for key, value in entry.plain().items() if key not in _NOT_ITS_PROMPT}
    file = task_file(settings.task, TASKS_FOLDER)
    own = [] if entry.data else local_files({**task_keys(file), **settings.overrides})
    return {
        "config": config | {"overrides": settings.overrides},
        "yaml": task_fingerprint(file),
        "data": local_data(entry.data),
        "files": {str(each): file_identity(each) for each in own},
        "draw": experiment.settings.stages.seed,
    }
