"""A task's data are there, and what their download's manifest says, before anything is scored."""

from pathlib import Path

import pytest

from frankenlab.evaluate.data import verify_data
from frankenlab.io.directories import make_directory
from frankenlab.io.errors import UserError
from frankenlab.tasks.index import TaskSettings

WHERE = {
    "data set of the hub": lambda folder: {"data_folder": folder},
    "file": lambda folder: {"data_file": folder / "test.parquet"},
    "worked examples": lambda folder: {"fewshot_file": folder / "test.parquet"},
}


@pytest.mark.parametrize("where", WHERE)
def test_data_that_are_missing_or_changed_are_refused(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "pack-1234"
    settings = TaskSettings("mine", "own", "guard", "acc", **WHERE[where](folder))
    with pytest.raises(UserError, match='task "mine": there is no .*; `snakemake fetch` downloads'):
        verify_data(settings)

    def fill(directory: Path) -> dict:
        (directory / "test.parquet").write_bytes(b"documents")
        return {}

    make_directory(folder, {"key": "k"}, fill)
    verify_data(settings)
    (folder / "test.parquet").write_bytes(b"documentS")
    with pytest.raises(UserError, match=r"test\.parquet: its content differs"):
        verify_data(settings)


def test_a_file_that_a_package_does_not_have_is_no_missing_download(tmp_path: Path) -> None:
    folder = tmp_path / "pack-1234"
    make_directory(folder, {"key": "k"}, lambda directory: (directory / "a").write_text("a") and {})
    settings = TaskSettings("mine", "own", "guard", "acc", folder / "d" / "test.parquet")
    with pytest.raises(UserError, match="not among the files of its package; see `file`"):
        verify_data(settings)
