"""The folders of results that workflows of a working folder have.

These are `results` and, where the workflow is a module with a `prefix:`, others like it. A run
notes its own beside the files that all experiments share.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from frankenlab.config.experiment import RESOURCES
from frankenlab.io.files import content_hash, write_if_changed

RESULTS = Path("results")
NOTED = RESOURCES / ".results"


def note(results: Path) -> None:
    """Note a folder of results, for others that look for who works in this folder.

    Raises:
        UserError: the file system refused.
    """
    if results != RESULTS:
        write_if_changed(NOTED / content_hash(str(results)), f"{results}\n")


def noted(folder: str | os.PathLike = ".") -> Iterator[Path]:
    """Yield the folders of results, as the workflows that ran in `folder` know them."""
    yield RESULTS
    for file in sorted(Path(folder, NOTED).glob("*")):
        with suppress(OSError, ValueError):
            if text := file.read_text(encoding="utf-8").strip():
                yield Path(text)
